"""Optimised Triton kernels for Hopper, one operator a file, each the twin of a file of the same
name in ``reference_impl/``: same public name, same signature, same bits."""

"""Pure PyTorch definitions of the operators: one file each, they read like the paper.

Every file of ``kernels/`` with the same name computes the same function.  Imports torch only; runs
on CPU and GPU.
"""

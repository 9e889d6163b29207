"""The commands behind the nox sessions, and asv's plugins.

Run a command as ``python -m harness.<name>``; everything that measures lies in :mod:`benchmarks`.
"""

"""What is measured and how: cases, comparator, clock, sweep, and the asv classes over them.

asv imports this package, as it is today, against the ``kernels`` and ``reference_impl`` of every
commit it measures.  Nothing here imports torch, triton or pandas at module level, since asv starts
a process for every value it records.
"""

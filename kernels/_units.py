"""Work over the rows of experts, counted in groups of rows that are there.

A buffer is made for the worst routing, so most of it has no rows, and a program for each part of it
would find nothing to do.  Here groups of ROWS rows, none of two experts, are numbered expert by expert,
and a program looks up where the group with a number lies.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels._grouped import held


@triton.jit
def groups(
    counts_ptr, experts, rows, capacity,
    ROWS: tl.constexpr, EXPERTS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """([EXPERTS] rows of each expert, [EXPERTS] groups of the experts up to each).

    counts_ptr: [experts] int32.  EXPERTS: experts, up to a power of two.  MASKED: at most ``capacity`` of
    an expert's rows are there (docs/decisions/0004).
    """
    places = tl.arange(0, EXPERTS)
    counts = tl.load(counts_ptr + places, mask=places < experts, other=0)
    counts = held(counts, capacity if MASKED else rows)
    return counts, tl.cumsum((counts + ROWS - 1) // ROWS, axis=0)


@triton.jit
def total(lasts, rows, ROWS: tl.constexpr, MASKED: tl.constexpr):
    """How many groups there are; of segments no more than the buffer has room for."""
    found = tl.max(lasts, axis=0)
    if not MASKED:
        found = tl.minimum(found, tl.cdiv(rows, ROWS))
    return found


@triton.jit
def find(
    counts, lasts, rows, capacity, group,
    ROWS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """(first row of ``group``, end of the rows of its expert, at most ``rows``)."""
    own_groups = (counts + ROWS - 1) // ROWS
    if MASKED:
        spans = capacity
    else:
        spans = (counts + 127) // 128 * 128
    # What the rows of the experts before take, beyond their groups.
    more = tl.sum(tl.where(lasts <= group, spans - own_groups * ROWS, 0), axis=0)
    # Rows of its expert from here on.
    firsts = lasts - own_groups
    own = (firsts <= group) & (group < lasts)
    left = tl.sum(tl.where(own, counts - (group - firsts) * ROWS, 0), axis=0)
    first = group * ROWS + more
    # Behind the buffer, where counts say so, or where padding takes the sum past 32 bits.
    first = tl.where((first >= 0) & (first < rows), first, rows)
    return first, first + tl.minimum(left, rows - first)


@triton.jit
def share(total):
    """(first, end) of this program's share of ``total`` things; shares differ by one at most."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    each, more = total // programs, total % programs
    first = program * each + tl.minimum(program, more)
    return first, first + each + (program < more).to(tl.int32)

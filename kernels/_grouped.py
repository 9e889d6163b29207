"""Where the rows of each expert lie, on the device; the twin of reference_impl/_grouped.py."""

from __future__ import annotations

import triton
import triton.language as tl

ALIGNMENT = 128


def expert_rows(tokens: int, topk: int, experts: int) -> int:
    """Rows that hold ``topk`` rows of each token, however they fall on the experts.

    At most ``tokens * topk`` experts have a segment, and each adds at most ALIGNMENT - 1 rows.
    """
    routed = tokens * topk
    most = routed + min(experts, routed) * (ALIGNMENT - 1)
    return most // ALIGNMENT * ALIGNMENT


@triton.jit
def segment_ends(counts_ptr, experts, EXPERTS: tl.constexpr):
    """[EXPERTS] int32: the end of each expert's segment.  EXPERTS: experts, up to a power of two."""
    places = tl.arange(0, EXPERTS)
    counts = tl.load(counts_ptr + places, mask=places < experts, other=0)
    return tl.cumsum((counts + 127) // 128 * 128, axis=0)


@triton.jit
def owner(counts_ptr, ends, experts, row):
    """(expert, first row of its segment, end of its rows) for a ``row`` of the buffer.

    ends: of :func:`segment_ends`.  Past the last segment the expert is ``experts`` and the rows end
    at 0, so that no row is inside.
    """
    expert = tl.sum((ends <= row).to(tl.int32), axis=0)
    # Segments of the experts before this one: the largest end that is not past the row.
    start = tl.max(tl.where(ends <= row, ends, 0), axis=0)
    # Padded experts of the vector have the last one's end, and count as well.
    expert = tl.minimum(expert, experts)
    count = tl.load(counts_ptr + expert, mask=expert < experts, other=0)
    end = tl.where(expert < experts, start + count, 0)
    return expert, start, end

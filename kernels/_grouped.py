"""Where the rows of each expert lie, on the device; the twin of reference_impl/_grouped.py."""

from __future__ import annotations

import triton
import triton.language as tl

ALIGNMENT = 128
# E * R at most: there are E * (R / 4 + 1) groups of 4 rows then at most, which 32 bits hold.
MOST_SUMMED = 1 << 32


def expert_rows(tokens: int, topk: int, experts: int) -> int:
    """Rows that hold ``topk`` rows of each token, however they fall on the experts.

    At most ``tokens * topk`` experts have a segment, and each adds at most ALIGNMENT - 1 rows.
    """
    routed = tokens * topk
    most = routed + min(experts, routed) * (ALIGNMENT - 1)
    return most // ALIGNMENT * ALIGNMENT


@triton.jit
def held(counts, rows):
    """``counts`` as they count: negative ones are 0, and none is larger than the buffer.

    What is cut is behind the buffer anyway, and so is what comes after it (docs/decisions/0004).
    """
    return tl.minimum(tl.maximum(counts, 0), rows)


@triton.jit
def segment_ends(counts_ptr, experts, rows, EXPERTS: tl.constexpr):
    """[EXPERTS] int32: the end of each expert's segment, or of the buffer's last 128 ``rows``.

    EXPERTS: experts, up to a power of two.
    """
    places = tl.arange(0, EXPERTS)
    counts = held(tl.load(counts_ptr + places, mask=places < experts, other=0), rows)
    # Summed as multiples of 128, of which MOST_SUMMED leaves 32 bits room for.
    ends = tl.cumsum((counts + 127) >> 7, axis=0)
    return tl.minimum(ends, (rows + 127) >> 7) << 7


@triton.jit
def owner(counts_ptr, ends, experts, rows, row):
    """(expert, first row of its segment, end of its rows) for a ``row`` of the buffer's ``rows``.

    ends: of :func:`segment_ends`.  Past the last segment the expert is ``experts`` and the rows end
    at 0, so that no row is inside.
    """
    expert = tl.sum((ends <= row).to(tl.int32), axis=0)
    # Segments of the experts before this one: the largest end that is not past the row.
    start = tl.max(tl.where(ends <= row, ends, 0), axis=0)
    # Padded experts of the vector have the last one's end, and count as well.
    expert = tl.minimum(expert, experts)
    count = tl.load(counts_ptr + expert, mask=expert < experts, other=0)
    end = tl.where(expert < experts, start + held(count, rows - start), 0)
    return expert, start, end

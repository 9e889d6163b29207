"""Rows of several experts in one buffer: where each expert's segment lies (docs/decisions/0004).

Expert after expert; expert e has ``counts[e]`` rows, none where that is negative, and its segment is
that long, rounded up to ``ALIGNMENT``.  What lies between its rows and the next segment is padding,
which nobody reads.  Rows past the end of the buffer are nobody's.

Shapes: E experts, R rows of the buffer.
"""

from __future__ import annotations

import torch

ALIGNMENT = 128


def expert_rows(tokens: int, topk: int, experts: int) -> int:
    """Rows that hold ``topk`` rows of each token, however they fall on the experts.

    At most ``tokens * topk`` experts have a segment, and each adds at most ALIGNMENT - 1 rows.
    """
    routed = tokens * topk
    most = routed + min(experts, routed) * (ALIGNMENT - 1)
    return most // ALIGNMENT * ALIGNMENT


def segment_starts(counts: torch.Tensor) -> torch.Tensor:
    """[E + 1] int64: the first row of each expert's segment, and the end of the last one's."""
    lengths = (counts.long().clamp(min=0) + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def rows_of_experts(counts: torch.Tensor, rows: int) -> list[torch.Tensor]:
    """For each expert the indices, int64, of its rows that fit a buffer of ``rows`` rows."""
    starts = segment_starts(counts).tolist()
    return [
        torch.arange(min(start, rows), min(start + max(count, 0), rows), device=counts.device)
        for start, count in zip(starts, counts.tolist(), strict=False)
    ]


def standing(slot: torch.Tensor, rows: int) -> torch.Tensor:
    """[T, K] bool: which slots are rows of a buffer of ``rows`` rows; the others stand nowhere."""
    return (slot >= 0) & (slot < rows)

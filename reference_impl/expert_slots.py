"""Which row of the experts' buffer each token stands in (DeepSeek-V3 report, section 2.1.2).

Expert after expert, and within an expert in the order of (token, k)::

    counts[e] = number of entries of topk_idx that are e
    slot[t, k] = start[e] + number of entries e before (t, k)        e = topk_idx[t, k]

start[e] is where the segment of expert e begins: each segment is counts[e] rows, rounded up to 128
(docs/decisions/0004).  With a ``capacity`` C the buffer is [E, C, ...] instead: start[e] = e C, and
what comes after an expert's first C entries has no slot; counts still counts it.

An entry of -1 is not routed, or went to an expert of another GPU: its slot is -1.  So is that of any
other number that is no expert here, below -1 or from E on.  An expert that stands twice in a token's
list has two rows of that token.

Shapes: T tokens, K experts a token, E experts.
"""

from __future__ import annotations

import torch

from reference_impl._grouped import segment_starts


def expert_slots(
    topk_idx: torch.Tensor, num_experts: int, capacity: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each entry of the tokens' lists of experts a row, in expert order.

    topk_idx: [T, K] int64, contiguous; K from 1 to 32.
    num_experts: E, from 1 to 1024.
    capacity: rows of each expert in a masked buffer; None for segments after one another.

    Returns (slot [T, K] int32, counts [E] int32).
    """
    flat = topk_idx.flatten()
    slot = torch.full_like(flat, -1, dtype=torch.int32)
    counts = torch.stack([(flat == expert).sum() for expert in range(num_experts)])
    starts = segment_starts(counts).tolist()
    for expert in range(num_experts):
        mine = (flat == expert).nonzero()[:capacity, 0]
        start = starts[expert] if capacity is None else expert * capacity
        slot[mine] = torch.arange(start, start + len(mine), dtype=torch.int32, device=slot.device)
    return slot.reshape(topk_idx.shape), counts.int()

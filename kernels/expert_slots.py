"""Which row of the experts' buffer each token stands in; the twin of reference_impl/expert_slots.py.

Bound: latency.  Plan: the entries of topk_idx are cut into at most 128 chunks, in order.  One launch
counts each chunk's entries by expert into a table [chunks, E].  In the second every program sums up
the table for itself, all of it for the segments and the chunks before its own for its ranks, then
walks over its chunk 128 entries at a time: an entry's rank among these comes from comparing all
pairs, and the counts go on by their histogram.  So there is no atomic whose order shows, and nothing
that must be zero before.  Up to 512 entries (64 tokens of 8) are one chunk, and one launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _chain, _check
from kernels._device import Plan, Plans, layout
from kernels._grouped import ALIGNMENT, expert_rows
from kernels._slots import MAX_ROWS, MAX_TOPK

PAIRS = 128  # entries compared with one another
CHUNKS = 128
ALONE = 512  # entries that one program places without a table
PIECE = 1024  # entries counted at once
TABLE = 8192  # numbers of the table summed at once
MAX_EXPERTS = 1024
WARPS = 4

_plans = Plans()


@triton.jit
def _entries(idx_ptr, places, end, experts):
    """(expert, or 0 where there is none here; whether there is one) of the entries at ``places``."""
    # Compared as the 64 bits they are: 2^32 + 3 is not expert 3.
    ids = tl.load(idx_ptr + places, mask=places < end, other=-1)
    routed = (ids >= 0) & (ids < experts)
    return tl.where(routed, ids, 0).to(tl.int32), routed


@triton.jit
def _count_kernel(
    idx_ptr, table_ptr, entries, experts, chunk,
    EXPERTS: tl.constexpr, PIECE: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    _chain.begin(CHAIN)
    first = tl.program_id(0).to(tl.int64) * chunk
    end = tl.minimum(first + chunk, entries)
    counts = tl.zeros([EXPERTS], tl.int32)
    for start in range(0, chunk, PIECE):
        ids, routed = _entries(idx_ptr, first + start + tl.arange(0, PIECE), end, experts)
        counts += tl.histogram(ids, EXPERTS, mask=routed)
    tl.store(table_ptr + tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS), counts)


@triton.jit
def _place_kernel(
    idx_ptr, table_ptr, slot_ptr, counts_ptr, entries, experts, chunk, chunks, capacity,
    ALONE: tl.constexpr, MASKED: tl.constexpr, EXPERTS: tl.constexpr, PIECE: tl.constexpr,
    PAIRS: tl.constexpr, ROWS: tl.constexpr, ALIGNMENT: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    _chain.begin(CHAIN)
    own = tl.program_id(0)
    first = own.to(tl.int64) * chunk
    end = tl.minimum(first + chunk, entries)
    columns = tl.arange(0, EXPERTS)
    before = tl.zeros([EXPERTS], tl.int32)
    counts = tl.zeros([EXPERTS], tl.int32)
    if ALONE:
        # Not ``ids``: the loop below has those, of another shape, and Triton a type for each name.
        every, known = _entries(idx_ptr, first + tl.arange(0, PIECE), end, experts)
        counts += tl.histogram(every, EXPERTS, mask=known)
    else:
        for start in range(0, chunks, ROWS):
            rows = start + tl.arange(0, ROWS)
            table = tl.load(
                table_ptr + rows[:, None] * EXPERTS + columns[None, :],
                mask=(rows < chunks)[:, None] & (columns < EXPERTS)[None, :], other=0,
            )  # fmt: skip
            counts += tl.sum(table, axis=0)
            before += tl.sum(tl.where((rows < own)[:, None], table, 0), axis=0)
    tl.store(counts_ptr + columns, counts, mask=(columns < experts) & (own == 0))
    if not MASKED:
        segments = (counts + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT
        before += tl.cumsum(segments, axis=0) - segments
    order = tl.arange(0, PAIRS)
    # Of each pair the earlier along the first axis: its sum stays inside a thread, but for the warps.
    earlier = order[:, None] < order[None, :]
    for start in range(0, chunk, PAIRS):
        places = first + start + order
        ids, routed = _entries(idx_ptr, places, end, experts)
        # Of entries that are no expert's the rank counts for nothing, but their 0 must not count.
        own_ids = tl.where(routed, ids, -1)
        alike = (own_ids[:, None] == own_ids[None, :]) & earlier
        slot = tl.gather(before, ids, 0) + tl.sum(alike.to(tl.int32), axis=0)
        if MASKED:
            placed = routed & (slot < capacity)
            slot += ids * capacity
        else:
            placed = routed
        tl.store(slot_ptr + places, tl.where(placed, slot, -1), mask=places < end)
        before += tl.histogram(ids, EXPERTS, mask=routed)


def expert_slots(
    topk_idx: torch.Tensor, num_experts: int, capacity: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each entry of the tokens' lists of experts a row, in expert order.

    topk_idx: [T, K] int64, contiguous; K from 1 to 32.
    num_experts: E, from 1 to 1024.
    capacity: rows of each expert in a masked buffer; None for segments after one another.

    Returns (slot [T, K] int32, counts [E] int32).  A number that is no expert, -1 or any other, has
    slot -1.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    key = layout((topk_idx,), num_experts, capacity)
    plans = _plans.get(key) or _plans.keep(key, _checked_plans(topk_idx, num_experts, capacity))
    device = topk_idx.device
    slot = torch.empty(topk_idx.shape, dtype=torch.int32, device=device)
    counts = torch.empty(num_experts, dtype=torch.int32, device=device)
    count, place, table_shape = plans
    if count is None:
        place(device, topk_idx, counts, slot, counts)  # no table is looked at
    else:
        table = torch.empty(table_shape, dtype=torch.int32, device=device)
        count(device, topk_idx, table)
        place(device, topk_idx, table, slot, counts)
    return slot, counts


def _checked_plans(
    topk_idx: torch.Tensor, num_experts: int, capacity: int | None
) -> tuple[Plan | None, Plan, tuple[int, int]]:
    """(the counting launch, or None; the placing launch; shape of the table between them)."""
    _check.tensor("topk_idx", topk_idx, (torch.int64,), (None, None))
    _check.contiguous("topk_idx", topk_idx)
    tokens, topk = topk_idx.shape
    _check.whole("topk_idx: K", topk, 1, MAX_TOPK)
    _check.whole("num_experts", num_experts, 1, MAX_EXPERTS)
    if capacity is None:
        _check.whole("topk_idx: rows", expert_rows(tokens, topk, num_experts), 0, MAX_ROWS)
    else:
        _check.whole("capacity", capacity, 1, MAX_ROWS // num_experts)
    _check.runnable("topk_idx", topk_idx)
    return _plans_of(tokens * topk, num_experts, capacity)


def _plans_of(
    entries: int, num_experts: int, capacity: int | None
) -> tuple[Plan | None, Plan, tuple[int, int]]:
    alone = entries <= ALONE
    chunk = max(1, triton.cdiv(triton.cdiv(entries, PAIRS), 1 if alone else CHUNKS)) * PAIRS
    chunks = max(1, triton.cdiv(entries, chunk))
    experts = max(32, triton.next_power_of_2(num_experts))  # a histogram has a bin a lane
    piece = min(PIECE, triton.next_power_of_2(chunk))
    chain = _chain.mode("expert_slots")
    count = Plan(
        _count_kernel, (chunks,), (entries, num_experts, chunk),
        {"EXPERTS": experts, "PIECE": piece, "CHAIN": chain}, num_warps=WARPS, **_chain.options(chain),
    )  # fmt: skip
    place = Plan(
        _place_kernel, (chunks,), (entries, num_experts, chunk, chunks, capacity or 0),
        {
            "ALONE": alone, "MASKED": capacity is not None, "EXPERTS": experts, "PIECE": piece,
            "PAIRS": PAIRS, "ROWS": TABLE // experts, "ALIGNMENT": ALIGNMENT, "CHAIN": chain,
        }, num_warps=WARPS, **_chain.options(chain),
    )  # fmt: skip
    return (None if alone else count), place, (chunks, experts)

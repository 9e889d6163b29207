"""Rows of experts back to their tokens; the twin of reference_impl/unpermute.py.

Bound: memory.  K rows of 2 H bytes read for one of 2 H written.
Plan: one program takes one token, 1024 channels at a time: its K slots once, then K loads of 16 bytes a
thread, which do not wait for one another, then the sum in the order of k, in registers.  For few tokens
it takes 1024 channels in all, since there are not enough tokens to fill the GPU.  A token that has no
row here, as most have none on one rank of many, is zeros, without a load that is masked.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _check, _slots
from kernels._device import Plan, Plans, layout

MANY = 1024  # tokens that fill the GPU by themselves
STEPS = 8  # of 1024 channels, of one program then, at most

_plans = Plans()


@triton.jit
def _each(ptr, COUNT: tl.constexpr):
    """Tuple of the COUNT numbers from ``ptr`` on."""
    found = ()
    for k in tl.static_range(COUNT):
        found = found + _tuple(tl.load(ptr + k))
    return found


@triton.jit
def _tuple(one):
    """What a tuple grows by: Triton knows sums of tuples alone."""
    return (one,)


@triton.jit
def _unpermute_kernel(
    rows_ptr, slot_ptr, weight_ptr, out_ptr, num_rows, channels, stride_rows,
    WEIGHTS: tl.constexpr, TOPK: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    spans = tl.cdiv(channels, STEPS * BLOCK)
    span = tl.program_id(0) % spans
    token = (tl.program_id(0) // spans).to(tl.int64)
    slots = _each(slot_ptr + token * TOPK, TOPK)
    routed = 0
    for k in tl.static_range(TOPK):
        routed |= (slots[k] >= 0) & (slots[k] < num_rows)
    if routed:
        weights = _each(weight_ptr + token * TOPK, TOPK) if WEIGHTS else slots
        for step in range(STEPS):
            columns = (span * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
            held = columns < channels
            acc = tl.zeros([BLOCK], tl.float32)
            for k in tl.static_range(TOPK):
                slot = slots[k]
                inside = (slot >= 0) & (slot < num_rows)
                row = tl.load(
                    rows_ptr + slot.to(tl.int64) * stride_rows + columns,
                    mask=held & inside, other=0.0,
                ).to(tl.float32)  # fmt: skip
                if WEIGHTS:
                    total = tl.fma(tl.full([BLOCK], 0.0, tl.float32) + weights[k], row, acc)
                else:
                    total = acc + row
                acc = tl.where(inside, total, acc)
            tl.store(out_ptr + token * channels + columns, acc.to(tl.bfloat16), mask=held)
    else:
        nothing = tl.zeros([BLOCK], tl.bfloat16)
        for step in range(STEPS):
            columns = (span * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
            tl.store(out_ptr + token * channels + columns, nothing, mask=columns < channels)


def unpermute(
    rows: torch.Tensor, slot: torch.Tensor, topk_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum up each token's rows, weighted, in fp32 and in the order of k.

    rows: [R, H] bf16, stride 1 along H; H a multiple of 128.
    slot: [T, K] int32, contiguous: the row of each of a token's experts.
    topk_weights: [T, K] fp32, contiguous; None where ``swiglu_quant`` has applied them.

    Returns out [T, H] bf16.  A slot that is negative or at least R is skipped, whatever its weight;
    a token without any gets zeros.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    given = (rows, slot) if topk_weights is None else (rows, slot, topk_weights)
    key = layout(given, topk_weights is None)
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(rows, slot, topk_weights))
    tokens, channels = slot.shape[0], rows.shape[1]
    out = torch.empty(tokens, channels, dtype=torch.bfloat16, device=rows.device)
    if tokens:
        plan(rows.device, rows, slot, topk_weights, out)
    return out


def _checked_plan(
    rows: torch.Tensor, slot: torch.Tensor, topk_weights: torch.Tensor | None
) -> Plan:
    _check.tensor("rows", rows, (torch.bfloat16,), (None, None))
    _check.rows_contiguous("rows", rows)
    num_rows, channels = rows.shape
    _slots.channels("rows", channels)
    _slots.slots(slot, None)
    others = [("slot", slot)]
    if topk_weights is not None:
        _slots.weights(topk_weights, slot)
        others.append(("topk_weights", topk_weights))
    _check.runnable("rows", rows, *others)
    tokens, topk = slot.shape
    chunks = triton.cdiv(channels, _slots.BLOCK)
    steps = min(STEPS, chunks) if tokens >= MANY else 1
    return Plan(
        _unpermute_kernel, (tokens * triton.cdiv(chunks, steps),),
        (num_rows, channels, rows.stride(0)),
        {"WEIGHTS": topk_weights is not None, "TOPK": topk, "BLOCK": _slots.BLOCK, "STEPS": steps},
        num_warps=_slots.warps(rows.dtype), enable_fp_fusion=False,
    )  # fmt: skip

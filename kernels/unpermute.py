"""Rows of experts back to their tokens; the twin of reference_impl/unpermute.py.

Bound: memory.  K rows of 2 H bytes read for one of 2 H written.
Plan: one program takes one token, 1024 channels at a time: its K slots once, then K loads of 16 bytes a
thread, which do not wait for one another, then the sum in the order of k, in registers.  For few tokens
it takes 1024 channels in all, since there are not enough tokens to fill the GPU.  A token that has no
row here, as most have none on one rank of many, is zeros, without a load that is masked.  To add to the
sum here saves a pass over both.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _chain, _check, _slots
from kernels._device import Plan, Plans, layout

MANY = 1024  # tokens that fill the GPU by themselves
STEPS = 4  # of 1024 channels, of one program then, at most, where nothing is weighted

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
    rows_ptr, slot_ptr, weight_ptr, addend_ptr, out_ptr, num_rows, channels, stride_rows, stride_addend,
    WEIGHTS: tl.constexpr, ADDEND: tl.constexpr, TOPK: tl.constexpr, BLOCK: tl.constexpr,
    STEPS: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    _chain.begin(CHAIN)
    spans = tl.cdiv(channels, STEPS * BLOCK)
    span = tl.program_id(0) % spans
    token = (tl.program_id(0) // spans).to(tl.int64)
    out, addend = out_ptr + token * channels, addend_ptr
    if ADDEND:
        addend += token * stride_addend
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
            _write(acc, addend, out, columns, held, ADDEND)
    else:
        for step in range(STEPS):
            columns = (span * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
            nothing = tl.zeros([BLOCK], tl.float32)
            _write(nothing, addend, out, columns, columns < channels, ADDEND)


@triton.jit
def _write(total, addend, out, columns, held, ADDEND: tl.constexpr):
    """bf16 of ``total``, and of that plus the addend: two roundings."""
    if ADDEND:
        more = tl.load(addend + columns, mask=held, other=0.0).to(tl.float32)
        total = total.to(tl.bfloat16).to(tl.float32) + more
    tl.store(out + columns, total.to(tl.bfloat16), mask=held)


def unpermute(
    rows: torch.Tensor,
    slot: torch.Tensor,
    topk_weights: torch.Tensor | None = None,
    addend: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum up each token's rows, weighted, in fp32 and in the order of k.

    rows: [R, H] bf16, stride 1 along H; H a multiple of 128.
    slot: [T, K] int32, contiguous: the row of each of a token's experts.
    topk_weights: [T, K] fp32, contiguous; None where ``swiglu_quant`` has applied them.
    addend: [T, H] bf16, stride 1 along H, to be added to the sum once this is bf16; or None.

    Returns out [T, H] bf16.  A slot that is negative or at least R is skipped, whatever its weight;
    the sum of a token without any is 0.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    given = tuple(part for part in (rows, slot, topk_weights, addend) if part is not None)
    key = layout(given, topk_weights is None, addend is None)
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(rows, slot, topk_weights, addend))
    tokens, channels = slot.shape[0], rows.shape[1]
    out = torch.empty(tokens, channels, dtype=torch.bfloat16, device=rows.device)
    if tokens:
        plan(rows.device, rows, slot, topk_weights, addend, out)
    return out


def _checked_plan(
    rows: torch.Tensor,
    slot: torch.Tensor,
    topk_weights: torch.Tensor | None,
    addend: torch.Tensor | None,
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
    if addend is not None:
        _check.tensor("addend", addend, (torch.bfloat16,), (slot.shape[0], channels))
        _check.rows_contiguous("addend", addend)
        others.append(("addend", addend))
    _check.runnable("rows", rows, *others)
    tokens, topk = slot.shape
    chunks = triton.cdiv(channels, _slots.BLOCK)
    steps = min(STEPS, chunks) if tokens >= MANY and topk_weights is None else 1
    chain = _chain.mode("unpermute")
    return Plan(
        _unpermute_kernel, (tokens * triton.cdiv(chunks, steps),),
        (num_rows, channels, rows.stride(0), 0 if addend is None else addend.stride(0)),
        {
            "WEIGHTS": topk_weights is not None, "ADDEND": addend is not None, "TOPK": topk,
            "BLOCK": _slots.BLOCK, "STEPS": steps, "CHAIN": chain,
        },
        num_warps=_slots.warps(rows.dtype), enable_fp_fusion=False, **_chain.options(chain),
    )  # fmt: skip

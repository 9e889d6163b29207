"""The gradient of unpermute with weights; the twin of reference_impl/unpermute_backward.py.

Bound: memory.  A token's gradient read once, and K rows of 2 H bytes each read and written.
Plan: one program takes one token and walks over its channels, 1024 at a time: the gradient and the K
rows by 16 bytes a thread, K products stored, K times 1024 sums in registers.  The sums of a row are
added in pairs at the end, an addition of two numbers at a time, so that no layout decides the order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _check, _slots
from kernels._device import Plan, Plans, layout

LANES = _slots.BLOCK
HALVINGS = LANES.bit_length() - 1

_plans = Plans()


@triton.jit
def _unpermute_backward_kernel(
    grad_ptr, rows_ptr, slot_ptr, weight_ptr, grad_rows_ptr, grad_weight_ptr,
    num_rows, channels, topk, stride_grad, stride_rows,
    TOPK: tl.constexpr, LANES: tl.constexpr, HALVINGS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, TOPK)
    listed = places < topk
    slot = tl.load(slot_ptr + token * topk + places, mask=listed, other=-1)
    inside = (slot >= 0) & (slot < num_rows)
    routed = tl.max(inside.to(tl.int32), axis=0) > 0
    weight = tl.load(weight_ptr + token * topk + places, mask=inside, other=0.0)
    row = slot.to(tl.int64)[:, None]
    acc = tl.zeros([TOPK, LANES], tl.float32)
    for start in range(0, channels, LANES):
        columns = start + tl.arange(0, LANES)
        held = columns < channels
        grad = tl.load(grad_ptr + token * stride_grad + columns, mask=held & routed, other=0.0).to(
            tl.float32
        )
        mask = inside[:, None] & held[None, :]
        rows = tl.load(rows_ptr + row * stride_rows + columns[None, :], mask=mask, other=0.0)
        grad = tl.broadcast_to(grad[None, :], (TOPK, LANES))
        acc = tl.fma(grad, rows.to(tl.float32), acc)
        product = (weight[:, None] * grad).to(tl.bfloat16)
        tl.store(grad_rows_ptr + row * channels + columns[None, :], product, mask=mask)
    for step in tl.static_range(HALVINGS):
        pairs = tl.reshape(acc, (TOPK, LANES >> (step + 1), 2))
        acc = tl.sum(pairs, axis=2)
    total = tl.reshape(acc, (TOPK,))
    # Where there is no row, what its lanes hold is 0 times the gradient.
    tl.store(grad_weight_ptr + token * topk + places, tl.where(inside, total, 0.0), mask=listed)


def unpermute_backward(
    grad: torch.Tensor, rows: torch.Tensor, slot: torch.Tensor, topk_weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the rows and of the weights from that of the tokens' sums.

    grad: [T, H] bf16, stride 1 along H; H a multiple of 128.
    rows: [R, H] bf16, stride 1 along H, as ``unpermute`` had it.
    slot: [T, K] int32, contiguous; no row stands in it twice.
    topk_weights: [T, K] fp32, contiguous.

    Returns (grad_rows [R, H] bf16, grad_weights [T, K] fp32).  A slot that is negative or at least R
    stands nowhere: its weight's gradient is 0.  Rows in which no slot stands are not written.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    key = layout((grad, rows, slot, topk_weights))
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(grad, rows, slot, topk_weights))
    grad_rows = torch.empty(rows.shape, dtype=torch.bfloat16, device=grad.device)
    grad_weights = torch.empty(slot.shape, dtype=torch.float32, device=grad.device)
    if grad.shape[0]:
        plan(grad.device, grad, rows, slot, topk_weights, grad_rows, grad_weights)
    return grad_rows, grad_weights


def _checked_plan(
    grad: torch.Tensor, rows: torch.Tensor, slot: torch.Tensor, topk_weights: torch.Tensor
) -> Plan:
    _check.tensor("grad", grad, (torch.bfloat16,), (None, None))
    _check.rows_contiguous("grad", grad)
    tokens, channels = grad.shape
    _slots.channels("grad", channels)
    _check.tensor("rows", rows, (torch.bfloat16,), (None, channels))
    _check.rows_contiguous("rows", rows)
    _slots.slots(slot, tokens)
    _slots.weights(topk_weights, slot)
    _check.runnable("grad", grad, ("rows", rows), ("slot", slot), ("topk_weights", topk_weights))
    topk = slot.shape[1]
    return Plan(
        _unpermute_backward_kernel, (tokens,),
        (rows.shape[0], channels, topk, grad.stride(0), rows.stride(0)),
        {"TOPK": triton.next_power_of_2(topk), "LANES": LANES, "HALVINGS": HALVINGS},
        num_warps=_slots.warps(rows.dtype), enable_fp_fusion=False,
    )  # fmt: skip

"""The mixture of experts layer, from its operators; the twin of reference_impl/_moe.py.

Bound: the sum of its operators.  No step waits for the device or loops over experts on the host.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from kernels._device import beside
from kernels._grouped import ALIGNMENT, expert_rows
from kernels.act_quant import act_quant
from kernels.act_quant_transpose import act_quant_transpose
from kernels.expert_slots import expert_slots
from kernels.fp8_gemm import fp8_gemm
from kernels.grouped_gemm_contiguous import grouped_gemm_contiguous
from kernels.grouped_gemm_masked import grouped_gemm_masked
from kernels.grouped_gemm_wgrad import grouped_gemm_wgrad
from kernels.permute import permute
from kernels.swiglu_quant import swiglu_quant
from kernels.swiglu_quant_backward import swiglu_quant_backward
from kernels.topk_gate import choose, topk_gate
from kernels.topk_gate_backward import topk_gate_backward
from kernels.unpermute import unpermute

Sums = tuple[torch.Tensor | None, ...]  # one for each of the four payloads
NONE: Sums = (None, None, None, None)


class Weights(NamedTuple):
    """Payloads e4m3 and their 128x128 scales, as ``moe_layer`` takes them, in its order."""

    gate_up: torch.Tensor
    gate_up_scale: torch.Tensor
    down: torch.Tensor
    down_scale: torch.Tensor
    shared_gate_up: torch.Tensor
    shared_gate_up_scale: torch.Tensor
    shared_down: torch.Tensor
    shared_down_scale: torch.Tensor


class Transposed(NamedTuple):
    """The payloads once more, with output and input channels exchanged; their scales are views."""

    gate_up: torch.Tensor
    down: torch.Tensor
    shared_gate_up: torch.Tensor
    shared_down: torch.Tensor


class Options(NamedTuple):
    """Of the router: ``topk_gate`` has their meaning."""

    topk: int
    num_groups: int
    num_limited_groups: int
    route_scale: float


class Activations(NamedTuple):
    """What the layer holds between the products of gate and up, and what a backward needs of it.

    gate_up: [R, 2I] bf16 with gate_up_scale None, or the cache, e4m3 with scales; so for the shared
    expert, [T, 2Is].  All else: x quantised and where its tokens went.
    """

    x: torch.Tensor
    x_scale: torch.Tensor
    topk_idx: torch.Tensor
    slot: torch.Tensor
    counts: torch.Tensor
    row_weight: torch.Tensor
    gate_up: torch.Tensor
    gate_up_scale: torch.Tensor | None
    shared_gate_up: torch.Tensor
    shared_gate_up_scale: torch.Tensor | None


def into_experts(
    x: torch.Tensor, logits: torch.Tensor, bias: torch.Tensor, w: Weights, options: Options
) -> Activations:
    """From the tokens to gate and up, in bf16."""
    topk_idx, topk_weights, _ = topk_gate(logits, bias, *options)
    x_q, x_scale = act_quant(x, pow2_scale=True)
    experts = w.gate_up.shape[0]
    slot, counts = expert_slots(topk_idx, experts)
    rows, rows_scale, row_weight = permute(
        x_q, x_scale, slot, expert_rows(x.shape[0], options.topk, experts), topk_weights
    )
    assert rows_scale is not None
    assert row_weight is not None
    gate_up = grouped_gemm_contiguous(rows, rows_scale, w.gate_up, w.gate_up_scale, counts)
    shared = fp8_gemm(x_q, x_scale, w.shared_gate_up, w.shared_gate_up_scale)
    return Activations(
        x_q, x_scale, topk_idx, slot, counts, row_weight, gate_up, None, shared, None
    )


def cached(a: Activations) -> Activations:
    """Gate and up in e4m3, so that nothing is left in bf16."""
    gate_up, gate_up_scale = act_quant(a.gate_up, pow2_scale=True, counts=a.counts)
    shared, shared_scale = act_quant(a.shared_gate_up, pow2_scale=True)
    return a._replace(
        gate_up=gate_up, gate_up_scale=gate_up_scale,
        shared_gate_up=shared, shared_gate_up_scale=shared_scale,
    )  # fmt: skip


def hidden(a: Activations) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """(h of the experts' rows, h of the shared expert), each payload and scales."""
    routed = swiglu_quant(a.gate_up, a.gate_up_scale, a.counts, a.row_weight, pow2_scale=True)
    shared = swiglu_quant(a.shared_gate_up, a.shared_gate_up_scale, pow2_scale=True)
    return routed, shared


def out_of_experts(a: Activations, w: Weights) -> torch.Tensor:
    """From gate and up to the tokens: [T, H] bf16."""
    routed, shared = hidden(a)
    rows = grouped_gemm_contiguous(*routed, w.down, w.down_scale, a.counts)
    other = fp8_gemm(*shared, w.shared_down, w.shared_down_scale)
    return unpermute(rows, a.slot, addend=other)


def masked(
    x: torch.Tensor, logits: torch.Tensor, bias: torch.Tensor, w: Weights, options: Options,
    capacity: int,
) -> torch.Tensor:  # fmt: skip
    """From the tokens to the tokens through a masked buffer [E, C, ...]."""
    if not x.shape[0]:
        return torch.empty_like(x)
    x_q, x_scale = act_quant(x, pow2_scale=True)
    # Beside the routing's small kernels, which leave the memory idle.
    with beside(x.device) as joined:
        shared = fp8_gemm(x_q, x_scale, w.shared_gate_up, w.shared_gate_up_scale)
        shared_h = swiglu_quant(shared, pow2_scale=True)
        shared = fp8_gemm(*shared_h, w.shared_down, w.shared_down_scale)
    buffer = (w.gate_up.shape[0], capacity)
    found, topk_weights, counts = choose(logits, bias, *options, capacity)
    # One token's slots come with its choice.
    slot, counts = (found, counts) if counts is not None else expert_slots(found, *buffer)
    rows, rows_scale, row_weight = permute(
        x_q, x_scale, slot, buffer[0] * capacity, topk_weights
    )  # fmt: skip
    assert rows_scale is not None
    gate_up = grouped_gemm_masked(
        rows.unflatten(0, buffer),
        rows_scale.unflatten(0, buffer),
        w.gate_up,
        w.gate_up_scale,
        counts,
    )
    h, h_scale = swiglu_quant(
        gate_up.flatten(0, 1), None, counts, row_weight, pow2_scale=True, capacity=capacity
    )
    rows = grouped_gemm_masked(
        h.unflatten(0, buffer), h_scale.unflatten(0, buffer), w.down, w.down_scale, counts
    )
    return unpermute(rows.flatten(0, 1), slot, addend=joined(shared))


def transpose(w: Weights) -> Transposed:
    """Copies of the payloads, output and input channels exchanged."""
    return transposed(w, NONE)


def transposed(w: Weights, given: Sums) -> Transposed:
    """``given``, with copies for those that are None."""
    parts = (w.gate_up, w.down, w.shared_gate_up, w.shared_down)
    return Transposed(*(
        # As bytes: torch does not copy FP8 with strides on every device.
        part.view(torch.uint8).mT.contiguous().view(part.dtype) if one is None else one
        for part, one in zip(parts, given, strict=True)
    ))  # fmt: skip


class Gradients(NamedTuple):
    """What ``moe_layer_backward`` returns."""

    x: torch.Tensor
    logits: torch.Tensor
    gate_up: torch.Tensor | None
    down: torch.Tensor | None
    shared_gate_up: torch.Tensor | None
    shared_down: torch.Tensor | None


def backward(
    grad: torch.Tensor, logits: torch.Tensor, a: Activations, w: Weights, t: Transposed,
    options: Options, sums: Sums = NONE, *, weight_gradients: bool = True,
) -> Gradients:  # fmt: skip
    """From the gradient of the tokens to all others.  a: of :func:`cached`.

    sums: gate_up, down, shared_gate_up, shared_down fp32, to which the weights' gradients are added.
    """
    assert a.gate_up_scale is not None
    assert a.shared_gate_up_scale is not None
    grad_q, grad_scale = act_quant(grad, pow2_scale=True)
    num_rows = a.gate_up.shape[0]
    rows, rows_scale, _ = permute(grad_q, grad_scale, a.slot, num_rows)
    assert rows_scale is not None
    grad_h = grouped_gemm_contiguous(rows, rows_scale, t.down, w.down_scale.mT, a.counts)
    grad_gate_up, grad_gate_up_scale, grad_row_weight = swiglu_quant_backward(
        grad_h, a.gate_up, a.gate_up_scale, a.counts, a.row_weight, pow2_scale=True
    )
    assert grad_row_weight is not None
    grad_rows = grouped_gemm_contiguous(
        grad_gate_up, grad_gate_up_scale, t.gate_up, w.gate_up_scale.mT, a.counts
    )
    # Every entry has a slot: the router chooses experts that are there, and the buffer holds them.
    grad_logits = topk_gate_backward(
        grad_row_weight[a.slot.long()], logits, a.topk_idx, options.route_scale
    )
    grad_h = fp8_gemm(grad_q, grad_scale, t.shared_down, w.shared_down_scale.mT)
    shared, shared_scale, _ = swiglu_quant_backward(
        grad_h, a.shared_gate_up, a.shared_gate_up_scale, pow2_scale=True
    )
    other = fp8_gemm(shared, shared_scale, t.shared_gate_up, w.shared_gate_up_scale.mT)
    grad_x = unpermute(grad_rows, a.slot, addend=other)
    if not weight_gradients:
        return Gradients(grad_x, grad_logits, None, None, None, None)
    h, shared_h = hidden(a)
    x_rows, x_rows_scale, _ = permute(a.x, a.x_scale, a.slot, num_rows)
    assert x_rows_scale is not None
    every = torch.full_like(a.counts[:1], grad.shape[0])
    return Gradients(
        grad_x, grad_logits,
        _wgrad((grad_gate_up, grad_gate_up_scale), (x_rows, x_rows_scale), a.counts, sums[0]),
        _wgrad((rows, rows_scale), h, a.counts, sums[1]),
        _shared_wgrad((shared, shared_scale), (a.x, a.x_scale), every, sums[2]),
        _shared_wgrad((grad_q, grad_scale), shared_h, every, sums[3]),
    )  # fmt: skip


Quantised = tuple[torch.Tensor, torch.Tensor]


def _wgrad(
    grad: Quantised, x: Quantised, counts: torch.Tensor, out: torch.Tensor | None
) -> torch.Tensor:
    """[E, N, K] fp32 from 1x128 tiles of both operands."""
    grad_t, grad_scale, _ = act_quant_transpose(*grad, counts, pow2_scale=True)
    x_t, x_scale, _ = act_quant_transpose(*x, counts, pow2_scale=True)
    return grouped_gemm_wgrad(grad_t, grad_scale, x_t, x_scale, counts, out)


def _shared_wgrad(
    grad: Quantised, x: Quantised, every: torch.Tensor, out: torch.Tensor | None
) -> torch.Tensor:
    """[N, K] fp32: all tokens are the rows of one expert.  every: [1] int32, how many they are."""
    grad_t, grad_scale, _ = act_quant_transpose(*grad, pow2_scale=True)
    x_t, x_scale, _ = act_quant_transpose(*x, pow2_scale=True)
    into = None if out is None else out[None]
    found = grouped_gemm_wgrad(_whole(grad_t), grad_scale, _whole(x_t), x_scale, every, into)
    return found[0] if out is None else out


def _whole(q_t: torch.Tensor) -> torch.Tensor:
    """[C, R], R rounded up to 128, of ``act_quant_transpose``: with the zeros behind its rows."""
    channels, rows = q_t.shape
    padded = -(-rows // ALIGNMENT) * ALIGNMENT
    return q_t.as_strided((channels, padded), (max(1, padded), 1))

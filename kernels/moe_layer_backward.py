"""The gradient of the mixture of experts layer; the twin of reference_impl/moe_layer_backward.py.

Bound: the eight products, three times the forward's work (with the recomputed one of gate and up).
Plan: the operators one after the other on one stream (kernels/_moe.py).  Nothing waits.
"""

from __future__ import annotations

import torch

from kernels import _moe_check
from kernels._moe import Options, Weights, backward, cached, into_experts, transposed


def moe_layer_backward(
    grad: torch.Tensor,
    x: torch.Tensor, logits: torch.Tensor, bias: torch.Tensor,
    gate_up: torch.Tensor, gate_up_scale: torch.Tensor, down: torch.Tensor, down_scale: torch.Tensor,
    shared_gate_up: torch.Tensor, shared_gate_up_scale: torch.Tensor, shared_down: torch.Tensor,
    shared_down_scale: torch.Tensor, topk: int = 8, num_groups: int = 8, num_limited_groups: int = 4,
    route_scale: float = 2.5,
    gate_up_t: torch.Tensor | None = None, down_t: torch.Tensor | None = None,
    shared_gate_up_t: torch.Tensor | None = None, shared_down_t: torch.Tensor | None = None,
    gate_up_sum: torch.Tensor | None = None, down_sum: torch.Tensor | None = None,
    shared_gate_up_sum: torch.Tensor | None = None, shared_down_sum: torch.Tensor | None = None,
    weight_gradients: bool = True,
) -> tuple[
    torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None,
    torch.Tensor | None,
]:  # fmt: skip
    """All gradients from that of the tokens.

    grad: [T, H] bf16, stride 1 along H.
    x: [T, H] bf16, stride 1 along H; H a multiple of 128.
    logits: [T, E] fp32 or bf16, stride 1 along E: of the router, whose product is not part of this.
    bias: [E] fp32; it moves the choice and never a weight.
    gate_up: [E, 2I, H] e4m3, gate first; I a multiple of 128.  down: [E, H, I] e4m3.
    shared_gate_up: [2Is, H] e4m3.  shared_down: [H, Is] e4m3.
    ..._scale: fp32, one per 128x128 block of the payload, any strides.
    topk, num_groups, num_limited_groups, route_scale: of ``topk_gate``.
    ..._t: e4m3, contiguous, the payloads with output and input channels exchanged: [E, H, 2I],
        [E, I, H], [H, 2Is], [Is, H].  None: copied here in every call.
    ..._sum: fp32, contiguous, of the payloads' shapes: sums over micro-batches, to which the gradients
        are added in place, in the order of ``grouped_gemm_wgrad``, and which are returned.
    weight_gradients: False for none, and None in their places.

    Returns (grad_x [T, H] bf16, grad_logits [T, E] of logits' dtype, and fp32: grad_gate_up [E, 2I, H],
    grad_down [E, H, I], grad_shared_gate_up [2Is, H], grad_shared_down [H, Is]).

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    w = Weights(
        gate_up, gate_up_scale, down, down_scale,
        shared_gate_up, shared_gate_up_scale, shared_down, shared_down_scale,
    )  # fmt: skip
    options = Options(topk, num_groups, num_limited_groups, route_scale)
    sums = (gate_up_sum, down_sum, shared_gate_up_sum, shared_down_sum)
    given = (gate_up_t, down_t, shared_gate_up_t, shared_down_t)
    _moe_check.backward(grad, x, logits, bias, w, options, given, sums, weight_gradients)
    a = cached(into_experts(x, logits, bias, w, options))
    t = transposed(w, given)
    return backward(grad, logits, a, w, t, options, sums, weight_gradients=weight_gradients)

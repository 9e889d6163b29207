"""The gradient of ``moe_layer`` (DeepSeek-V3 report, sections 3.3.1 and 3.3.3: Dgrad and Wgrad in FP8).

Stateless: x, the routing and the cache of gate and up are computed again, as ``moe_layer`` with
``from_cache`` has them; then, all quantisers with power-of-two scales::

    g = act_quant(grad);  grad_rows = permute(g, slot)
    grad_h = grouped_gemm_contiguous(grad_rows, down transposed)          bf16
    grad_gate_up, grad_row_weight = swiglu_quant_backward(grad_h, cache, row_weight)
    routed = unpermute(grouped_gemm_contiguous(grad_gate_up, gate_up transposed), slot)
    shared = the same with fp8_gemm, all tokens being rows, and without weights
    grad_x = bf16(routed + shared)                                        one sum in fp32
    grad_logits = topk_gate_backward(grad_row_weight[slot])
    h = swiglu_quant(cache, row_weight)                                   the forward's, in every bit
    grad_down = grouped_gemm_wgrad(grad_rows, h)                          both re-tiled along tokens
    grad_gate_up = grouped_gemm_wgrad(grad_gate_up, rows)

and as the last two for the shared expert, which is a group of one.  Quantising counts as the identity.
An expert without rows has the gradient 0.

A token's grad_x and grad_logits depend on that token alone; the weights' gradients on all.

Memory at 256 experts of 7168 and 2048, from the shapes: 11.3 GB of payloads, as much transposed, 45 GB
of fp32 gradients, beside the rows.

Shapes: as of moe_layer.
"""

from __future__ import annotations

import torch

from reference_impl._moe import Options, Weights, backward, cached, into_experts, transposed


def moe_layer_backward(  # noqa: PLR0913, PLR0917 (a layer's operands)
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
    """
    w = Weights(
        gate_up, gate_up_scale, down, down_scale,
        shared_gate_up, shared_gate_up_scale, shared_down, shared_down_scale,
    )  # fmt: skip
    options = Options(topk, num_groups, num_limited_groups, route_scale)
    sums = (gate_up_sum, down_sum, shared_gate_up_sum, shared_down_sum)
    given = (gate_up_t, down_t, shared_gate_up_t, shared_down_t)
    a = cached(into_experts(x, logits, bias, w, options))
    t = transposed(w, given)
    return backward(grad, logits, a, w, t, options, sums, weight_gradients=weight_gradients)

"""The mixture of experts layer for decode; the twin of reference_impl/moe_layer_decode.py.

Bound: reading the weights of the experts that have tokens.
Plan: the operators of the routed experts one after the other, and those of the shared one beside them on
a stream of their own (kernels/_moe.py), each of the former launched while the one before ends
(kernels/_chain.py).  Launches depend on shapes alone, so that a CUDA graph replays
them for any routing.
"""

from __future__ import annotations

import torch

from kernels import _moe_check
from kernels._device import chained
from kernels._moe import Options, Weights, masked


def moe_layer_decode(
    x: torch.Tensor, logits: torch.Tensor, bias: torch.Tensor,
    gate_up: torch.Tensor, gate_up_scale: torch.Tensor, down: torch.Tensor, down_scale: torch.Tensor,
    shared_gate_up: torch.Tensor, shared_gate_up_scale: torch.Tensor, shared_down: torch.Tensor,
    shared_down_scale: torch.Tensor, topk: int = 8, num_groups: int = 8, num_limited_groups: int = 4,
    route_scale: float = 2.5,
    capacity: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """x's tokens through their experts and the shared one, summed.

    x: [T, H] bf16, stride 1 along H; H a multiple of 128.
    logits: [T, E] fp32 or bf16, stride 1 along E: of the router, whose product is not part of this.
    bias: [E] fp32; it moves the choice and never a weight.
    gate_up: [E, 2I, H] e4m3, gate first; I a multiple of 128.  down: [E, H, I] e4m3.
    shared_gate_up: [2Is, H] e4m3.  shared_down: [H, Is] e4m3.
    ..._scale: fp32, one per 128x128 block of the payload, any strides.
    topk, num_groups, num_limited_groups, route_scale: of ``topk_gate``.
    capacity: rows of each expert's buffer; None for T.

    Returns out [T, H] bf16.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    w = Weights(
        gate_up, gate_up_scale, down, down_scale,
        shared_gate_up, shared_gate_up_scale, shared_down, shared_down_scale,
    )  # fmt: skip
    options = Options(topk, num_groups, num_limited_groups, route_scale)
    rows = _moe_check.decode(x, logits, bias, w, options, capacity)
    with chained():
        return masked(x, logits, bias, w, options, rows)

"""The gradient of topk_gate; the twin of reference_impl/topk_gate_backward.py.

Bound: memory, by the gradient's E numbers a token.  Plan: a warp, which is a program, takes one token.  It
writes the row as the experts have it that were not chosen, 16 bytes a lane, and works out the K others
meanwhile; these are written over it after a barrier.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _check, _router
from kernels._device import Plan, Plans, layout

WARPS = 1

_plans = Plans()


@triton.jit
def _topk_gate_backward_kernel(
    grad_ptr, logits_ptr, idx_ptr, out_ptr, experts, stride, topk, route_scale,
    LIST: tl.constexpr, EXPERTS: tl.constexpr, SOFTMAX: tl.constexpr, NORMALISE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + token * stride
    out_ptr += token * experts
    columns = tl.arange(0, EXPERTS)
    places = tl.arange(0, LIST)
    listed = places < topk
    # Compared as the 64 bits they are: 2^32 + 3 is not expert 3.
    chosen = tl.load(idx_ptr + token * topk + places, mask=listed, other=-1)
    here = (chosen >= 0) & (chosen < experts)
    grad = tl.load(grad_ptr + token * topk + places, mask=here, other=0.0)
    x = tl.load(row_ptr + chosen, mask=here, other=0.0).to(tl.float32)
    highest, total, mean = 0.0, 1.0, 0.0
    if SOFTMAX:
        highest, total = _router.softmax_parts(row_ptr, experts, EXPERTS)
    score = tl.where(here, _router.scores(x, highest, total, SOFTMAX), 0.0)
    share = score
    if NORMALISE:
        share = tl.div_rn(score, tl.broadcast_to(_router.pair_sum(score, LIST), (LIST,)))
    if NORMALISE or SOFTMAX:
        mean = _router.pair_sum(grad * share, LIST)
    rest = tl.zeros([EXPERTS], tl.float32)
    if SOFTMAX and not NORMALISE:
        every = tl.load(row_ptr + columns, mask=columns < experts, other=0.0).to(tl.float32)
        rest = route_scale * (0.0 - mean) * _router.scores(every, highest, total, SOFTMAX)
    tl.store(out_ptr + columns, rest.to(out_ptr.dtype.element_ty), mask=columns < experts)
    tl.debug_barrier()
    gradient = route_scale * (grad - mean) * share
    if not SOFTMAX:
        gradient = gradient * (1.0 - score)
    tl.store(out_ptr + chosen, gradient.to(out_ptr.dtype.element_ty), mask=here)


def topk_gate_backward(
    grad_weights: torch.Tensor, logits: torch.Tensor, topk_idx: torch.Tensor,
    route_scale: float = 2.5, scoring: str = "sigmoid", normalise: bool = True,
) -> torch.Tensor:  # fmt: skip
    """Gradient of the logits from that of the weights.

    grad_weights: [T, K] fp32, contiguous; K from 1 to 32.
    logits: [T, E] fp32 or bf16, stride 1 along E, as ``topk_gate`` had them; E from 1 to 1024.
    topk_idx: [T, K] int64, contiguous; what ``topk_gate`` gave: no expert twice for a token.
    route_scale, scoring, normalise: as ``topk_gate`` had them.

    Returns grad_logits [T, E] of the logits' dtype.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    options = (route_scale, scoring, normalise)
    key = layout((grad_weights, logits, topk_idx), *options)
    plan = _plans.get(key) or _plans.keep(
        key, _checked_plan(grad_weights, logits, topk_idx, *options)
    )
    out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    if logits.shape[0]:
        plan(logits.device, grad_weights, logits, topk_idx, out)
    return out


def _checked_plan(
    grad_weights: torch.Tensor, logits: torch.Tensor, topk_idx: torch.Tensor,
    route_scale: float, scoring: str, normalise: bool,
) -> Plan:  # fmt: skip
    tokens, experts = _router.logits(logits)
    _router.lists(topk_idx, tokens)
    topk = topk_idx.shape[1]
    _check.tensor("grad_weights", grad_weights, (torch.float32,), (tokens, topk))
    _check.contiguous("grad_weights", grad_weights)
    _router.weighting(route_scale, scoring, normalise)
    _check.runnable("logits", logits, ("topk_idx", topk_idx), ("grad_weights", grad_weights))
    power = triton.next_power_of_2
    return Plan(
        _topk_gate_backward_kernel, (tokens,),
        (experts, logits.stride(0), topk, float(route_scale)),
        {
            "LIST": power(topk), "EXPERTS": power(experts),
            "SOFTMAX": scoring == "softmax", "NORMALISE": normalise,
        }, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip

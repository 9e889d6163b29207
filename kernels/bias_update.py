"""One step of the bias that balances the experts; the twin of reference_impl/bias_update.py.

Bound: a launch.  Plan: one program holds all experts.
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
def _bias_update_kernel(
    bias_ptr, counts_ptr, out_ptr, experts, stride, gamma, EXPERTS: tl.constexpr
):
    places = tl.arange(0, EXPERTS)
    held = places < experts
    bias = tl.load(bias_ptr + places, mask=held, other=0.0)
    load = tl.load(counts_ptr + places * stride, mask=held, other=0).to(tl.int64)
    total = tl.sum(load, axis=0)
    load *= experts
    bias = tl.where(load < total, bias + gamma, tl.where(load > total, bias - gamma, bias))
    tl.store(out_ptr + places, bias, mask=held)


def bias_update(bias: torch.Tensor, counts: torch.Tensor, gamma: float = 1e-3) -> torch.Tensor:
    """Move each expert's bias by gamma against its load.

    bias: [E] fp32, contiguous; E from 1 to 1024.  It is not written.
    counts: [E] int32, of any stride; rows of each expert in this step.
    gamma: the step, taken as fp32; 0 (the last 500 billion tokens of DeepSeek-V3) changes nothing.

    Returns the new bias, [E] fp32.

    Raises TypeError or ValueError naming the argument: above all for a bias of bf16, which would lose
    the updates.  Safe to capture in a CUDA graph.
    """
    key = layout((bias, counts), gamma)
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(bias, counts, gamma))
    out = torch.empty(bias.shape, dtype=torch.float32, device=bias.device)
    plan(bias.device, bias, counts, out)
    return out


def _checked_plan(bias: torch.Tensor, counts: torch.Tensor, gamma: float) -> Plan:
    _check.tensor("bias", bias, (torch.float32,), (None,))
    _check.contiguous("bias", bias)
    experts = bias.shape[0]
    _check.whole("bias: E", experts, 1, _router.MAX_EXPERTS)
    _check.tensor("counts", counts, (torch.int32,), (experts,))
    _router.number("gamma", gamma, zero=True)
    _check.runnable("bias", bias, ("counts", counts))
    return Plan(
        _bias_update_kernel, (1,), (experts, counts.stride(0), float(gamma)),
        {"EXPERTS": triton.next_power_of_2(experts)}, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip

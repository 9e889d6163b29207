"""FP8 products of the experts' buffers; the twin of reference_impl/grouped_gemm_masked.py.

Bound: with few rows an expert, reading the weights of the experts that have rows.
Plan: kernels/_grouped_gemm.py.
"""

from __future__ import annotations

import torch

from kernels import _check, _grouped_gemm
from kernels._device import Plans, layout, num_sms
from kernels._grouped_gemm import CONFIGS, Config, GroupedPlan

__all__ = ["CONFIGS", "grouped_gemm_masked", "run"]

_plans = Plans()


def grouped_gemm_masked(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    counts: torch.Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """out[e] = (x[e] * x_scale[e]) (w[e] * w_scale[e])^T, promoted every 128 of K.

    x: [E, C, K] e4m3fn, contiguous, 16-byte aligned; K a multiple of 128, and not 0; E up to 1024.
    x_scale: [E, C, K/128] fp32, one per 1x128 tile, any strides (stride 1 along C is fastest).
    w: [E, N, K] e4m3fn, contiguous, 16-byte aligned.
    w_scale: [E, ceil(N/128), K/128] fp32, one per 128x128 block, any strides.
    counts: [E] int32, contiguous, rows of each expert.  A count above C counts as C, a negative one
        as 0.
    out_dtype: bf16 or fp32.

    Returns [E, C, N] of out_dtype, row-major.  Rows from counts[e] on are neither read nor written.

    Raises TypeError or ValueError naming the argument.  The counts are looked at on the device only:
    safe to capture in a CUDA graph, and to replay with others.
    """
    key = layout((x, x_scale, w, w_scale, counts), out_dtype)
    plan = _plans.get(key)
    if plan is None:
        _grouped_gemm.check(x, x_scale, w, w_scale, counts, out_dtype, masked=True)
    elif x.data_ptr() % 16 or w.data_ptr() % 16:
        _check.aligned("x", x)
        _check.aligned("w", w)
    (experts, capacity), (n, k) = x.shape[:2], w.shape[1:]
    out = torch.empty(experts, capacity, n, dtype=out_dtype, device=x.device)
    if plan is not None:
        plan(x, x_scale, w, w_scale, counts, out)
    elif out.numel():
        config = _grouped_gemm.choose(capacity, experts, n, k, num_sms(x.device))
        plan = _plans.keep(key, GroupedPlan(x, x_scale, w, w_scale, config))
        plan(x, x_scale, w, w_scale, counts, out)
    return out


def run(
    x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
    counts: torch.Tensor, out: torch.Tensor, config: Config,
) -> None:  # fmt: skip
    """One launch of one configuration into ``out``; arguments are not checked."""
    GroupedPlan(x, x_scale, w, w_scale, config)(x, x_scale, w, w_scale, counts, out)

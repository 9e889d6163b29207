"""FP8 products of the experts' rows; the twin of reference_impl/grouped_gemm_contiguous.py.

Bound: the tensor cores from a few hundred rows an expert on, below that reading the weights of the
experts that have rows.
Plan: kernels/_grouped_gemm.py.
"""

from __future__ import annotations

import torch

from kernels import _check, _grouped_gemm
from kernels._device import Plans, layout, num_sms
from kernels._grouped import ALIGNMENT
from kernels._grouped_gemm import CONFIGS, Config, GroupedPlan

__all__ = ["CONFIGS", "grouped_gemm_contiguous", "run"]

_plans = Plans()


def grouped_gemm_contiguous(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    counts: torch.Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """out = (x * x_scale) (w[e] * w_scale[e])^T, e the expert of the row, promoted every 128 of K.

    x: [R, K] e4m3fn, contiguous, 16-byte aligned; K a multiple of 128, and not 0.
    x_scale: [R, K/128] fp32, one per 1x128 tile, any strides (stride 1 along R is fastest).
    w: [E, N, K] e4m3fn, contiguous, 16-byte aligned; E up to 1024.
    w_scale: [E, ceil(N/128), K/128] fp32, one per 128x128 block, any strides.
    counts: [E] int32, contiguous, rows of each expert: segments lie one after another, each as long
        as its count rounded up to 128.  A negative count counts as 0.
    out_dtype: bf16 or fp32.

    Returns [R, N] of out_dtype, row-major.  Rows of padding, and rows that do not fit R, are neither
    read nor written.

    Raises TypeError or ValueError naming the argument.  The counts are looked at on the device only:
    safe to capture in a CUDA graph, and to replay with others.
    """
    key = layout((x, x_scale, w, w_scale, counts), out_dtype)
    plan = _plans.get(key)
    if plan is None:
        _grouped_gemm.check(x, x_scale, w, w_scale, counts, out_dtype, masked=False)
    elif x.data_ptr() % 16 or w.data_ptr() % 16:
        _check.aligned("x", x)
        _check.aligned("w", w)
    rows, (experts, n, k) = x.shape[0], w.shape
    out = torch.empty(rows, n, dtype=out_dtype, device=x.device)
    if plan is not None:
        plan(x, x_scale, w, w_scale, counts, out)
    elif out.numel() and experts:
        config = _grouped_gemm.choose(average(rows, experts), experts, n, k, num_sms(x.device))
        plan = _plans.keep(key, GroupedPlan(x, x_scale, w, w_scale, config))
        plan(x, x_scale, w, w_scale, counts, out)
    return out


def average(rows: int, experts: int) -> int:
    """Rows an expert, as far as R tells: buffers have room for every expert's padding."""
    return max(1, rows // experts - (ALIGNMENT - 1))


def run(
    x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
    counts: torch.Tensor, out: torch.Tensor, config: Config,
) -> None:  # fmt: skip
    """One launch of one configuration into ``out``; arguments are not checked."""
    GroupedPlan(x, x_scale, w, w_scale, config)(x, x_scale, w, w_scale, counts, out)

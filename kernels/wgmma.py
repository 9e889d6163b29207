"""Hopper's FP8 tensor core instruction itself: a bare tl.dot from a zero accumulator.

The twin of reference_impl/wgmma.py, which models it; their parity, to the bit, calibrates the model
on the chip at hand.  It exists to be compared, not to be fast: one program, one tile, the whole K in
one tl.dot, which compiles to K/32 chained wgmma instructions.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _check
from kernels._device import Plan, Plans, layout

BLOCK_M = 64  # rows of one wgmma instruction
BLOCK_N = 64
WARPS = 4  # one warpgroup
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
LENGTHS = (32, 64, 128, 256)

_plans = Plans()


@triton.jit
def _wgmma_kernel(
    x_ptr, w_ptr, out_ptr, m, n,
    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    channels = tl.arange(0, K)
    x = tl.load(x_ptr + rows[:, None] * K + channels[None, :], mask=(rows < m)[:, None], other=0.0)
    w = tl.load(
        w_ptr + columns[None, :] * K + channels[:, None], mask=(columns < n)[None, :], other=0.0
    )
    out = tl.dot(x, w)
    inside = (rows < m)[:, None] & (columns < n)[None, :]
    tl.store(out_ptr + rows[:, None] * n + columns[None, :], out, mask=inside)


def wgmma(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x w^T as a chain of FP8 wgmma instructions from a zero accumulator.

    x: [M, K], w: [N, K], each e4m3fn or e5m2, contiguous; K one of 32, 64, 128, 256.

    Returns [M, N] fp32.

    Raises TypeError or ValueError naming the argument.
    """
    key = layout((x, w))
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(x, w))
    out = torch.empty(x.shape[0], w.shape[0], dtype=torch.float32, device=x.device)
    if out.numel():
        plan(x.device, x, w, out)
    return out


def _checked_plan(x: torch.Tensor, w: torch.Tensor) -> Plan:
    _check.tensor("x", x, FP8, (None, None))
    m, k = x.shape
    _check.tensor("w", w, FP8, (None, k))
    _check.one_of("x: K", k, LENGTHS)
    _check.contiguous("x", x)
    _check.contiguous("w", w)
    _check.runnable("x", x, ("w", w))
    n = w.shape[0]
    return Plan(
        _wgmma_kernel, (triton.cdiv(m, BLOCK_M), triton.cdiv(n, BLOCK_N)), (m, n),
        {"K": k, "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N}, num_warps=WARPS,
    )  # fmt: skip

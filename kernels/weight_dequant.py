"""Dequantisation of 128x128-block weights; the twin of reference_impl/weight_dequant.py.

Bound: memory, 3 B an element for bf16 output.
Plan: a program takes ROWS rows of one block, so that its scale is one scalar.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _check
from kernels._device import Plan, Plans, layout

BLOCK = 128
ROWS = 32
WARPS = 4
OUTPUTS = (torch.bfloat16, torch.float16, torch.float32)

_plans = Plans()


@triton.jit
def _weight_dequant_kernel(
    q_ptr, scale_ptr, out_ptr, n, k, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    # One dimension, since y ends at 65,535 programs.
    blocks_k = tl.cdiv(k, BLOCK)
    block_k = tl.program_id(0) % blocks_k
    slab = tl.program_id(0) // blocks_k
    rows = (slab * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = block_k * BLOCK + tl.arange(0, BLOCK)
    inside = (rows < n)[:, None] & (columns < k)[None, :]
    scale = tl.load(scale_ptr + (slab * ROWS // BLOCK) * blocks_k + block_k)
    offsets = rows[:, None] * k + columns[None, :]
    q = tl.load(q_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + offsets, (q * scale).to(out_ptr.dtype.element_ty), mask=inside)


def weight_dequant(
    q: torch.Tensor, scale: torch.Tensor, out_dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """Dequantise a weight held in 128x128 blocks.

    q: [N, K] e4m3fn, contiguous.  scale: [ceil(N/128), ceil(K/128)] fp32, contiguous.
    out_dtype: bf16, fp16 or fp32.

    Returns [N, K] of out_dtype, row-major.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    key = layout((q, scale), out_dtype)
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(q, scale, out_dtype))
    out = torch.empty(q.shape, dtype=out_dtype, device=q.device)
    if out.numel():
        plan(q.device, q, scale, out)
    return out


def _checked_plan(q: torch.Tensor, scale: torch.Tensor, out_dtype: torch.dtype) -> Plan:
    _check.tensor("q", q, (torch.float8_e4m3fn,), (None, None))
    n, k = q.shape
    blocks = (triton.cdiv(n, BLOCK), triton.cdiv(k, BLOCK))
    _check.tensor("scale", scale, (torch.float32,), blocks)
    _check.one_of("out_dtype", out_dtype, OUTPUTS)
    _check.contiguous("q", q)
    _check.contiguous("scale", scale)
    _check.runnable("q", q, ("scale", scale))
    return Plan(
        _weight_dequant_kernel, (blocks[1] * triton.cdiv(n, ROWS),), (n, k),
        {"ROWS": ROWS, "BLOCK": BLOCK}, num_warps=WARPS,
    )  # fmt: skip

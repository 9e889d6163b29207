"""128x128 quantisation of weights; the twin of reference_impl/weight_quant.py.

Bound: memory, 3 B an element for bf16 input.
Plan: one program, one block, held in registers between the maximum and the division.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _check
from kernels._device import Plan, Plans, layout
from kernels._quant import magnitude_bits, payload, scale_from_bits

BLOCK = 128
WARPS = 4
INPUTS = (torch.bfloat16, torch.float16, torch.float32)

_plans = Plans()


@triton.jit
def _weight_quant_kernel(
    w_ptr, q_ptr, scale_ptr, n, k, stride_wn, amax_floor,
    POW2_SCALE: tl.constexpr, FLOOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # One dimension, since y ends at 65,535 programs.
    blocks_k = tl.cdiv(k, BLOCK)
    block_k = tl.program_id(0) % blocks_k
    block_n = tl.program_id(0) // blocks_k
    rows = (block_n * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    columns = block_k * BLOCK + tl.arange(0, BLOCK)
    inside = (rows < n)[:, None] & (columns < k)[None, :]
    w = tl.load(w_ptr + rows[:, None] * stride_wn + columns[None, :], mask=inside, other=0.0)
    w = w.to(tl.float32)
    amax_bits = tl.max(tl.max(magnitude_bits(w), axis=1), axis=0)
    scale = scale_from_bits(amax_bits, amax_floor, POW2_SCALE, FLOOR)
    q = payload(w, scale)
    tl.store(q_ptr + rows[:, None] * k + columns[None, :], q, mask=inside)
    tl.store(scale_ptr + tl.program_id(0), scale)


def weight_quant(
    w: torch.Tensor, pow2_scale: bool = False, amax_floor: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a weight to e4m3 with one fp32 scale per 128x128 block.

    w: [N, K] bf16, fp16 or fp32, stride 1 along K.
    pow2_scale: round every scale up to a power of two.
    amax_floor: smallest amax assumed, None for none.

    Returns (q [N, K] e4m3fn, scale [ceil(N/128), ceil(K/128)] fp32), both row-major.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    key = layout((w,), pow2_scale, amax_floor)
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(w, pow2_scale, amax_floor))
    (n, k), device = w.shape, w.device
    q = torch.empty(n, k, dtype=torch.float8_e4m3fn, device=device)
    scale = torch.empty(-(-n // BLOCK), -(-k // BLOCK), dtype=torch.float32, device=device)
    if n and k:
        plan(device, w, q, scale)
    return q, scale


def _checked_plan(w: torch.Tensor, pow2_scale: bool, amax_floor: float | None) -> Plan:
    _check.tensor("w", w, INPUTS, (None, None))
    _check.rows_contiguous("w", w)
    _check.flag("pow2_scale", pow2_scale)
    _check.floor("amax_floor", amax_floor)
    _check.runnable("w", w)
    n, k = w.shape
    return Plan(
        _weight_quant_kernel, (triton.cdiv(n, BLOCK) * triton.cdiv(k, BLOCK),),
        (n, k, w.stride(0), float(amax_floor or 0.0)),
        {"POW2_SCALE": pow2_scale, "FLOOR": amax_floor is not None, "BLOCK": BLOCK},
        num_warps=WARPS,
    )  # fmt: skip

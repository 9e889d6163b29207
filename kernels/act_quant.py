"""Online 1x128 quantisation of activations; the twin of reference_impl/act_quant.py.

Bound: memory.  For bf16 input 2 bytes in, 1 out and 4/128 for the scale: 3.03125 B an element.
Plan: one program takes ROWS tokens by one tile of 128 channels; a row of the tile is 256 contiguous
bytes of bf16, read 16 bytes a thread, kept in registers between the maximum and the division, and
written once.  The ROWS scales of a program are neighbours in memory.  With the rows of experts a
program takes several tiles, since it has to add the counts up before the first.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from kernels import _chain, _check, _swiglu
from kernels._device import Plan, Plans, layout
from kernels._quant import magnitude_bits, payload, scale_from_bits
from kernels._swiglu import rows_end

TILE = 128
ROWS = 16
WARPS = 2
MOST_TILES = 8  # of a program that adds up counts
INPUTS = (torch.bfloat16, torch.float16, torch.float32)

_plans = Plans()


@triton.jit
def _act_quant_kernel(
    x_ptr, counts_ptr, q_ptr, scale_ptr, m, k, stride_xm, stride_scale, amax_floor,
    POW2_SCALE: tl.constexpr, FLOOR: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr,
    TILE: tl.constexpr, COUNTS: tl.constexpr, EXPERTS: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    _chain.begin(CHAIN)
    # One dimension, since y ends at 65,535 programs; a row's tiles are neighbours.
    chunks = k // (TILES * TILE)
    chunk = tl.program_id(0) % chunks
    rows = tl.program_id(0) // chunks * ROWS + tl.arange(0, ROWS)
    # ROWS divides a segment.  COUNTS, of experts, is a constant, so that nothing is passed without.
    end = rows_end(counts_ptr, m, COUNTS, tl.program_id(0) // chunks * ROWS, EXPERTS)
    inside = rows < end
    if not COUNTS or tl.program_id(0) // chunks * ROWS < end:
        # 64 bits: M x K passes 2^31 elements at 300,000 tokens of 7168 channels.
        wide = rows.to(tl.int64)
        for step in range(TILES):
            tile = chunk * TILES + step
            columns = tile * TILE + tl.arange(0, TILE)
            x = tl.load(
                x_ptr + wide[:, None] * stride_xm + columns[None, :],
                mask=inside[:, None],
                other=0.0,
            )
            x = x.to(tl.float32)
            amax_bits = tl.max(magnitude_bits(x), axis=1)
            scale = scale_from_bits(amax_bits, amax_floor, POW2_SCALE, FLOOR)
            q = payload(x, scale[:, None])
            tl.store(q_ptr + wide[:, None] * k + columns[None, :], q, mask=inside[:, None])
            tl.store(scale_ptr + tile.to(tl.int64) * stride_scale + rows, scale, mask=inside)


def act_quant(
    x: torch.Tensor,
    pow2_scale: bool = False,
    amax_floor: float | None = None,
    counts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise activations to e4m3 with one fp32 scale per 1x128 tile.

    x: [M, K] bf16, fp16 or fp32, stride 1 along K; K a multiple of 128.
    pow2_scale: round every scale up to a power of two, so that re-tiling later is lossless.
    amax_floor: smallest amax assumed, None for none (DeepSeek's inference code uses 1e-4).
    counts: [E] int32, contiguous: rows of each expert (docs/decisions/0004); None where all rows count.
        A negative count counts as 0, and rows past M are nobody's.  E up to 1024, E * M up to 2^32.

    Returns (q [M, K] e4m3fn row-major, scale [M, K/128] fp32).  The scales are stored with stride 1
    along M, columns padded to a multiple of 4 rows, as TMA and cuBLASLt want to read them.  With
    ``counts`` rows that are no expert's are neither read nor written.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    given = (x,) if counts is None else (x, counts)
    key = layout(given, pow2_scale, amax_floor)
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(x, pow2_scale, amax_floor, counts))
    (m, k), device = x.shape, x.device
    q = torch.empty(m, k, dtype=torch.float8_e4m3fn, device=device)
    tiles, column = k // TILE, (m + 3) // 4 * 4
    scale = torch.empty(tiles * column, dtype=torch.float32, device=device)
    scale = scale.as_strided((m, tiles), (1, column))
    if m and k:
        plan(device, x, counts, q, scale)
    return q, scale


def _checked_plan(
    x: torch.Tensor, pow2_scale: bool, amax_floor: float | None, counts: torch.Tensor | None
) -> Plan:
    _check.tensor("x", x, INPUTS, (None, None))
    _check.rows_contiguous("x", x)
    m, k = x.shape
    _check.multiple("x", "K", k, TILE)
    _check.flag("pow2_scale", pow2_scale)
    _check.floor("amax_floor", amax_floor)
    _swiglu.grouped(counts, None, m)
    _check.runnable("x", x, *_swiglu.present(counts=counts))
    experts, padded_experts = _swiglu.experts(counts)
    tiles = math.gcd(k // TILE, MOST_TILES) if experts else 1
    chain = _chain.mode("act_quant")
    return Plan(
        _act_quant_kernel, (k // (tiles * TILE) * triton.cdiv(m, ROWS),),
        (m, k, x.stride(0), (m + 3) // 4 * 4, float(amax_floor or 0.0)),
        {
            "POW2_SCALE": pow2_scale, "FLOOR": amax_floor is not None, "ROWS": ROWS,
            "TILES": tiles, "TILE": TILE, "COUNTS": experts, "EXPERTS": padded_experts, "CHAIN": chain,
        },
        num_warps=WARPS, **_chain.options(chain),
    )  # fmt: skip

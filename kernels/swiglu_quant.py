"""SwiGLU and quantisation in one pass; the twin of reference_impl/swiglu_quant.py.

Bound: memory.  For bf16 4 bytes in and 1 + 4/128 out an element of h; for e4m3 2 + 8/128 in.
Plan: a program takes ROWS rows by some tiles of h; of each tile it reads gate and up, 16 bytes a
thread, and keeps everything up to the payload in registers.  Without experts the tiles are dealt by the
grid, one to a program where there are few rows.  With them as many programs as fit share out the tiles
of the rows that are there (kernels/_units.py), of which the host knows nothing.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from kernels import _chain, _check, _swiglu, _units
from kernels._device import Plan, Plans, layout, num_sms

TILE = _swiglu.TILE
ROWS = 8
WARPS = 2
MOST_TILES = 8  # of a program
ENOUGH = 8192  # programs, before one takes several tiles
PROGRAMS = 16  # a multiprocessor, over the rows of experts: what REGISTERS leave room for
REGISTERS = 64
LEAST_EXPERTS = 32 * WARPS  # counts that a program adds up: with one a thread no register spills
STAGES = 3  # tiles whose loads are under way, where a program has several

_plans = Plans()


@triton.jit
def _swiglu_quant_kernel(
    x_ptr, x_scale_ptr, counts_ptr, weight_ptr, q_ptr, scale_ptr,
    rows, channels, experts, stride_x, stride_sr, stride_sc, stride_scale, capacity,
    SCALES: tl.constexpr, WEIGHTS: tl.constexpr, EXPERTS: tl.constexpr, MASKED: tl.constexpr,
    POW2_SCALE: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    _chain.begin(CHAIN)
    if EXPERTS:
        counts, lasts = _units.groups(
            counts_ptr, experts, rows, capacity, ROWS, EXPERTS, MASKED
        )  # fmt: skip
        # A program's share of all tiles there are, those of one group of rows after the other's.
        tiles = channels // TILE
        begin, stop = _units.share(_units.total(lasts, rows, ROWS, MASKED) * tiles)
        # One program at least waits, were there no rows at all.
        if (begin < stop) | (tl.program_id(0) == 0):
            _chain.later(CHAIN)
        for group in range(begin // tiles, tl.cdiv(stop, tiles)):
            # Once more for each group: they would take registers all the time.
            counts, lasts = _units.groups(
                counts_ptr, experts, rows, capacity, ROWS, EXPERTS, MASKED
            )  # fmt: skip
            first, end = _units.find(counts, lasts, rows, capacity, group, ROWS, MASKED)
            _tiles_of(
                x_ptr, x_scale_ptr, weight_ptr, q_ptr, scale_ptr, first, end,
                tl.maximum(begin - group * tiles, 0), tl.minimum(stop - group * tiles, tiles),
                channels, stride_x, stride_sr, stride_sc, stride_scale,
                SCALES, WEIGHTS, POW2_SCALE, ROWS, TILE, STAGES,
            )  # fmt: skip
    else:
        chunks = channels // (TILES * TILE)
        begin = tl.program_id(0) % chunks * TILES
        _tiles_of(
            x_ptr, x_scale_ptr, weight_ptr, q_ptr, scale_ptr,
            tl.program_id(0) // chunks * ROWS, rows, begin, begin + TILES,
            channels, stride_x, stride_sr, stride_sc, stride_scale,
            SCALES, WEIGHTS, POW2_SCALE, ROWS, TILE, STAGES,
        )  # fmt: skip


@triton.jit
def _tiles_of(
    x_ptr, x_scale_ptr, weight_ptr, q_ptr, scale_ptr, first, end, begin, stop,
    channels, stride_x, stride_sr, stride_sc, stride_scale,
    SCALES: tl.constexpr, WEIGHTS: tl.constexpr, POW2_SCALE: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Tiles ``begin`` to ``stop`` of the rows from ``first`` on, ROWS of them or up to ``end``."""
    row = first + tl.arange(0, ROWS)
    inside = row < end
    row = row.to(tl.int64)
    if WEIGHTS:
        weight = tl.load(weight_ptr + row, mask=inside, other=0.0)
    # The loads of the next tiles are under way, in shared memory, while one is worked on.
    for tile in tl.range(begin, stop, num_stages=STAGES):
        channel = tile * TILE
        gate, up = _swiglu.gate_and_up(
            x_ptr, x_scale_ptr, row, inside, channel, channels, stride_x, stride_sr, stride_sc,
            SCALES, TILE,
        )  # fmt: skip
        h, _ = _swiglu.silu(gate)
        h = h * up
        if WEIGHTS:
            h = h * weight[:, None]
        _swiglu.write(
            h, q_ptr, scale_ptr, row, inside, channel, channels, stride_scale, POW2_SCALE, TILE
        )


def swiglu_quant(
    gate_up: torch.Tensor,
    gate_up_scale: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
    row_weight: torch.Tensor | None = None,
    pow2_scale: bool = False,
    capacity: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """silu(gate) * up, times the routing weight, in e4m3 with one fp32 scale per 1x128 tile.

    gate_up: [R, 2I] bf16 or e4m3, stride 1 along 2I; I a multiple of 128.
    gate_up_scale: [R, 2I/128] fp32, of any strides, for e4m3; None for bf16.
    counts: [E] int32, contiguous: rows of each expert (docs/decisions/0004); None where all rows count.
        A negative count counts as 0, and rows past R are nobody's.  E up to 1024, E * R up to 2^32.
    row_weight: [R] fp32, contiguous, or None.
    pow2_scale: round every scale up to a power of two, so that re-tiling later is lossless.
    capacity: C of a masked buffer (docs/decisions/0004), of R = E C rows; None for segments.

    Returns (h_q [R, I] e4m3, h_scale [R, I/128] fp32).  Scales are stored as ``act_quant`` stores
    them: stride 1 along R, columns padded to a multiple of 4 rows.  With ``counts`` rows that are no
    expert's are neither read nor written.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    given = tuple(part for part in (gate_up, gate_up_scale, counts, row_weight) if part is not None)
    key = layout(
        given, gate_up_scale is None, counts is None, row_weight is None, pow2_scale, capacity
    )
    plan = _plans.get(key) or _plans.keep(
        key, _checked_plan(gate_up, gate_up_scale, counts, row_weight, pow2_scale, capacity)
    )
    rows, channels = gate_up.shape[0], gate_up.shape[1] // 2
    q, scale = _swiglu.quantised_like(rows, channels, gate_up.device)
    if rows:
        plan(gate_up.device, gate_up, gate_up_scale, counts, row_weight, q, scale)
    return q, scale


def _checked_plan(
    gate_up: torch.Tensor,
    gate_up_scale: torch.Tensor | None,
    counts: torch.Tensor | None,
    row_weight: torch.Tensor | None,
    pow2_scale: bool,
    capacity: int | None,
) -> Plan:
    rows, channels = _swiglu.gate_up("gate_up", gate_up, (torch.bfloat16, torch.float8_e4m3fn))
    strides = _swiglu.scales("gate_up_scale", gate_up_scale, "gate_up", gate_up)
    _swiglu.grouped(counts, row_weight, rows)
    _check.flag("pow2_scale", pow2_scale)
    groups = triton.cdiv(rows, ROWS)
    if capacity is not None:
        groups = _masked(counts, capacity, rows)
    others = _swiglu.present(gate_up_scale=gate_up_scale, counts=counts, row_weight=row_weight)
    _check.runnable("gate_up", gate_up, *others)
    experts, padded_experts = _swiglu.experts(counts)
    if experts:
        padded_experts = max(LEAST_EXPERTS, padded_experts)
        tiles = 0
        programs = min(groups * (channels // TILE), PROGRAMS * num_sms(gate_up.device))
    else:
        tiles = _tiles(groups, channels)
        programs = groups * (channels // (tiles * TILE))
    chain = _chain.OFF if capacity is None else _chain.mode("swiglu_quant")
    return Plan(
        _swiglu_quant_kernel, (programs,),
        (rows, channels, experts, gate_up.stride(0), *strides, (rows + 3) // 4 * 4, capacity or 0),
        {
            "SCALES": gate_up_scale is not None, "WEIGHTS": row_weight is not None,
            "EXPERTS": padded_experts, "MASKED": capacity is not None, "POW2_SCALE": pow2_scale,
            "ROWS": ROWS, "TILES": tiles, "TILE": TILE,
            "STAGES": 1 if tiles == 1 else STAGES, "CHAIN": chain,
        }, num_warps=WARPS, maxnreg=REGISTERS, enable_fp_fusion=False, **_chain.options(chain),
    )  # fmt: skip


def _masked(counts: torch.Tensor | None, capacity: int, rows: int) -> int:
    """Groups of ROWS rows, none of two experts, in a masked buffer."""
    _check.whole("capacity", capacity, 1, _swiglu.MAX_ROWS)
    _check.tensor("counts", counts, (torch.int32,), (None,))
    assert counts is not None
    experts = len(counts)
    if rows != experts * capacity:
        raise ValueError(
            f"gate_up: expected R to be E * capacity, {experts * capacity}, got {rows}"
        )
    return experts * -(-capacity // ROWS)


def _tiles(groups: int, channels: int) -> int:
    """Tiles of a program: the most that leave enough programs, of those that divide a row."""
    tiles = math.gcd(channels // TILE, MOST_TILES)
    while tiles > 1 and groups * (channels // TILE) < ENOUGH * tiles:
        tiles //= 2
    return tiles

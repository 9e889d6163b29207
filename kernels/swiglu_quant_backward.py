"""The gradient of swiglu_quant from the cache; the twin of reference_impl/swiglu_quant_backward.py.

Bound: memory, and near the arithmetic: 4 bytes in and 2 out an element of h, scales aside.
Plan: one program takes ROWS rows by TILES tiles of h; of each tile it reads the gradient, gate and up,
16 bytes a thread, and writes two tiles.  The first programs have the rows of experts that are there
(kernels/_units.py), and the others end at once.  With weights a program takes all tiles of its rows,
and their 128 sums stay in registers; at the end they are added in pairs, two numbers at a time, so that
no layout decides the order.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from kernels import _check, _swiglu, _units
from kernels._device import Plan, Plans, layout

TILE = _swiglu.TILE
HALVINGS = TILE.bit_length() - 1
ROWS = 4
WARPS = 1
REGISTERS = 112  # of a thread, at most
STAGES = 3  # tiles whose loads are under way, where a program has MANY or more
MANY = 4
ENOUGH = 8192  # programs, before one without weights takes MANY tiles instead of two

_plans = Plans()


@triton.jit
def _swiglu_quant_backward_kernel(
    grad_ptr, x_ptr, x_scale_ptr, counts_ptr, weight_ptr, q_ptr, scale_ptr, grad_weight_ptr,
    rows, channels, experts, stride_grad, stride_x, stride_sr, stride_sc, stride_scale,
    WEIGHTS: tl.constexpr, EXPERTS: tl.constexpr, POW2_SCALE: tl.constexpr,
    ROWS: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr, HALVINGS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    chunks = channels // (TILES * TILE)
    first, end = tl.program_id(0) // chunks * ROWS, rows
    if EXPERTS:
        counts, lasts = _units.groups(counts_ptr, experts, rows, 0, ROWS, EXPERTS, False)
        first, end = _units.find(
            counts, lasts, rows, 0, tl.program_id(0) // chunks, ROWS, False
        )  # fmt: skip
    if first < end:
        row = first + tl.arange(0, ROWS)
        inside = row < end
        row = row.to(tl.int64)
        acc = tl.zeros([ROWS, TILE], tl.float32)
        if WEIGHTS:
            weight = tl.load(weight_ptr + row, mask=inside, other=0.0)
        for step in tl.range(0, TILES, num_stages=STAGES):
            channel = (tl.program_id(0) % chunks * TILES + step) * TILE
            grad = _swiglu.numbers(
                grad_ptr, None, row, inside, channel, stride_grad, 0, 0, False, TILE
            )
            gate, up = _swiglu.gate_and_up(
                x_ptr, x_scale_ptr, row, inside, channel, channels, stride_x, stride_sr, stride_sc,
                True, TILE,
            )  # fmt: skip
            s, p = _swiglu.silu(gate)
            if WEIGHTS:
                acc = tl.fma(grad, s * up, acc)
                grad = grad * weight[:, None]
            slope = tl.fma(s, 1.0 - p, p)
            _swiglu.write(
                (grad * up) * slope, q_ptr, scale_ptr, row, inside, channel, 2 * channels,
                stride_scale, POW2_SCALE, TILE,
            )  # fmt: skip
            _swiglu.write(
                grad * s, q_ptr, scale_ptr, row, inside, channels + channel, 2 * channels,
                stride_scale, POW2_SCALE, TILE,
            )  # fmt: skip
        if WEIGHTS:
            for halving in tl.static_range(HALVINGS):
                acc = tl.sum(tl.reshape(acc, (ROWS, TILE >> (halving + 1), 2)), axis=2)
            tl.store(grad_weight_ptr + row, tl.reshape(acc, (ROWS,)), mask=inside)


def swiglu_quant_backward(
    grad_h: torch.Tensor,
    gate_up_q: torch.Tensor,
    gate_up_scale: torch.Tensor,
    counts: torch.Tensor | None = None,
    row_weight: torch.Tensor | None = None,
    pow2_scale: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of gate and up, in e4m3 with one fp32 scale per 1x128 tile, and of the weights.

    grad_h: [R, I] bf16, stride 1 along I; I a multiple of 128.
    gate_up_q: [R, 2I] e4m3, stride 1 along 2I: gate and up as they were cached.
    gate_up_scale: [R, 2I/128] fp32, of any strides.
    counts: [E] int32, contiguous: rows of each expert (docs/decisions/0004); None where all rows count.
        A negative count counts as 0, and rows past R are nobody's.  E up to 1024, E * R up to 2^32.
    row_weight: [R] fp32, contiguous, as ``swiglu_quant`` had it, or None.
    pow2_scale: round every scale up to a power of two, so that re-tiling later is lossless.

    Returns (grad_gate_up_q [R, 2I] e4m3, grad_gate_up_scale [R, 2I/128] fp32, stored as ``act_quant``
    stores them, grad_row_weight [R] fp32 or None without row_weight).  With ``counts`` rows that are
    no expert's are neither read nor written.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    grouping = tuple(part for part in (counts, row_weight) if part is not None)
    key = layout(
        (grad_h, gate_up_q, gate_up_scale, *grouping),
        counts is None,
        row_weight is None,
        pow2_scale,
    )
    plan = _plans.get(key) or _plans.keep(
        key, _checked_plan(grad_h, gate_up_q, gate_up_scale, counts, row_weight, pow2_scale)
    )
    (rows, channels), device = grad_h.shape, grad_h.device
    q, scale = _swiglu.quantised_like(rows, 2 * channels, device)
    grad_weight = None
    if row_weight is not None:
        grad_weight = torch.empty(rows, dtype=torch.float32, device=device)
    if rows:
        plan(device, grad_h, gate_up_q, gate_up_scale, counts, row_weight, q, scale, grad_weight)
    return q, scale, grad_weight


def _checked_plan(
    grad_h: torch.Tensor,
    gate_up_q: torch.Tensor,
    gate_up_scale: torch.Tensor,
    counts: torch.Tensor | None,
    row_weight: torch.Tensor | None,
    pow2_scale: bool,
) -> Plan:
    rows, channels = _swiglu.gate_up("gate_up_q", gate_up_q, (torch.float8_e4m3fn,))
    strides = _swiglu.scales("gate_up_scale", gate_up_scale, "gate_up_q", gate_up_q)
    _check.tensor("grad_h", grad_h, (torch.bfloat16,), (rows, channels))
    _check.rows_contiguous("grad_h", grad_h)
    _swiglu.grouped(counts, row_weight, rows)
    _check.flag("pow2_scale", pow2_scale)
    others = _swiglu.present(
        gate_up_q=gate_up_q, gate_up_scale=gate_up_scale, counts=counts, row_weight=row_weight
    )
    _check.runnable("grad_h", grad_h, *others)
    experts, padded_experts = _swiglu.experts(counts)
    groups, tiles = triton.cdiv(rows, ROWS), channels // TILE
    if row_weight is None:
        tiles = math.gcd(tiles, MANY if groups * tiles >= ENOUGH * MANY else 2)
    return Plan(
        _swiglu_quant_backward_kernel, (groups * (channels // (tiles * TILE)),),
        (
            rows, channels, experts, grad_h.stride(0), gate_up_q.stride(0), *strides,
            (rows + 3) // 4 * 4,
        ),
        {
            "WEIGHTS": row_weight is not None, "EXPERTS": padded_experts, "POW2_SCALE": pow2_scale,
            "ROWS": ROWS, "TILES": tiles, "TILE": TILE, "HALVINGS": HALVINGS,
            "STAGES": STAGES if tiles >= MANY else 1,
        }, num_warps=WARPS, maxnreg=REGISTERS, enable_fp_fusion=False,
    )  # fmt: skip

"""Quantisation along tokens and transposition in one pass; the twin of
reference_impl/act_quant_transpose.py.

Bound: memory.  2 bytes in for bf16, 1 + 4/128 for e4m3, and 1 + 4/128 out an element.
Plan: one program takes 128 tokens by 64 or 128 channels, a tile of each.  It reads four tensors of 32
rows, the rows r = 0, 1, 2, 3 mod 4, 16 bytes a thread along channels, so that each thread has four
tokens of a channel at hand: their payloads are one word, made without any exchange.  The words are
then transposed through shared memory, a quarter of the accesses that bytes would take, and stored 16
bytes a thread along tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _check, _swiglu
from kernels._device import Plan, Plans, layout
from kernels._pow2 import quantised, scale_of
from kernels._quant import INF_BITS, magnitude_bits

TILE = 128
WORDS = TILE // 4
VECTOR = 16  # channels that a thread may read at once
# Channels and warps of a program: 64 elements a thread, and of e4m3 a whole tile of the scales.
BLOCKS = {torch.bfloat16: (64, 4), torch.float8_e4m3fn: (128, 8)}

_plans = Plans()


@triton.jit
def _act_quant_transpose_kernel(
    x_ptr, x_scale_ptr, counts_ptr, q_ptr, scale_ptr, lost_ptr,
    rows, channels, experts, stride_x, stride_sr, stride_sc, stride_q,
    SCALES: tl.constexpr, EXPERTS: tl.constexpr, POW2_SCALE: tl.constexpr,
    CHANNELS: tl.constexpr, TILE: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(channels, CHANNELS)
    block = tl.program_id(0) % blocks
    group = tl.program_id(0) // blocks
    end = _swiglu.rows_end(counts_ptr, rows, experts, group * TILE, EXPERTS)
    words = tl.arange(0, WORDS)
    row = group * TILE + words * 4
    columns = block * CHANNELS + tl.arange(0, CHANNELS)
    held = columns < channels
    lost = 0
    if group * TILE < end:
        x, x_scale = x_ptr + columns, x_scale_ptr
        if SCALES:
            x_scale = x_scale_ptr + block.to(tl.int64) * stride_sc
        v0 = _numbers(x, x_scale, row, end, held, stride_x, stride_sr, SCALES)
        v1 = _numbers(x, x_scale, row + 1, end, held, stride_x, stride_sr, SCALES)
        v2 = _numbers(x, x_scale, row + 2, end, held, stride_x, stride_sr, SCALES)
        v3 = _numbers(x, x_scale, row + 3, end, held, stride_x, stride_sr, SCALES)
        amax_bits = tl.maximum(
            tl.maximum(magnitude_bits(v0), magnitude_bits(v1)),
            tl.maximum(magnitude_bits(v2), magnitude_bits(v3)),
        )
        scale = scale_of(tl.max(amax_bits, axis=0), POW2_SCALE)
        tl.store(scale_ptr + group.to(tl.int64) * channels + columns, scale, mask=held)
        # Neighbours in the last dimensions, so that the casts, two at a time, make halves of a word.
        v = tl.join(tl.join(v0, v2), tl.join(v1, v3))
        q = quantised(v, scale[None, :, None, None], POW2_SCALE)
        if SCALES:
            lost = tl.sum(_changed(v, q, scale[None, :, None, None]).to(tl.int32))
            # Rows past the end hold 0, which is another number only under a scale of Inf or NaN.
            past = tl.maximum(group * TILE + TILE - end, 0)
            spoiled = held & (scale.to(tl.int32, bitcast=True) >= INF_BITS)
            lost -= past * tl.sum(spoiled.to(tl.int32))
        # Padding is zero also where its tile's scale is NaN.
        word = _word(q) & _kept(end - row)[:, None]
        tl.store(
            q_ptr + columns[None, :].to(tl.int64) * stride_q + (group * WORDS + words)[:, None],
            word, mask=held[None, :],
        )  # fmt: skip
    if SCALES:
        tl.store(lost_ptr + tl.program_id(0), lost)


@triton.jit
def _numbers(x, scale, row, end, held, stride_x, stride_s, SCALES: tl.constexpr):
    """[rows, channels] fp32, times the row's scale where there are; 0 past the end."""
    inside = row < end
    wide = row.to(tl.int64)
    mask = inside[:, None] & held[None, :]
    v = tl.load(x[None, :] + wide[:, None] * stride_x, mask=mask, other=0.0).to(tl.float32)
    if SCALES:
        v = v * tl.load(scale + wide * stride_s, mask=inside, other=1.0)[:, None]
    return v


@triton.jit
def _changed(v, q, scale):
    return q.to(tl.float32) * scale != v


@triton.jit
def _word(q):
    """[.., 2, 2] payloads of rows 0, 2 and 1, 3 as words, the first row in the lowest byte."""
    even, odd = tl.split(q.to(tl.uint8, bitcast=True).to(tl.int32))
    half = even | (odd << 8)
    low, high = tl.split(half)
    return low | (high << 16)


@triton.jit
def _kept(rows):
    """A word of ones in the bytes of the first ``rows`` of four."""
    bits = tl.minimum(tl.maximum(rows, 0), 4) * 8
    return tl.where(bits == 32, -1, (1 << tl.minimum(bits, 31)) - 1)


def act_quant_transpose(
    x: torch.Tensor,
    x_scale: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
    pow2_scale: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Quantise to e4m3 with one fp32 scale for 128 tokens of a channel, and transpose.

    x: [R, C] bf16 or e4m3, stride 1 along C.  C: for bf16 a multiple of 16, for e4m3 of 128.
    x_scale: [R, C/128] fp32, of any strides, for e4m3; None for bf16.
    counts: [E] int32, contiguous: rows of each expert (docs/decisions/0004); None where all rows count.
    pow2_scale: round every scale up to a power of two, without which a re-tile is not exact.

    Returns (q_t [C, R] e4m3, scale [R/128, C] fp32 contiguous, lost [R/128, C/128] int32 contiguous,
    or None for bf16), R/128 rounded up.  The rows of q_t lie R apart, rounded up to 128, as TMA wants
    them; what is between R and there is zero.  With ``counts`` the padding of a segment is zero in
    q_t, and columns past the last segment and their scales are not written.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    given = tuple(part for part in (x, x_scale, counts) if part is not None)
    key = layout(given, x_scale is None, counts is None, pow2_scale)
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(x, x_scale, counts, pow2_scale))
    (rows, channels), device = x.shape, x.device
    groups = triton.cdiv(rows, TILE)
    words = torch.empty(channels, groups * WORDS, dtype=torch.int32, device=device)
    scale = torch.empty(groups, channels, dtype=torch.float32, device=device)
    lost = None
    if x_scale is not None:
        lost = torch.empty(groups, channels // TILE, dtype=torch.int32, device=device)
    if rows:
        plan(device, x, x_scale, counts, words, scale, lost)
    return words.view(torch.float8_e4m3fn)[:, :rows], scale, lost


def _checked_plan(
    x: torch.Tensor, x_scale: torch.Tensor | None, counts: torch.Tensor | None, pow2_scale: bool
) -> Plan:
    _check.tensor("x", x, (torch.bfloat16, torch.float8_e4m3fn), (None, None))
    _check.rows_contiguous("x", x)
    rows, channels = x.shape
    _check.multiple("x", "C", channels, VECTOR if x.dtype == torch.bfloat16 else TILE)
    _check.whole("x: C", channels, VECTOR, _swiglu.MAX_ROWS)
    _check.whole("x: R", rows, 0, _swiglu.MAX_ROWS - TILE)
    strides = _swiglu.scales("x_scale", x_scale, "x", x)
    _swiglu.grouped(counts, None, rows)
    _check.flag("pow2_scale", pow2_scale)
    _check.runnable("x", x, *_swiglu.present(x_scale=x_scale, counts=counts))
    groups, (block, warps) = triton.cdiv(rows, TILE), BLOCKS[x.dtype]
    experts, padded_experts = _swiglu.experts(counts)
    return Plan(
        _act_quant_transpose_kernel, (groups * triton.cdiv(channels, block),),
        (rows, channels, experts, x.stride(0), *strides, groups * WORDS),
        {
            "SCALES": x_scale is not None, "EXPERTS": padded_experts, "POW2_SCALE": pow2_scale,
            "CHANNELS": block, "TILE": TILE, "WORDS": WORDS,
        }, num_warps=warps,
    )  # fmt: skip

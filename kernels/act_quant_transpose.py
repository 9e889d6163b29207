"""Quantisation along tokens and transposition in one pass; the twin of
reference_impl/act_quant_transpose.py.

Bound: memory.  2 bytes in for bf16, 1 + 4/128 for e4m3, and 1 + 4/128 out an element.
Plan: one program takes 128 tokens by 64 or 128 channels, a tile of each.  It reads four tensors of 32
rows, the rows r = 0, 1, 2, 3 mod 4, some channels a thread, so that each thread has four tokens of a
channel at hand: their payloads are one word, made without any exchange.  The words are then transposed
through shared memory, a quarter of the accesses that bytes would take, and stored 16 bytes a thread
along tokens.  Fewer channels a thread means more loads and fewer exchanges for the maxima.

What a re-tile loses costs most of its instructions.  Where all scales are powers of two, which is what
it is for, one addition and its undoing in fp32 tell what is lost; otherwise the payloads are multiplied
by their scales and compared.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton import knobs

from kernels import _check, _swiglu
from kernels._device import Plan, Plans, layout
from kernels._pow2 import inverse_of, quantised, scale_of
from kernels._quant import INF_BITS, magnitude_bits, quotient

TILE = 128
WORDS = TILE // 4
VECTOR = 16  # channels that a thread may read at once


class Block(NamedTuple):
    """How the work is cut: channels and warps of a program, channels that a thread reads at once, and
    whether tiles without padding are read apart, without masks; that takes whole blocks of channels."""

    channels: int
    warps: int
    at_once: int
    full: bool = False


BLOCKS = {torch.bfloat16: Block(64, 4, 4), torch.float8_e4m3fn: Block(TILE, 4, 8, full=True)}
MANTISSA = tl.constexpr((1 << 23) - 1)
LEAST_POWER = tl.constexpr((127 - 64) << 23)
GREATEST_POWER = tl.constexpr((127 + 64) << 23)

_plans = Plans()


@triton.jit
def _act_quant_transpose_kernel(
    x_ptr, x_scale_ptr, counts_ptr, q_ptr, scale_ptr, lost_ptr,
    rows, channels, experts, stride_x, stride_sr, stride_sc, stride_q,
    SCALES: tl.constexpr, EXPERTS: tl.constexpr, POW2_SCALE: tl.constexpr,
    CHANNELS: tl.constexpr, AT_ONCE: tl.constexpr, TILE: tl.constexpr, WORDS: tl.constexpr,
    FULL: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(channels, CHANNELS)
    block = tl.program_id(0) % blocks
    group = tl.program_id(0) // blocks
    end = _swiglu.rows_end(counts_ptr, rows, experts, group * TILE, EXPERTS)
    words = tl.arange(0, WORDS)
    row = group * TILE + words * 4
    columns = block * CHANNELS + tl.arange(0, CHANNELS)
    near = tl.max_contiguous(columns, AT_ONCE)
    held = columns < channels
    lost = 0
    if group * TILE < end:
        x, x_scale = x_ptr + near, x_scale_ptr
        if SCALES:
            x_scale = x_scale_ptr + block.to(tl.int64) * stride_sc
        v0, v1, v2, v3 = _four(
            x, x_scale, group * TILE, end, held, stride_x, stride_sr, SCALES, FULL, WORDS, TILE
        )  # fmt: skip
        amax = _larger(_larger(tl.abs(v0), tl.abs(v1)), _larger(tl.abs(v2), tl.abs(v3)))
        scale = scale_of(tl.max(magnitude_bits(amax), axis=0), POW2_SCALE)
        tl.store(scale_ptr + group.to(tl.int64) * channels + columns, scale, mask=held)
        v0, v1 = _quotient(v0, scale, POW2_SCALE), _quotient(v1, scale, POW2_SCALE)
        v2, v3 = _quotient(v2, scale, POW2_SCALE), _quotient(v3, scale, POW2_SCALE)
        word = _word(v0, v1, v2, v3, PACK)
        if SCALES:
            lost = _lost(
                v0, v1, v2, v3, scale, x, x_scale, group * TILE, end, held, stride_x,
                stride_sr, POW2_SCALE, PACK, WORDS, CHANNELS, TILE,
            )  # fmt: skip
        if group * TILE + TILE > end:
            # Padding is zero also where its tile's scale is NaN.
            word = word & _kept(end - row)[:, None]
        tl.store(
            q_ptr + columns[None, :].to(tl.int64) * stride_q + (group * WORDS + words)[:, None],
            word, mask=held[None, :],
        )  # fmt: skip
    if SCALES:
        tl.store(lost_ptr + tl.program_id(0), lost)


@triton.jit
def _four(
    x, scale, first, end, held, stride_x, stride_s, SCALES: tl.constexpr, FULL: tl.constexpr,
    WORDS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """``_numbers`` of the rows r = 0, 1, 2, 3 mod 4 of a tile that begins with row ``first``."""
    row = first + tl.arange(0, WORDS) * 4
    if FULL and first + TILE <= end:
        v0 = _numbers(x, scale, row, end, held, stride_x, stride_s, SCALES, True)
        v1 = _numbers(x, scale, row + 1, end, held, stride_x, stride_s, SCALES, True)
        v2 = _numbers(x, scale, row + 2, end, held, stride_x, stride_s, SCALES, True)
        v3 = _numbers(x, scale, row + 3, end, held, stride_x, stride_s, SCALES, True)
    else:
        v0 = _numbers(x, scale, row, end, held, stride_x, stride_s, SCALES, False)
        v1 = _numbers(x, scale, row + 1, end, held, stride_x, stride_s, SCALES, False)
        v2 = _numbers(x, scale, row + 2, end, held, stride_x, stride_s, SCALES, False)
        v3 = _numbers(x, scale, row + 3, end, held, stride_x, stride_s, SCALES, False)
    return v0, v1, v2, v3


@triton.jit
def _numbers(
    x, scale, row, end, held, stride_x, stride_s, SCALES: tl.constexpr, FULL: tl.constexpr
):  # fmt: skip
    """[rows, channels] fp32, times the row's scale where there are; 0 past the end."""
    wide = row.to(tl.int64)
    inside = row < end
    if FULL:
        v = tl.load(x[None, :] + wide[:, None] * stride_x).to(tl.float32)
    else:
        mask = inside[:, None] & held[None, :]
        v = tl.load(x[None, :] + wide[:, None] * stride_x, mask=mask, other=0.0).to(tl.float32)
    if SCALES:
        if FULL:
            factor = tl.load(scale + wide * stride_s)
        else:
            factor = tl.load(scale + wide * stride_s, mask=inside, other=1.0)
        v = v * factor[:, None]
    return v


@triton.jit
def _larger(a, b):
    """The larger number, NaN where one is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _lost(
    v0, v1, v2, v3, scale, x, x_scale, first, end, held, stride_x, stride_s,
    POW2_SCALE: tl.constexpr, PACK: tl.constexpr, WORDS: tl.constexpr, CHANNELS: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """How many numbers of a tile that begins with row ``first`` its payloads do not give back.

    v0 to v3: [WORDS, CHANNELS], the numbers divided by ``scale``.
    """
    if POW2_SCALE:
        lost = tl.sum(_rounded(v0, v1, v2, v3, PACK))
        if not _plain(x_scale, first, end, stride_s, TILE):
            lost = _compared(
                scale, x, x_scale, first, end, held, stride_x, stride_s, True, WORDS, CHANNELS
            )
    else:
        lost = _compared(
            scale, x, x_scale, first, end, held, stride_x, stride_s, False, WORDS, CHANNELS
        )
    past = first + TILE - end
    if past > 0:
        # Rows past the end hold 0, which is another number only under a scale of Inf or NaN.
        spoiled = held & (scale.to(tl.int32, bitcast=True) >= INF_BITS)
        lost -= past * tl.sum(spoiled.to(tl.int32))
    return lost


@triton.jit
def _compared(
    scale, x, x_scale, first, end, held, stride_x, stride_s,
    POW2_SCALE: tl.constexpr, WORDS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``_lost``, of any numbers, padding included: all are read again, which spares registers."""
    row = first + tl.arange(0, WORDS) * 4
    count = tl.zeros((WORDS, CHANNELS), tl.int32)
    for part in range(4):
        v = _numbers(x, x_scale, row + part, end, held, stride_x, stride_s, True, False)
        count += _changed(v, scale, POW2_SCALE)
    return tl.sum(count)


@triton.jit
def _rounded(v0, v1, v2, v3, PACK: tl.constexpr):
    """How many of four numbers, in units of their new scale, are not what their payload gives back.

    For numbers of up to 4 significant bits and 448, or NaN: the payload holds what is a multiple of
    2^-9, and 1.5 * 2^14 in fp32 takes up just that.
    """
    if PACK:
        # Four instructions for each number, where Triton's own take five.
        count = tl.inline_asm_elementwise(
            """{
            .reg .f32 t;
            .reg .pred p;
            mov.b32 $0, 0;
            add.f32 t, $1, 0f46C00000;
            add.f32 t, t, 0fC6C00000;
            setp.neu.f32 p, t, $1;
            @p add.s32 $0, $0, 1;
            add.f32 t, $2, 0f46C00000;
            add.f32 t, t, 0fC6C00000;
            setp.neu.f32 p, t, $2;
            @p add.s32 $0, $0, 1;
            add.f32 t, $3, 0f46C00000;
            add.f32 t, t, 0fC6C00000;
            setp.neu.f32 p, t, $3;
            @p add.s32 $0, $0, 1;
            add.f32 t, $4, 0f46C00000;
            add.f32 t, t, 0fC6C00000;
            setp.neu.f32 p, t, $4;
            @p add.s32 $0, $0, 1;
            }""", "=r,f,f,f,f", [v0, v1, v2, v3], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        count = _moved(v0) + _moved(v1) + _moved(v2) + _moved(v3)
    return count


@triton.jit
def _moved(v):
    return ((v + 24576.0) - 24576.0 != v).to(tl.int32)


@triton.jit
def _plain(scale, first, end, stride, TILE: tl.constexpr):
    """Whether the scales of all rows are powers of two from 2^-64 to 2^64.

    Then no v but 0 is 0 in units of the new scale, which is at most 2^65: v is at least 2^-9 * 2^-64.
    """
    row = first + tl.arange(0, TILE)
    number = tl.load(scale + row.to(tl.int64) * stride, mask=row < end, other=1.0)
    bits = number.to(tl.int32, bitcast=True)
    odd = ((bits & MANTISSA) != 0) | (bits < LEAST_POWER) | (bits > GREATEST_POWER)
    return tl.max(odd.to(tl.int32), axis=0) == 0


@triton.jit
def _changed(v, scale, POW2_SCALE: tl.constexpr):
    """1 where v of [rows, channels] is not what its payload gives back."""
    q = quantised(v, scale[None, :], POW2_SCALE)
    return (q.to(tl.float32) * scale[None, :] != v).to(tl.int32)


@triton.jit
def _quotient(v, scale, POW2_SCALE: tl.constexpr):
    """v / scale of [rows, channels], so that its e4m3 is the payload."""
    return v * inverse_of(scale)[None, :] if POW2_SCALE else quotient(v, scale[None, :])


@triton.jit
def _word(v0, v1, v2, v3, PACK: tl.constexpr):
    """e4m3 of four numbers as a word, the first in the lowest byte."""
    if PACK:
        # Triton's own casts go by way of bytes, six instructions for what is one.
        word = tl.inline_asm_elementwise(
            """{
            .reg .b16 low, high;
            cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;
            cvt.rn.satfinite.e4m3x2.f32 high, $4, $3;
            mov.b32 $0, {low, high};
            }""", "=r,f,f,f,f", [v0, v1, v2, v3], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        low = _byte(v0) | (_byte(v1) << 8)
        word = low | (_byte(v2) << 16) | (_byte(v3) << 24)
    return word


@triton.jit
def _byte(v):
    return v.to(tl.float8e4nv).to(tl.uint8, bitcast=True).to(tl.int32)


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
    groups, block = triton.cdiv(rows, TILE), BLOCKS[x.dtype]
    experts, padded_experts = _swiglu.experts(counts)
    return Plan(
        _act_quant_transpose_kernel, (groups * triton.cdiv(channels, block.channels),),
        (rows, channels, experts, x.stride(0), *strides, groups * WORDS),
        {
            "SCALES": x_scale is not None, "EXPERTS": padded_experts, "POW2_SCALE": pow2_scale,
            "CHANNELS": block.channels, "AT_ONCE": block.at_once, "TILE": TILE, "WORDS": WORDS,
            "FULL": block.full and pow2_scale,
            "PACK": not knobs.runtime.interpret,  # the interpreter knows no inline PTX
        }, num_warps=block.warps,
    )  # fmt: skip

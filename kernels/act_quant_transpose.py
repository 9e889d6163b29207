"""Quantisation along tokens and transposition in one pass; the twin of
reference_impl/act_quant_transpose.py.

Bound: memory.  2 bytes in for bf16, 1 + 4/128 for e4m3, and 1 + 4/128 out an element.
Plan: for e4m3, kernels/_retile.py.  For bf16 the same with fewer channels: one program takes 128 tokens
by 64 channels, a tile of each.  It reads four tensors of 32 rows, the rows r = 0, 1, 2, 3 mod 4, 4
channels a thread, so that each thread has four tokens of a channel at hand: their payloads are one word,
made without any exchange.  The words are then transposed through shared memory, a quarter of the
accesses that bytes would take, and stored 16 bytes a thread along tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton import knobs

from kernels import _check, _swiglu
from kernels._device import Plan, Plans, layout, num_sms
from kernels._pow2 import inverse_of, scale_of
from kernels._quant import magnitude_bits, quotient
from kernels._retile import lasting_retile_kernel, retile_kernel

TILE = 128
WORDS = TILE // 4
VECTOR = 16  # channels that a thread may read at once
CHANNELS = 64  # of a program, for bf16; for e4m3 TILE
AT_ONCE = {torch.bfloat16: 4, torch.float8_e4m3fn: 4}  # channels that a thread reads
WARPS = 4
# Of e4m3, rows of the buffer for each expert from which on most may be nobody's, as on a rank: then this
# many programs a multiprocessor last, and take tile after tile of those that have rows.
SPARSE, LASTING = 2048, 3
REGISTERS = 168  # a thread, which that many leave room for
# Counts that each of them adds up at least: with fewer than two a thread ptxas makes half as much code again.
LEAST_EXPERTS = 256

_plans = Plans()


@triton.jit
def _act_quant_transpose_kernel(
    x_ptr, counts_ptr, q_ptr, scale_ptr, rows, channels, experts, stride_x, stride_q,
    CHANNELS: tl.constexpr, EXPERTS: tl.constexpr, POW2_SCALE: tl.constexpr,
    AT_ONCE: tl.constexpr, TILE: tl.constexpr, WORDS: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(channels, CHANNELS)
    block = tl.program_id(0) % blocks
    group = tl.program_id(0) // blocks
    end = _swiglu.rows_end(counts_ptr, rows, experts, group * TILE, EXPERTS)
    words = tl.arange(0, WORDS)
    row = group * TILE + words * 4
    columns = block * CHANNELS + tl.arange(0, CHANNELS)
    held = columns < channels
    if group * TILE < end:
        x = x_ptr + tl.max_contiguous(columns, AT_ONCE)
        v0 = _numbers(x, row, end, held, stride_x)
        v1 = _numbers(x, row + 1, end, held, stride_x)
        v2 = _numbers(x, row + 2, end, held, stride_x)
        v3 = _numbers(x, row + 3, end, held, stride_x)
        amax = _larger(_larger(tl.abs(v0), tl.abs(v1)), _larger(tl.abs(v2), tl.abs(v3)))
        scale = scale_of(tl.max(magnitude_bits(amax), axis=0), POW2_SCALE)
        tl.store(scale_ptr + group.to(tl.int64) * channels + columns, scale, mask=held)
        v0, v1 = _quotient(v0, scale, POW2_SCALE), _quotient(v1, scale, POW2_SCALE)
        v2, v3 = _quotient(v2, scale, POW2_SCALE), _quotient(v3, scale, POW2_SCALE)
        word = _word(v0, v1, v2, v3, PACK)
        if group * TILE + TILE > end:
            # Padding is zero also where its tile's scale is NaN.
            word = word & _kept(end - row)[:, None]
        tl.store(
            q_ptr + columns[None, :].to(tl.int64) * stride_q + (group * WORDS + words)[:, None],
            word, mask=held[None, :],
        )  # fmt: skip


@triton.jit
def _numbers(x, row, end, held, stride_x):
    """[rows, channels] fp32; 0 past the end."""
    mask = (row < end)[:, None] & held[None, :]
    at = x[None, :] + row.to(tl.int64)[:, None] * stride_x
    return tl.load(at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _larger(a, b):
    """The larger number, NaN where one is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


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
        A negative count counts as 0, and rows past R are nobody's.  E up to 1024, E * R up to 2^32.
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
        if x_scale is None:
            plan(device, x, counts, words, scale)
        else:
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
    groups = triton.cdiv(rows, TILE)
    experts, padded_experts = _swiglu.experts(counts)
    constants = {
        "EXPERTS": padded_experts, "POW2_SCALE": pow2_scale, "AT_ONCE": AT_ONCE[x.dtype],
        "TILE": TILE, "WORDS": WORDS,
        "PACK": not knobs.runtime.interpret,  # the interpreter knows no inline PTX
    }  # fmt: skip
    if x_scale is not None:
        tiles = groups * (channels // TILE)
        scalars = (rows, channels, experts, x.stride(0), *strides, groups * WORDS)
        programs = LASTING * num_sms(x.device)
        if experts and rows >= SPARSE * experts and tiles > programs:
            return Plan(
                lasting_retile_kernel, (programs,), scalars,
                constants | {"PROGRAMS": programs, "EXPERTS": max(LEAST_EXPERTS, padded_experts)},
                num_warps=WARPS, maxnreg=REGISTERS,
            )  # fmt: skip
        return Plan(retile_kernel, (tiles,), scalars, constants, num_warps=WARPS)
    return Plan(
        _act_quant_transpose_kernel, (groups * triton.cdiv(channels, CHANNELS),),
        (rows, channels, experts, x.stride(0), groups * WORDS),
        {"CHANNELS": CHANNELS} | constants, num_warps=WARPS,
    )  # fmt: skip

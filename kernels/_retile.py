"""The kernel of act_quant_transpose for payloads: scales along channels become scales along tokens.

Plan: one program takes 128 tokens by 128 channels, which is one tile of each.  It reads four tensors of 32
rows, the rows r = 0, 1, 2, 3 mod 4, some channels a thread, so that each thread has four tokens of a
channel at hand: their payloads are one word, made without any exchange.  The words are then transposed
through shared memory, a quarter of the accesses that bytes would take, and stored 16 bytes a thread
along tokens.

Instructions, not bytes, are what it would wait for.  Where the scales of a tile, old and new, are powers
of two, and the old ones none more than 2^14 below the largest, everything up to the payload is exact in
fp16, two numbers an instruction: payloads are multiples of 2^-9, so in units of the largest scale they
are multiples of 2^-23, and 2^-24 is the finest that fp16 holds; and at most 448.  So are the same numbers
in units of a new scale 2^-15 or more of the largest.  A tile with a smaller one, with NaN or with scales
beyond 2^-64 to 2^64 is read twice more and worked out in fp32, as are all for scales of any value.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels import _swiglu
from kernels._grouped import held
from kernels._pow2 import inverse_of, quantised, scale_of
from kernels._quant import INF_BITS, magnitude_bits, quotient

NARROW = tl.constexpr(32)  # channels at a time, where scales are no close powers of two
LEAST_POWER = tl.constexpr((127 - 64) << 23)
GREATEST_POWER = tl.constexpr((127 + 64) << 23)
APART = tl.constexpr(14 << 23)  # of the exponents of a tile's scales
MANTISSA = tl.constexpr((1 << 23) - 1)
# Of fp16: the bits of 448, its exponent, and the least exponent that 2^15 brings there.
HALF_448, OF_448, LEAST_HALF = tl.constexpr(0x5F00), tl.constexpr(23), tl.constexpr(8)
ABOVE = tl.constexpr(0x3FF - 0x300)
ONE = tl.constexpr(127 << 23)  # bits of fp32


# PTX for four channels of four tokens: a payload's four channels are one operand, in fp16 they are two.
def _product(payload: int, factor: int) -> str:
    """a, b: a token's payloads in fp16 times its factor, operands ``payload``, ``factor`` and the next."""
    return f"""
        mov.b32 {{low, high}}, ${payload};
        cvt.rn.f16x2.e4m3x2 a, low;
        cvt.rn.f16x2.e4m3x2 b, high;
        mul.rn.f16x2 a, a, ${factor};
        mul.rn.f16x2 b, b, ${factor + 1};"""


def _larger(token: int) -> str:
    """$0, $1: the larger magnitudes of those so far and a, b."""
    if token == 0:
        return """
        abs.f16x2 $0, a;
        abs.f16x2 $1, b;"""
    return """
        abs.f16x2 a, a;
        abs.f16x2 b, b;
        max.NaN.f16x2 $0, $0, a;
        max.NaN.f16x2 $1, $1, b;"""


def _payload(token: int) -> str:
    """p, q: a, b in the new scale, as payloads; m, n: one more where they are not what they were.

    A number of four bits is kept if it is a multiple of 2^-9, which 3 in fp16 takes up and no less; from
    2^-5 on each is one.  Converting back would tell as well, but ptxas gets that wrong (docs/log.md).
    """
    return f"""
        mul.rn.f16x2 a, a, $17;
        mul.rn.f16x2 b, b, $18;
        cvt.rn.satfinite.e4m3x2.f16x2 p{token}, a;
        cvt.rn.satfinite.e4m3x2.f16x2 q{token}, b;
        abs.f16x2 a, a;
        abs.f16x2 b, b;
        min.f16x2 a, a, least;
        min.f16x2 b, b, least;
        add.rn.f16x2 c, a, three;
        add.rn.f16x2 d, b, three;
        sub.rn.f16x2 c, c, three;
        sub.rn.f16x2 d, d, three;
        set.neu.f16x2.f16x2 one, a, c;
        add.rn.f16x2 m, m, one;
        set.neu.f16x2.f16x2 one, b, d;
        add.rn.f16x2 n, n, one;"""


LARGEST = tl.constexpr(
    """{
        .reg .b16 low, high;
        .reg .b32 a, b;"""
    + "".join(_product(2 + token, 6 + 2 * token) + _larger(token) for token in range(4))
    + """
        }"""
)
# m and n begin at 1024, of which fp16 has the ones in the lowest bits.
REWRITTEN = tl.constexpr(
    """{
        .reg .b16 low, high, p0, q0, p1, q1, p2, q2, p3, q3;
        .reg .b32 a, b, c, d, m, n, one, three, least;
        mov.b32 three, 0x42004200;
        mov.b32 least, 0x28002800;
        mov.b32 m, 0x64006400;
        mov.b32 n, 0x64006400;"""
    + "".join(_product(5 + token, 9 + 2 * token) + _payload(token) for token in range(4))
    + """
        mov.b32 a, {p0, p1};
        mov.b32 b, {p2, p3};
        mov.b32 c, {q0, q1};
        mov.b32 d, {q2, q3};
        prmt.b32 $0, a, b, 0x6420;
        prmt.b32 $1, a, b, 0x7531;
        prmt.b32 $2, c, d, 0x6420;
        prmt.b32 $3, c, d, 0x7531;
        prmt.b32 $4, m, n, 0x6420;
        }"""
)


@triton.jit
def retile_kernel(
    x_ptr, x_scale_ptr, counts_ptr, q_ptr, scale_ptr, lost_ptr,
    rows, channels, experts, stride_x, stride_sr, stride_sc, stride_q,
    EXPERTS: tl.constexpr, POW2_SCALE: tl.constexpr, AT_ONCE: tl.constexpr, TILE: tl.constexpr,
    WORDS: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """A tile a program."""
    tile = tl.program_id(0)
    first = tile // (channels // TILE) * TILE
    end = _swiglu.rows_end(counts_ptr, rows, experts, first, EXPERTS)
    lost = 0
    if first < end:
        lost = _retile(
            x_ptr, x_scale_ptr, q_ptr, scale_ptr, tile, end, channels,
            stride_x, stride_sr, stride_sc, stride_q, POW2_SCALE, AT_ONCE, TILE, WORDS, PACK,
        )  # fmt: skip
    tl.store(lost_ptr + tile, lost)


@triton.jit
def lasting_retile_kernel(
    x_ptr, x_scale_ptr, counts_ptr, q_ptr, scale_ptr, lost_ptr,
    rows, channels, experts, stride_x, stride_sr, stride_sc, stride_q,
    EXPERTS: tl.constexpr, POW2_SCALE: tl.constexpr, AT_ONCE: tl.constexpr, TILE: tl.constexpr,
    WORDS: tl.constexpr, PACK: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """PROGRAMS, which take tile after tile of those that have rows."""
    mine = tl.program_id(0)
    starts, ends, groups = _segments(counts_ptr, experts, rows, EXPERTS)
    tiles = tl.cdiv(rows, TILE) * (channels // TILE)
    taken = groups * (channels // TILE)
    for tile in range(mine, taken, PROGRAMS):
        # Once more for each tile: they would take registers all the time.
        starts, ends, groups = _segments(counts_ptr, experts, rows, EXPERTS)
        first = tile // (channels // TILE) * TILE
        # Behind the rows of all segments that begin before it.
        end = tl.max(tl.where(starts <= first, ends, 0), axis=0)
        lost = _retile(
            x_ptr, x_scale_ptr, q_ptr, scale_ptr, tile, end, channels,
            stride_x, stride_sr, stride_sc, stride_q, POW2_SCALE, AT_ONCE, TILE, WORDS, PACK,
        )  # fmt: skip
        tl.store(lost_ptr + tile, lost)
    for start in range(taken + mine * TILE, tiles, PROGRAMS * TILE):
        empty = start + tl.arange(0, TILE)
        tl.store(lost_ptr + empty, tl.zeros((TILE,), tl.int32), mask=empty < tiles)


@triton.jit
def _segments(counts_ptr, experts, rows, EXPERTS: tl.constexpr):
    """([EXPERTS] first row of each segment, [EXPERTS] end of its rows, groups of 128 rows in all), none
    of them behind the last 128 ``rows`` of the buffer, whatever the counts are."""
    places = tl.arange(0, EXPERTS)
    counts = held(tl.load(counts_ptr + places, mask=places < experts, other=0), rows)
    groups = (counts + 127) >> 7
    most = (rows + 127) >> 7
    starts = tl.minimum(tl.cumsum(groups, axis=0) - groups, most) << 7
    ends = starts + tl.minimum(counts, rows - starts)
    return starts, ends, tl.minimum(tl.sum(groups, axis=0), most)


@triton.jit
def _retile(
    x_ptr, x_scale_ptr, q_ptr, scale_ptr, tile, end, channels,
    stride_x, stride_sr, stride_sc, stride_q,
    POW2_SCALE: tl.constexpr, AT_ONCE: tl.constexpr, TILE: tl.constexpr, WORDS: tl.constexpr,
    PACK: tl.constexpr,
):  # fmt: skip
    """Re-tiles a tile that has rows, in fp16 if that will do; returns how many numbers it lost."""
    blocks = channels // TILE
    block, group = tile % blocks, tile // blocks
    x_scale = x_scale_ptr + block.to(tl.int64) * stride_sc
    done, lost = False, 0
    if PACK and POW2_SCALE:
        columns = block * TILE + tl.arange(0, TILE)
        x = x_ptr + tl.max_contiguous(columns, AT_ONCE)
        q = q_ptr + columns.to(tl.int64) * stride_q + group * WORDS
        new_scale = scale_ptr + group.to(tl.int64) * channels + columns
        done, lost = _packed(
            x, x_scale, q, new_scale, group * TILE, end, stride_x, stride_sr, WORDS
        )  # fmt: skip
    if not done:
        lost = _tile(
            x_ptr, x_scale, q_ptr, scale_ptr, block, group, end, channels, stride_x, stride_sr,
            stride_q, POW2_SCALE, PACK, WORDS, TILE,
        )  # fmt: skip
    return lost


@triton.jit
def _tile(
    x_ptr, x_scale, q_ptr, scale_ptr, block, group, end, channels, stride_x, stride_s, stride_q,
    POW2_SCALE: tl.constexpr, PACK: tl.constexpr, WORDS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Re-tiles any numbers; returns how many of them the payloads do not give back."""
    lost = 0
    # Loops, few channels at a time, and everything read twice: that spares registers, of which a kernel
    # takes as many as its greediest path.
    for start in range(0, TILE, NARROW):
        columns = block * TILE + start + tl.arange(0, NARROW)
        row = group * TILE + tl.arange(0, WORDS) * 4
        amax = tl.zeros((WORDS, NARROW), tl.float32)
        for part in range(4):
            v = _numbers(x_ptr + columns, x_scale, row + part, end, stride_x, stride_s)
            amax = tl.maximum(amax, tl.abs(v), propagate_nan=tl.PropagateNan.ALL)
        scale = scale_of(tl.max(magnitude_bits(amax), axis=0), POW2_SCALE)
        word = tl.zeros((WORDS, NARROW), tl.int32)
        for part in range(4):
            v = _numbers(x_ptr + columns, x_scale, row + part, end, stride_x, stride_s)
            # Padding is zero, and nothing of it lost, also where the tile's scale is NaN.
            inside = (row + part < end)[:, None]
            word |= tl.where(inside, _byte(v, scale, POW2_SCALE, PACK), 0) << (8 * part)
            payload = quantised(v, scale[None, :], POW2_SCALE)
            changed = inside & (payload.to(tl.float32) * scale[None, :] != v)
            lost += tl.sum(changed.to(tl.int32))
        tl.store(scale_ptr + group.to(tl.int64) * channels + columns, scale)
        q = q_ptr + columns.to(tl.int64)[None, :] * stride_q
        tl.store(q + (group * WORDS + tl.arange(0, WORDS))[:, None], word)
    return lost


@triton.jit
def _byte(v, scale, POW2_SCALE: tl.constexpr, PACK: tl.constexpr):
    """The payload of v of [rows, channels] as int32."""
    v = v * inverse_of(scale)[None, :] if POW2_SCALE else quotient(v, scale[None, :])
    if PACK:
        # Triton's own casts, and the shift of what they give, lose their places (docs/log.md).
        byte = tl.inline_asm_elementwise(
            """{
            .reg .b16 pair;
            .reg .f32 zero;
            mov.f32 zero, 0f00000000;
            cvt.rn.satfinite.e4m3x2.f32 pair, zero, $1;
            cvt.u32.u16 $0, pair;
            }""", "=r,f", [v], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        byte = v.to(tl.float8e4nv).to(tl.uint8, bitcast=True).to(tl.int32)
    return byte


@triton.jit
def _numbers(x, scale, row, end, stride_x, stride_s):
    """[rows, channels] fp32: payload times scale; 0 past the end."""
    wide, inside = row.to(tl.int64), row < end
    v = tl.load(x[None, :] + wide[:, None] * stride_x, mask=inside[:, None], other=0.0)
    factor = tl.load(scale + wide * stride_s, mask=inside, other=1.0)
    return v.to(tl.float32) * factor[:, None]


@triton.jit
def _packed(x, x_scale, q, new_scale, first, end, stride_x, stride_s, WORDS: tl.constexpr):
    """(whether the tile could be worked out in fp16, and was; how many numbers it lost)."""
    row = first + tl.arange(0, WORDS) * 4
    # All loads before anything waits for one of them.
    v0, s0, e0 = _payloads(x, x_scale, row, end, stride_x, stride_s)
    v1, s1, e1 = _payloads(x, x_scale, row + 1, end, stride_x, stride_s)
    v2, s2, e2 = _payloads(x, x_scale, row + 2, end, stride_x, stride_s)
    v3, s3, e3 = _payloads(x, x_scale, row + 3, end, stride_x, stride_s)
    most = tl.maximum(tl.maximum(s0, s1), tl.maximum(s2, s3))
    least = tl.minimum(tl.minimum(e0, e1), tl.minimum(e2, e3))
    top, least = tl.reduce((most, least), 0, _extremes)
    near = (least >= LEAST_POWER) & (top <= GREATEST_POWER) & (top - least <= APART)
    f0, f1, f2, f3 = _factor(s0, top), _factor(s1, top), _factor(s2, top), _factor(s3, top)
    largest = _largest(v0, v1, v2, v3, f0, f1, f2, f3)
    half = tl.max(largest.to(tl.int16, bitcast=True).to(tl.int32), axis=0)
    # As scale_of, with exponents of fp16: what is above 1.75 * 2^e carries.  At most that of 448.
    power = tl.maximum((half + ABOVE) >> 10, LEAST_HALF)
    scale = tl.where(half == 0, ONE, top + ((power - OF_448) << 23)).to(tl.float32, bitcast=True)
    # NaN is larger than 448.
    fits = (half == 0) | (((half + ABOVE) >> 10 >= LEAST_HALF) & (half <= HALF_448))
    done = near & (tl.min(fits.to(tl.int32), axis=0) > 0)
    lost = 0
    if done:
        factor = _power(OF_448 - power)[None, :]
        word, changed = _words(v0, v1, v2, v3, f0, f1, f2, f3, factor)
        tl.store(new_scale, scale)
        tl.store(q[None, :] + tl.arange(0, WORDS)[:, None], word)
        lost = tl.sum(changed.to(tl.int32))
    return done, lost


@triton.jit
def _payloads(x, scale, row, end, stride_x, stride_s):
    """([rows, channels] uint8, 0 past the end; [rows] bits of their scales, 0 past the end; the same, but
    0 for what is no power of two, and those of Inf past the end)."""
    wide, inside = row.to(tl.int64), row < end
    v = tl.load(x[None, :] + wide[:, None] * stride_x, mask=inside[:, None], other=0.0)
    bits = tl.load(scale + wide * stride_s, mask=inside, other=0.0).to(tl.int32, bitcast=True)
    even = tl.where((bits & MANTISSA) == 0, bits, 0)
    return v.to(tl.uint8, bitcast=True), bits, tl.where(inside, even, INF_BITS)


@triton.jit
def _extremes(most, least, other_most, other_least):
    return tl.maximum(most, other_most), tl.minimum(least, other_least)


@triton.jit
def _factor(bits, top):
    """[rows, 1] fp16: a scale over the largest, if it is one of a tile for which this will do."""
    return _power(tl.maximum((bits - top) >> 23, -14))[:, None]


@triton.jit
def _power(exponent):
    """2^exponent in fp16, for -14 to 15."""
    return ((exponent + 15) << 10).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _largest(v0, v1, v2, v3, f0, f1, f2, f3):
    """fp16: the largest magnitude of four payloads, each times its factor; NaN where one is."""
    return tl.inline_asm_elementwise(
        LARGEST, "=&r,=&r,r,r,r,r,r,r,r,r,r,r,r,r", [v0, v1, v2, v3, f0, f1, f2, f3],
        dtype=tl.float16, is_pure=True, pack=4,
    )  # fmt: skip


@triton.jit
def _words(v0, v1, v2, v3, f0, f1, f2, f3, factor):
    """(int32: four payloads in their new scale, the first in the lowest byte; int8: how many of them
    are not what they were).  factor: fp16, the largest scale over the new one."""
    return tl.inline_asm_elementwise(
        REWRITTEN, "=&r,=&r,=&r,=&r,=&r,r,r,r,r,r,r,r,r,r,r,r,r,r,r",
        [v0, v1, v2, v3, f0, f1, f2, f3, factor], dtype=(tl.int32, tl.int8), is_pure=True, pack=4,
    )  # fmt: skip

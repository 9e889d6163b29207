"""Device code that the quantisers share; the twin of reference_impl/_quant.py."""

from __future__ import annotations

import triton
import triton.language as tl

E4M3_MAX = tl.constexpr(448.0)
INF_BITS = tl.constexpr(0x7F800000)
SIGN_BIT = tl.constexpr(-0x80000000)


@triton.jit
def magnitude_bits(x):
    """Bits of |x| as int32, for x in fp32.

    Their order is the order of the magnitudes with NaN above Inf, so an integer maximum finds amax
    and lets NaN through, which a floating maximum does not.
    """
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def scale_from_bits(amax_bits, amax_floor, POW2_SCALE: tl.constexpr, FLOOR: tl.constexpr):
    """Scale of a group from the bits of its amax: amax / 448, 1 where that is 0."""
    if FLOOR:
        # Positive numbers: the integer maximum is the number's, and NaN stays above.
        floor_bits = amax_floor.to(tl.float32).to(tl.int32, bitcast=True)
        amax_bits = tl.maximum(amax_bits, floor_bits)
    amax = amax_bits.to(tl.float32, bitcast=True)
    # 448 for 0 gives 1 too, and keeps zeros off the slow path of the division.
    scale = tl.div_rn(
        tl.where(amax_bits == 0, E4M3_MAX, amax), tl.full(amax.shape, E4M3_MAX, tl.float32)
    )
    if POW2_SCALE:
        up = (scale.to(tl.int32, bitcast=True) + 0x007FFFFF) & INF_BITS
        scale = tl.where(amax_bits > INF_BITS, amax, up.to(tl.float32, bitcast=True))
    return tl.where(scale == 0.0, 1.0, scale)


@triton.jit
def payload(x, scale):
    """x / scale in e4m3, for x and scale as ``quotient`` takes them."""
    q = quotient(x, scale)
    # The cast saturates (cvt.rn.satfinite): it is the clamp.
    return q.to(tl.float8e4nv)


@triton.jit
def quotient(x, scale):
    """A number of fp32 whose cast to e4m3 is x / scale as IEEE division, a clamp to +-448 and a cast
    give it; NaN stays NaN.

    x: fp32, no larger than about 448 scale.  scale: fp32, positive, Inf or NaN; broadcast to x.

    div.rn would send a whole warp down its slow path for one zero, and costs more than the memory
    takes.  So: one reciprocal a group, and for each element a quotient corrected once by its exact
    remainder.  That can miss fp32's nearest number by one, but never where e4m3 would round
    otherwise: tests/test_quotients.py tries every divisor and quotient that come close enough.
    Both are first multiplied by the power of two that brings a normal scale to [1, 2); what that
    underflows is below 2^-126 scale, of which e4m3 keeps the sign alone.
    """
    bits = scale.to(tl.int32, bitcast=True)
    exponent = tl.minimum(tl.maximum(bits >> 23, 1), 253)
    unit_bits = (254 - exponent) << 23
    # By Inf: 0 for what is finite and NaN for Inf, as a divisor of 0 and an inverse of -0 give too.
    infinite = bits == INF_BITS
    divisor = tl.where(infinite, 0.0, scale * unit_bits.to(tl.float32, bitcast=True))
    inverse = tl.div_rn(tl.full(scale.shape, -1.0, tl.float32), divisor)
    # As bits: Triton's constants know no -0.
    inverse = tl.where(infinite, SIGN_BIT, inverse.to(tl.int32, bitcast=True))
    inverse = tl.broadcast_to(inverse.to(tl.float32, bitcast=True), x.shape)

    # Numerator and inverse are negative, so that the remainder of -0, which is +0, leaves it its sign.
    numerator = x * (unit_bits | SIGN_BIT).to(tl.float32, bitcast=True)
    q = numerator * inverse
    remainder = tl.fma(q, tl.broadcast_to(divisor, x.shape), numerator)
    return tl.fma(remainder, inverse, q)

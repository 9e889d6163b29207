"""Scales that are powers of two, without a division: as ``scale_from_bits`` and ``payload`` have them."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels._quant import INF_BITS, payload, scale_from_bits

TWICE_BIAS = tl.constexpr(254 << 23)
EIGHT = tl.constexpr(8 << 23)
SMALLEST = tl.constexpr(1 << 23)  # 2^-126
ABOVE = tl.constexpr(0x7FFFFF - 0x600000)  # carries into the exponent what is above 1.75 * 2^e
ZERO = tl.constexpr(224)  # bits of the largest amax for which amax / 448 is 0


@triton.jit
def scale_of(amax_bits, POW2_SCALE: tl.constexpr):
    """Scale of a group from the bits of its amax, as ``scale_from_bits`` gives it without a floor.

    448 is 1.75 * 2^8, so amax = m * 2^e has 2^(e - 8) where m is at most 1.75 and twice that above;
    the quotient of the smallest such m rounds to more than 1 in fp32 as well.
    """
    if POW2_SCALE:
        up = ((amax_bits + ABOVE) & INF_BITS) - EIGHT
        bits = tl.maximum(up, SMALLEST)
        bits = tl.where(amax_bits >= INF_BITS, amax_bits, bits)
        scale = tl.where(amax_bits <= ZERO, 1.0, bits.to(tl.float32, bitcast=True))
    else:
        scale = scale_from_bits(amax_bits, 0.0, False, False)
    return scale


@triton.jit
def quantised(x, scale, POW2_SCALE: tl.constexpr):
    """x / scale in e4m3, for a scale of ``scale_of``, fp32, broadcast to x."""
    return _payload(x, scale) if POW2_SCALE else payload(x, scale)


@triton.jit
def _payload(x, scale):
    """The same bits as ``payload`` for a scale of 2^-126 to 2^126, Inf or NaN, in one product.

    It rounds only below fp32's smallest normal number, of which e4m3 keeps the sign alone.
    """
    # The cast saturates (cvt.rn.satfinite), though nothing here is above 448.
    return (x * inverse_of(scale)).to(tl.float8e4nv)


@triton.jit
def inverse_of(scale):
    """1 / scale, for a scale of 2^-126 to 2^126, Inf or NaN."""
    bits = scale.to(tl.int32, bitcast=True)
    # By Inf: 0 for what is finite and NaN for Inf.  NaN stays.
    inverse = tl.where(bits < INF_BITS, TWICE_BIAS - bits, tl.where(bits == INF_BITS, 0, bits))
    return inverse.to(tl.float32, bitcast=True)

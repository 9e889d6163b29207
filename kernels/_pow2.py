"""Payloads under scales that are powers of two: a product with the inverse, which is exact."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels._quant import INF_BITS, payload

TWICE_BIAS = tl.constexpr(254 << 23)


@triton.jit
def quantised(x, scale, POW2_SCALE: tl.constexpr):
    """x / scale in e4m3, for a scale of ``scale_from_bits``, fp32, broadcast to x."""
    return _payload(x, scale) if POW2_SCALE else payload(x, scale)


@triton.jit
def _payload(x, scale):
    """The same bits as ``payload`` for a scale of 2^-126 to 2^126, Inf or NaN, in one product.

    It rounds only below fp32's smallest normal number, of which e4m3 keeps the sign alone.
    """
    bits = scale.to(tl.int32, bitcast=True)
    # By Inf: 0 for what is finite and NaN for Inf.  NaN stays.
    inverse = tl.where(bits < INF_BITS, TWICE_BIAS - bits, tl.where(bits == INF_BITS, 0, bits))
    # The cast saturates (cvt.rn.satfinite), though nothing here is above 448.
    return (x * inverse.to(tl.float32, bitcast=True)).to(tl.float8e4nv)

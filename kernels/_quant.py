"""Device code that the quantisers share; the twin of reference_impl/_quant.py."""

from __future__ import annotations

import triton
import triton.language as tl

E4M3_MAX = tl.constexpr(448.0)
INF_BITS = tl.constexpr(0x7F800000)


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
    scale = tl.div_rn(amax, tl.full(amax.shape, E4M3_MAX, tl.float32))
    if POW2_SCALE:
        up = (scale.to(tl.int32, bitcast=True) + 0x007FFFFF) & INF_BITS
        scale = tl.where(amax_bits > INF_BITS, amax, up.to(tl.float32, bitcast=True))
    return tl.where(scale == 0.0, 1.0, scale)


@triton.jit
def payload(x, scale):
    """x / scale, IEEE division, clamped to +-448 and cast to e4m3; NaN stays NaN."""
    q = tl.div_rn(x, scale)
    q = tl.clamp(q, -E4M3_MAX, E4M3_MAX, propagate_nan=tl.PropagateNan.ALL)
    return q.to(tl.float8e4nv)

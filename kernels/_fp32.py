"""exp and sigmoid of fp32 by stated operations; the twin of reference_impl/_fp32.py.

Unlike ex2.approx they give the same bits on every machine, for some ten instructions more.  A kernel
that uses them is launched with enable_fp_fusion=False: every operation rounds as it is written.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

PTX = tl.constexpr(not knobs.runtime.interpret)  # the interpreter knows none
LOG2_E = tl.constexpr(1.44269502162933349609375)
LOG2_E_REST = tl.constexpr(1.925963033500011079e-8)
ROUND = tl.constexpr(12582912.0)
POWER_1 = tl.constexpr(0.6931470036506653)
POWER_2 = tl.constexpr(0.24022242426872253)
POWER_3 = tl.constexpr(0.05550733581185341)
POWER_4 = tl.constexpr(0.009671512991189957)
POWER_5 = tl.constexpr(0.0013264745939522982)


@triton.jit
def exp(x):
    """e^x of fp32; x is first cut to [-87, 87], where the result and its inverse are normal numbers;
    NaN stays NaN."""
    power, two_n = _exp(x, LOG2_E, LOG2_E_REST)
    return power * two_n


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x) of fp32, as one IEEE division gives it."""
    power, two_n = _exp(x, -LOG2_E, -LOG2_E_REST)
    # Their product is exact: so this is one rounding, as of the sum of 1 and e^-x.
    return inverse(tl.fma(power, two_n, tl.full(x.shape, 1.0, tl.float32)))


@triton.jit
def _exp(x, FACTOR: tl.constexpr, REST: tl.constexpr):
    """Two numbers, the second a power of two, whose product is 2^(x FACTOR), a normal number.

    The factor has the sign, since Triton's ``-x`` is an instruction: 0 - x.
    """
    x = tl.clamp(x, -87.0, 87.0, propagate_nan=tl.PropagateNan.ALL)
    rounded = _fma(x, FACTOR, ROUND)
    n = rounded - ROUND
    r = tl.fma(x, tl.full(x.shape, FACTOR, tl.float32), n * -1.0)
    r = tl.fma(x, tl.full(x.shape, REST, tl.float32), r)
    power = _fma(r, POWER_5, POWER_4)
    power = _horner(power, r, POWER_3)
    power = _horner(power, r, POWER_2)
    power = _horner(power, r, POWER_1)
    power = _horner(power, r, 1.0)
    # n stands in the low bits of ``rounded``; moved up it is an exponent, and all else falls out.
    two_n = (rounded.to(tl.int32, bitcast=True) << 23) + 0x3F800000
    return power, two_n.to(tl.float32, bitcast=True)


@triton.jit
def inverse(x):
    """1 / x of fp32 from 1 to 2^126, rounded to nearest, without the branches of an IEEE division.

    The chip's approximation and one of Newton's steps, as ptxas has them for rcp.rn from 2^-126 to
    2^126, behind its branch.  tests/test_fp32.py tries every x there is.
    """
    if PTX:
        near = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        near = 1.0 / x
    rest = tl.fma(x * -1.0, near, tl.full(x.shape, 1.0, tl.float32))
    return tl.fma(rest, near, near)


@triton.jit
def _fma(x, FACTOR: tl.constexpr, ADDEND: tl.constexpr):
    return tl.fma(x, tl.full(x.shape, FACTOR, tl.float32), tl.full(x.shape, ADDEND, tl.float32))


@triton.jit
def _horner(power, r, COEFFICIENT: tl.constexpr):
    return tl.fma(power, r, tl.full(r.shape, COEFFICIENT, tl.float32))

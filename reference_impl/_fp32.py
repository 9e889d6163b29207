"""fp32 arithmetic that comes out the same everywhere: a fused multiply-add, exp and sigmoid.

Libraries' exponentials differ in their last bits between a CPU, a GPU and their versions, and one
bit decides a near tie of the router or the rounding of a payload.  So exp is stated here operation
by operation, each a rounding to nearest of IEEE 754, and the kernels do the same
(kernels/_fp32.py): they agree in every bit.  How far exp is from the exact one: docs/numerics.md.
"""

from __future__ import annotations

import torch

LOG2_E = 1.44269502162933349609375  # the fp32 number nearest to log2(e)
LOG2_E_REST = 1.925963033500011078e-8  # and the fp32 number nearest to what is left
ROUND = 12582912.0  # 1.5 * 2^23: fp32 numbers of this size are whole, and their low bits count
# 2^r on [-1/2, 1/2]: 1, then the coefficients of r, r^2, ... with the smallest relative error.
POWERS = (
    0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957,
    0.0013264745939522982,
)  # fmt: skip
LOWEST, HIGHEST = -87.0, 87.0


def exp(x: torch.Tensor) -> torch.Tensor:
    """e^x in fp32; x is first cut to [-87, 87], where the result and its inverse are normal numbers; NaN
    stays NaN.

    x = n ln 2 + r ln 2 with n whole and |r| <= 1/2, so e^x = 2^n 2^r, the latter by a polynomial.
    """
    x = x.clamp(LOWEST, HIGHEST)
    constant = x.new_tensor
    rounded = fma(x, constant(LOG2_E), constant(ROUND))
    n = rounded - ROUND
    r = fma(x, constant(LOG2_E), -n)
    r = fma(x, constant(LOG2_E_REST), r)
    power = constant(POWERS[-1])
    for coefficient in (*POWERS[-2::-1], 1.0):
        power = fma(power, r, constant(coefficient))
    return torch.ldexp(power, n.nan_to_num().int())


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + e^-x) in fp32, as one division: never 0, at least 1.6e-38, and at most 1."""
    one = x.new_ones(())
    return one / (one + exp(-x))


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """a * b + c of fp32 tensors, rounded once to fp32.

    The product of two fp32 numbers is exact in float64; their sum with c is not, and rounding it to
    float64 and then to fp32 would round twice.  So the float64 sum is rounded to odd: where it is
    inexact its last bit is set, which no later rounding to fp32 can mistake for a tie.
    """
    product = a.double() * b.double()
    addend = c.double()
    total = product + addend
    # Exact error of the float64 sum (Knuth's two-sum).
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    bits = total.view(torch.int64)
    # Toward the true value when the even neighbour overshot it: step down one unit in magnitude.
    overshot = (error != 0) & ((error > 0) != (total > 0)) & (bits & 1 == 0)
    odd = torch.where(error == 0, bits, torch.where(overshot, bits - 1, bits | 1))
    return torch.where(total.isfinite(), odd.view(torch.float64), total).float()

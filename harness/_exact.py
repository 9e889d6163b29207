"""fp32 results rounded once from exact ones: fused multiply-add, and products of FP8 matrices."""

from __future__ import annotations

import numpy as np


def fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x * y + z of fp32 arrays, rounded once; a product of two is exact in float64."""
    return add(np.multiply(x, y, dtype=np.float64), z.astype(np.float64))


@np.errstate(all="ignore")
def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x + y of float64 arrays, rounded once, to fp32.

    Rounding to float64 and then to fp32 would round twice.  So the float64 sum is rounded to odd:
    of the two neighbours of an inexact sum the one with an odd last bit is taken, which cannot lie
    on a tie of fp32.  Zeros, Inf and NaN come out as in one IEEE addition.
    """
    total, error = _two_sum(x, y)
    bits = total.view(np.int64)
    overshot = (error > 0) != (total > 0)
    odd = np.where(overshot, bits - 1, bits + 1)
    inexact = (error != 0) & np.isfinite(total) & (bits & 1 == 0)
    return np.where(inexact, odd.view(np.float64), total).astype(np.float32)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b of float64 arrays holding e4m3 or e5m2 numbers: exact sums, rounded once to fp32.

    Sums of e4m3 products are exact in float64: multiples of 2^-18 below 2^18 K.  Those of e5m2 span
    2^-32 to 2^32 K and are not.  So both operands are split at 1, into high parts (multiples of
    2^-3 below 2^16) and low ones (multiples of 2^-16 below 1): sums of high x high are multiples of
    2^-6 below 2^32 K, mixed ones of 2^-19 below 2^17 K, those of low x low of 2^-32 below K.  Each
    fits 53 bits up to K = 2^14, in whatever order a BLAS adds.
    """
    plain: np.ndarray = a @ b
    if _narrow(a) and _narrow(b):
        return np.asarray(plain, dtype=np.float32)
    finite = [np.where(np.isfinite(x), x, 0.0) for x in (a, b)]
    return np.where(np.isfinite(plain), _split_matmul(*finite), plain).astype(np.float32)


def _narrow(x: np.ndarray) -> bool:
    """Whether all are finite and in the range of e4m3: multiples of 2^-9 up to 448."""
    return bool((np.abs(x) <= 448).all() and (x * 512 == np.rint(x * 512)).all())


def _split_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a_high, b_high = np.where(np.abs(a) >= 1, a, 0.0), np.where(np.abs(b) >= 1, b, 0.0)
    a_low, b_low = a - a_high, b - b_high
    mixed = a_high @ b_low + a_low @ b_high
    total, error = _two_sum(a_high @ b_high, mixed)
    # error is a multiple of 2^-19 below 1: with low x low it still fits 53 bits.
    return add(total, error + a_low @ b_low)


def _two_sum(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knuth's: the float64 sum, and its exact error (NaN where the sum is not finite)."""
    total = np.asarray(x + y)
    virtual = total - x
    return total, (x - (total - virtual)) + (y - virtual)

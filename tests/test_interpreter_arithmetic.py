"""Arithmetic of the repaired interpreter against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from harness import _exact
from harness._casts import same

pytestmark = pytest.mark.cpu

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@triton.jit
def _fma_kernel(x_ptr, y_ptr, z_ptr, out_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x, y, z = tl.load(x_ptr + offsets), tl.load(y_ptr + offsets), tl.load(z_ptr + offsets)
    tl.store(out_ptr + offsets, tl.fma(x, y, z))


@triton.jit
def _dot_kernel(
    a_ptr, b_ptr, acc_ptr, out_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr
):  # fmt: skip
    rows, columns, depth = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + rows[:, None] * K + depth[None, :])
    b = tl.load(b_ptr + depth[:, None] * N + columns[None, :])
    acc = tl.load(acc_ptr + rows[:, None] * N + columns[None, :])
    tl.store(out_ptr + rows[:, None] * N + columns[None, :], tl.dot(a, b, acc))


@triton.jit
def _div_kernel(x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(out_ptr + offsets, tl.div_rn(tl.load(x_ptr + offsets), tl.load(y_ptr + offsets)))


@triton.jit
def _bf16_kernel(x_ptr, y_ptr, total_ptr, less_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x, y = tl.load(x_ptr + offsets), tl.load(y_ptr + offsets)
    tl.store(total_ptr + offsets, x + y)
    tl.store(less_ptr + offsets, tl.where(x < y, x * y, x - y))


def _nearest(value: Fraction) -> float:
    """A fraction rounded to nearest even in fp32, by exact arithmetic; normal range or below."""
    if value == 0:
        return 0.0
    exponent = max(math.floor(math.log2(abs(value))) - 1, -150)
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return float(round(value / unit) * unit)  # round() of a Fraction is to even


def test_nearest() -> None:
    rng = np.random.default_rng(2)
    for value in rng.standard_normal(200) * 2.0 ** rng.integers(-150, 20, 200):
        assert _nearest(Fraction(value)) == float(np.float32(value))


def _fma_operands() -> list[torch.Tensor]:
    """Products that nearly cancel the addend, that are tiny beside it, ties, and subnormals."""
    generator = torch.Generator().manual_seed(3)
    x, y, z = (torch.randn(4096, generator=generator) for _ in range(3))
    shift = torch.randint(-60, 60, (4096,), generator=generator).float()
    z[:1024] = -(x * y)[:1024]
    z[1024:2048] *= torch.exp2(shift[1024:2048])
    x[2048:2304], y[2048:2304] = x[2048:2304] * 2.0**-70, y[2048:2304] * 2.0**-70
    z[2048:2304] *= 2.0**-130
    # z + half a unit of z, a little more or less: (1 + e) (1 - e) = 1 - e^2 is the difference.
    z[2304:2560] = 1 + torch.arange(256) * 2.0**-23
    x[2304:2560], y[2304:2560] = 1 + 2.0**-15, 2.0**-24 * (1 - 2.0**-15)
    return [x, y, z]


def test_fma_rounds_once() -> None:
    x, y, z = _fma_operands()
    out = torch.zeros_like(x)
    _fma_kernel[(1,)](x, y, z, out, BLOCK=4096)
    want = [
        _nearest(Fraction(a) * Fraction(b) + Fraction(c))
        for a, b, c in zip(x.tolist(), y.tolist(), z.tolist(), strict=True)
    ]
    assert out.tolist() == want
    # The operands are hard enough to tell: both ways of rounding twice are wrong somewhere.
    assert (x * y + z).tolist() != want
    assert (x.double() * y.double() + z.double()).float().tolist() != want


def test_fma_of_special_values() -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor([inf, 0.0, nan, 3e38, -0.0, 0.0, inf, 1.0])
    y = torch.tensor([1.0, inf, 1.0, 3e38, 1.0, 1.0, 1.0, 1.0])
    z = torch.tensor([1.0, 1.0, 1.0, -3e38, -0.0, -0.0, -inf, -1.0])
    out = torch.zeros_like(x)
    _fma_kernel[(1,)](x, y, z, out, BLOCK=8)
    want = torch.tensor([inf, nan, nan, inf, -0.0, 0.0, nan, 0.0])
    assert same(out, want).all(), out


def _fp8(shape: tuple[int, ...], dtype: torch.dtype, kind: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "normal":
        return torch.randn(shape, generator=generator).to(dtype)
    bits = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    wide = bits.view(dtype)
    return torch.where(wide.float().isfinite(), wide.float(), 1.0).to(dtype)


def _dot(a: torch.Tensor, b: torch.Tensor, acc: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(acc)
    _dot_kernel[(1,)](a, b, acc, out, M=a.shape[0], N=b.shape[1], K=a.shape[1])
    return out


def _exact_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Each sum by exact arithmetic, rounded once."""
    rows = [[Fraction(value) for value in row] for row in a.double().tolist()]
    columns = [[Fraction(value) for value in row] for row in b.double().T.tolist()]
    return torch.tensor(
        [
            [_nearest(sum(map(Fraction.__mul__, row, column), Fraction())) for column in columns]
            for row in rows
        ]
    )


@pytest.mark.parametrize("kind", ["normal", "every bit pattern"])
@pytest.mark.parametrize("k", [32, 128])
@pytest.mark.parametrize(("left", "right"), [(E4M3, E4M3), (E5M2, E5M2), (E4M3, E5M2)])
def test_dot_rounds_each_sum_once(left: torch.dtype, right: torch.dtype, k: int, kind: str) -> None:
    a, b = _fp8((16, k), left, kind, k), _fp8((k, 16), right, kind, k + 1)
    a[1, k // 2 :], b[k // 2 :] = (-a[1, : k // 2].float()).to(left), b[: k // 2].clone()
    a[1, 0] = 0.0625  # what is left when everything else in row 1 cancels
    want = _exact_products(a, b)
    zero = torch.zeros(16, 16)
    assert torch.equal(_dot(a, b, zero), want)
    # The accumulator is added afterwards, in fp32.
    acc = torch.randn(16, 16, generator=torch.Generator().manual_seed(9))
    assert torch.equal(_dot(a, b, acc), want + acc)


def test_dot_decides_a_tie_by_what_float64_drops() -> None:
    """2^38 + 2^14 lies on a tie of fp32; the 2^-16 that decides it is below float64's last bit."""
    a = np.array([[2.0**15] * 256 + [128.0, 1.0]])
    b = np.array([[2.0**15]] * 256 + [[128.0], [2.0**-16]])
    assert _exact.matmul(a, b) == 2.0**38 + 2.0**15
    assert _exact.matmul(a, -b) == -(2.0**38) - 2.0**15
    b[-1] = 0.0
    assert _exact.matmul(a, b) == 2.0**38


def test_dot_with_nan_and_inf() -> None:
    a, b = _fp8((16, 32), E5M2, "normal", 1), _fp8((32, 16), E5M2, "normal", 2)
    clean = _dot(a, b, torch.zeros(16, 16))
    a[3, 5], a[4, 6], b[7, 9] = math.nan, math.inf, -math.inf
    got = _dot(a, b, torch.zeros(16, 16))
    assert same(got, (a.double() @ b.double()).float())[[3, 4]].all()
    assert got[3].isnan().all()
    assert not got[4].isfinite().any()
    assert not got[:, 9].isfinite().any()
    touched = torch.zeros(16, 16, dtype=torch.bool)
    touched[3], touched[4], touched[:, 9] = True, True, True
    assert torch.equal(got[~touched], clean[~touched])


def test_bf16_arithmetic() -> None:
    x, y = (_fp8((16, 16), E4M3, "normal", seed).bfloat16() / 3 for seed in (1, 2))
    total, less = torch.zeros_like(x), torch.zeros_like(x)
    _bf16_kernel[(1,)](x, y, total, less, BLOCK=256)
    assert torch.equal(total, x + y)
    assert torch.equal(less, torch.where(x < y, x * y, x - y))
    # The products are exact in fp32, their sums are not.
    got = _dot(x, y, torch.zeros(16, 16))
    bound = 16 * 2.0**-24 * (x.float().abs() @ y.float().abs())
    assert ((got - x.double() @ y.double()).abs() <= bound).all()


def test_division_is_ieee_and_silent() -> None:
    """Also of 0 / 0, which numpy would warn of; the warning would be an error in these tests."""
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.randn(1024, generator=generator) for _ in range(2))
    x[:5] = torch.tensor([0.0, 1.0, -1.0, math.inf, math.nan])
    y[:5] = torch.tensor([0.0, 0.0, 0.0, math.inf, 1.0])
    out = torch.zeros_like(x)
    _div_kernel[(1,)](x, y, out, BLOCK=1024)
    assert same(out, x / y).all()
    pairs = zip(x[5:].tolist(), y[5:].tolist(), strict=True)
    assert out[5:].tolist() == [_nearest(Fraction(a) / Fraction(b)) for a, b in pairs]


def test_sum_is_rounded_once() -> None:
    """The sum of two float64 numbers in fp32, where rounding it to float64 first lands on a tie."""
    x = np.array([1 + 2.0**-23, 1 + 2.0**-24, -(1 + 2.0**-24), 1.0, np.inf, 2.0**-149])
    y = np.array([2.0**-24 - 2.0**-60, 2.0**-80, -(2.0**-80), -1.0, -np.inf, 2.0**-150])
    got = _exact.add(x, y).tolist()
    assert got[:2] == [1 + 2.0**-23, 1 + 2.0**-23]
    assert got[2:4] == [-(1 + 2.0**-23), 0.0]
    assert math.isnan(got[4])
    assert got[5] == 2.0**-148

"""exp and sigmoid: the kernels' equal the reference's in every bit, and both are near the exact ones."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
import torch
import triton
import triton.language as tl

from benchmarks.compare import Exact, assert_equal
from kernels import _fp32 as device_
from reference_impl import _fp32

BLOCK = 4096
INF, NAN = math.inf, math.nan


@triton.jit
def _apply(x_ptr, out_ptr, SIGMOID: tl.constexpr, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + places)
    out = device_.sigmoid(x) if SIGMOID else device_.exp(x)
    tl.store(out_ptr + places, out)


def arguments() -> torch.Tensor:
    """fp32 numbers: evenly over the range, dense near 0, around the cuts, and every ugly one."""
    generator = torch.Generator().manual_seed(3)
    even = torch.linspace(-95.0, 95.0, 1 << 18)
    normal = torch.randn(1 << 17, generator=generator) * 3
    bits = torch.randint(-(1 << 31), 1 << 31, (1 << 17,), generator=generator, dtype=torch.int64)
    anything = bits.to(torch.int32).view(torch.float32)
    # Halfway between two n, where |r| is largest.
    steps = (torch.arange(-126, 127) + 0.5) * math.log(2.0)
    ties = torch.stack([steps, steps.nextafter(steps * 0), steps.nextafter(steps * 2)]).flatten()
    ugly = torch.tensor(
        [0.0, -0.0, INF, -INF, NAN, -87.0, 87.0, -87.01, 87.01, 1e-45, -1e-45, 1e-38]
    )
    found = torch.cat([even, normal, anything, ties, ugly])
    return torch.cat([found, found.new_zeros(-len(found) % BLOCK)])


@pytest.mark.parametrize("name", ["exp", "sigmoid"])
def test_the_device_function_equals_the_reference(name: str, device: str) -> None:
    x = arguments().to(device)
    out = torch.empty_like(x)
    _apply[(len(x) // BLOCK,)](
        x, out, SIGMOID=name == "sigmoid", BLOCK=BLOCK, enable_fp_fusion=False
    )
    assert_equal(out, getattr(_fp32, name)(x), Exact(), names=[name])


@triton.jit
def _inverse(first, out_ptr, BLOCK: tl.constexpr):
    """Counts, for each program, the numbers whose inverse is not the one of an IEEE division."""
    bits = first + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = bits.to(tl.float32, bitcast=True)
    exact = tl.div_rn(tl.full(x.shape, 1.0, tl.float32), x)
    wrong = device_.inverse(x) != exact
    tl.store(out_ptr + tl.program_id(0), tl.sum(wrong.to(tl.int32)))


def test_the_inverse_is_that_of_a_division(device: str) -> None:
    """Every number from 1 to 2^126 on a GPU.  The interpreter, whose quotient is exact, tries all mantissas
    of two binades: the correction must leave them as they are."""
    one, end = 127 << 23, (127 + (126 if device == "cuda" else 2)) << 23
    block = 8192 if device == "cuda" else 1 << 18
    programs = (end - one) // block
    wrong = torch.full((programs,), -1, dtype=torch.int32, device=device)
    _inverse[(programs,)](one, wrong, BLOCK=block, enable_fp_fusion=False)
    assert wrong.unique().tolist() == [0]


def test_exp_is_near_the_exact_one() -> None:
    """The bound that docs/numerics.md derives; float64's exp is exact enough to measure it."""
    x = arguments()
    x = x[(x >= -87) & (x <= 87)]
    exact = x.double().exp()
    error = ((_fp32.exp(x).double() - exact) / exact).abs().max().item()
    assert error < 2 * 2.0**-23
    assert _fp32.exp(torch.zeros(1)).item() == 1.0


def test_sigmoid_is_near_the_exact_one_and_never_zero() -> None:
    x = arguments()
    x = x[x.isfinite() & (x >= -87)]
    exact = 1 / (1 + (-x.double()).exp())
    error = ((_fp32.sigmoid(x).double() - exact) / exact).abs().max().item()
    assert error < 3 * 2.0**-23
    ends = _fp32.sigmoid(torch.tensor([-INF, -1e30, 1e30, INF]))
    assert ends[0] == ends[1] > 0
    assert ends[2] == ends[3] == 1
    assert _fp32.sigmoid(torch.tensor([NAN])).isnan().all()


def test_the_two_constants_are_log2_of_e() -> None:
    exact = 1 / Decimal(2).ln()
    held = Decimal(_fp32.LOG2_E) + Decimal(_fp32.LOG2_E_REST)
    assert abs(held - exact) < Decimal(2) ** -48
    for constant in (_fp32.LOG2_E, _fp32.LOG2_E_REST, *_fp32.POWERS):
        assert torch.tensor(constant, dtype=torch.float32).item() == pytest.approx(
            constant, rel=1e-15
        )

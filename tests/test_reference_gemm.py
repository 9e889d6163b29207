"""reference_impl/fp8_gemm.py against arithmetic on fractions: its order of sums, one fma a block.

Products inside a block are summed exactly here; the model of the tensor core, which stands in their
place on Hopper, has a file of its own.
"""

from __future__ import annotations

import itertools
import math
import operator
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given

from benchmarks.cases._data import payload, scales
from benchmarks.compare import Exact, assert_equal
from reference_impl._fp32 import fma
from reference_impl.act_quant import act_quant
from reference_impl.fp8_gemm import fp8_gemm
from reference_impl.weight_quant import weight_quant
from reference_impl.wgmma import partials
from tests.test_reference import E4M3, INF, NAN, finished, fp32s, fused, nearest, quick


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["normal", "wide", "cancelling", "subnormal", "sparse"])
def test_fp8_gemm_with_exact_partials(kind: str, dtype: torch.dtype) -> None:
    """Every block: its products summed exactly and rounded, the scales multiplied and rounded, then
    one fma; N passes one weight block."""
    m, n, blocks = 3, 131, 3
    generator = torch.Generator().manual_seed(8)
    x, w = (payload((rows, blocks * 128), kind, generator) for rows in (m, n))
    x_scale, w_scale = scales((m, blocks), generator), scales((2, blocks), generator)
    xs, ws, us, vs = (part.double().tolist() for part in (x, w, x_scale, w_scale))
    want = torch.zeros(m, n)
    for i, j in itertools.product(range(m), range(n)):
        acc = 0.0
        for b in range(blocks):
            channels = slice(b * 128, b * 128 + 128)
            # Multiples of 2^-18 below 2^25: fsum is exact, and so is a float64.
            partial = math.fsum(map(operator.mul, xs[i][channels], ws[j][channels]))
            scale = fused(us[i][b], vs[j // 128][b], 0.0)
            acc = fused(nearest(Fraction(partial), torch.float32), scale, acc)
        want[i, j] = finished(acc, dtype)
    with partials("exact"):
        got = fp8_gemm(x, x_scale, w, w_scale, dtype)
    assert_equal(got, want.to(dtype), Exact())


@quick
@given(fp32s, fp32s, fp32s)
@example(1 + 2.0**-12, 1 + 2.0**-12, -(1 + 2.0**-11))  # two roundings give 0
@example(1 + 2.0**-15, 2.0**-24 * (1 - 2.0**-15), 1 + 2.0**-23)  # a tie but for float64's last bit
@example(2.0**-100, 2.0**-49, 2.0**-126)  # a tie among subnormals
@example(2.0**100, 2.0**28, -(2.0**100))  # overflows
@example(-(2.0**-80), 2.0**-80, 0.0)  # underflows to -0
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    got, want = fma(*(torch.tensor([number]) for number in (a, b, c))), fused(a, b, c)
    if Fraction(a) * Fraction(b) + Fraction(c) == 0:  # the sign of an exact 0 is IEEE's
        want = math.copysign(0.0, a) * math.copysign(1.0, b) + c if a * b == 0 else 0.0
    assert_equal(got, torch.tensor([want]), Exact())


@pytest.mark.parametrize("numbers", [*itertools.product([0.0, -1.0, INF, -INF, NAN], repeat=3)])
def test_fma_of_inf_and_nan(numbers: tuple[float, float, float]) -> None:
    a, b, c = numbers
    got = fma(*map(torch.tensor, [[a], [b], [c]]))
    assert_equal(got, torch.tensor([a * b + c]), Exact())


@pytest.mark.parametrize("k", [0, 128])
@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, 0), (2, 3)])
def test_gemm_layout(m: int, n: int, k: int) -> None:
    """Without channels the result is 0."""
    x, w = torch.zeros(m, k).to(E4M3), torch.zeros(n, k).to(E4M3)
    out = fp8_gemm(x, torch.ones(m, k // 128), w, torch.ones(-(-n // 128), k // 128))
    assert_equal(out, torch.zeros(m, n, dtype=torch.bfloat16), Exact())


@pytest.mark.parametrize("mode", ["hopper", "exact"])
@pytest.mark.parametrize("spoiler", [INF, NAN])
def test_where_inf_and_nan_of_the_unquantised_operands_arrive(spoiler: float, mode: str) -> None:
    """An activation spoils its token, a weight the 128 outputs of its block; all else is untouched.

    Both leave as NaN: a tile that holds Inf has scale Inf and payload 0, and 0 * Inf is NaN.
    """
    generator = torch.Generator().manual_seed(9)
    x, w = (torch.randn(rows, 256, generator=generator) for rows in (4, 300))
    spoiled_x, spoiled_w = x.clone(), w.clone()
    spoiled_x[1, 200], spoiled_w[130, 3] = spoiler, spoiler
    with partials(mode):
        clean = fp8_gemm(*act_quant(x), *weight_quant(w))
        rows = fp8_gemm(*act_quant(spoiled_x), *weight_quant(w))
        columns = fp8_gemm(*act_quant(x), *weight_quant(spoiled_w))
    assert clean.isfinite().all()
    clean_rows, clean_columns = clean.clone(), clean
    clean_rows[1], clean_columns[:, 128:256] = NAN, NAN
    assert_equal(rows, clean_rows, Exact())
    assert_equal(columns, clean_columns, Exact())

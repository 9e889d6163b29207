"""The quantisers of reference_impl/ against arithmetic on fractions, one element at a time.

Every result is worked out again from the definition in docs/numerics.md with Python's fractions,
rounded by one function, and must agree in every bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.cases._data import KINDS, payload, scales, values
from benchmarks.compare import Exact, assert_equal
from reference_impl.act_quant import act_quant
from reference_impl.weight_dequant import weight_dequant
from reference_impl.weight_quant import weight_quant

E4M3 = torch.float8_e4m3fn
INF, NAN = math.inf, math.nan
# Format -> (mantissa bits, smallest exponent, largest finite number).
FORMATS = {
    torch.float32: (23, -126, Fraction(2) ** 128 - Fraction(2) ** 104),
    torch.bfloat16: (7, -126, Fraction(2) ** 128 - Fraction(2) ** 120),
    torch.float16: (10, -14, Fraction(65504)),
    E4M3: (3, -6, Fraction(448)),
}
quick = settings(deadline=None, max_examples=200, derandomize=True)
fp32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


@cache
def nearest(value: Fraction, dtype: torch.dtype) -> float:
    """``value`` rounded to a format, to nearest even; Inf beyond the largest number's half step."""
    mantissa, smallest, largest = FORMATS[dtype]
    if not value:
        return 0.0
    top, bottom = abs(value).as_integer_ratio()
    size = top.bit_length() - bottom.bit_length()
    size -= abs(value) < Fraction(2) ** size
    step = Fraction(2) ** (max(size, smallest) - mantissa)
    rounded = round(abs(value) / step) * step
    return math.copysign(INF if rounded > largest else float(rounded), value)


def fused(a: float, b: float, c: float, dtype: torch.dtype = torch.float32) -> float:
    """a * b + c of finite numbers, rounded once; an exact 0 is +0."""
    return nearest(Fraction(a) * Fraction(b) + Fraction(c), dtype)


def scale_of(group: list[float], pow2: bool, floor: float | None) -> float:
    """The definition: amax / 448 in fp32, if asked the next normal power of two; never 0."""
    if any(math.isnan(x) for x in group):
        return NAN
    least = 0.0 if floor is None else nearest(Fraction(floor), torch.float32)
    amax = max([abs(x) for x in group] + [least])
    if amax == INF:
        return INF
    scale = nearest(Fraction(amax) / 448, torch.float32)
    if pow2 and scale:
        scale = next(2.0**e for e in range(-126, 128) if 2.0**e >= scale)
    return scale or 1.0


def payload_of(x: float, scale: float) -> float:
    """The definition: x / scale in fp32, cut at 448, rounded to e4m3."""
    if math.isnan(x) or math.isnan(scale) or (math.isinf(x) and math.isinf(scale)):
        return NAN
    if math.isinf(scale):
        return math.copysign(0.0, x)
    quotient = nearest(Fraction(x) / Fraction(scale), torch.float32)
    inside = min(max(quotient, -448.0), 448.0)
    return math.copysign(nearest(Fraction(inside), E4M3), x)


def quantised(
    x: torch.Tensor, rows: int, pow2: bool, floor: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Payload and scales in groups of ``rows`` by 128, the last of either direction cut short."""
    numbers, (m, k) = x.double().tolist(), x.shape
    q = [[NAN] * k for _ in range(m)]
    scale = [[NAN] * -(-k // 128) for _ in range(-(-m // rows))]
    for i, j in itertools.product(range(len(scale)), range(-(-k // 128))):
        where = [
            (r, c)
            for r in range(i * rows, min(i * rows + rows, m))
            for c in range(j * 128, min(j * 128 + 128, k))
        ]
        scale[i][j] = scale_of([numbers[r][c] for r, c in where], pow2, floor)
        for r, c in where:
            q[r][c] = payload_of(numbers[r][c], scale[i][j])
    return torch.tensor(q).to(E4M3), torch.tensor(scale)


def draw(kind: str, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    return values(shape, kind, torch.Generator().manual_seed(5)).to(dtype)


def options() -> Iterator[tuple[str, torch.dtype, bool, float | None]]:
    for kind in KINDS:
        yield kind, torch.float32, False, None
        yield kind, torch.float32, True, None
    for dtype in (torch.bfloat16, torch.float16):
        yield "normal", dtype, False, None
        yield "nonfinite", dtype, True, None
    for kind in ("normal", "zero", "tiny", "nonfinite"):
        yield kind, torch.float32, False, 1e-4
        yield kind, torch.float32, True, 3.0


@pytest.mark.parametrize(("kind", "dtype", "pow2", "floor"), list(options()))
def test_act_quant(kind: str, dtype: torch.dtype, pow2: bool, floor: float | None) -> None:
    x = draw(kind, (6, 256), dtype)
    q, scale = act_quant(x, pow2, floor)
    want_q, want_scale = quantised(x, 1, pow2, floor)
    assert_equal((q, scale.contiguous()), (want_q, want_scale), Exact(), names=("q", "scale"))


@pytest.mark.parametrize(("kind", "dtype", "pow2", "floor"), list(options()))
def test_weight_quant(kind: str, dtype: torch.dtype, pow2: bool, floor: float | None) -> None:
    """Two ragged blocks; what lies beyond the edge takes no part."""
    w = draw(kind, (131, 25), dtype)
    got = weight_quant(w, pow2, floor)
    assert_equal(got, quantised(w, 128, pow2, floor), Exact(), names=("q", "scale"))


def tile(*numbers: float) -> torch.Tensor:
    """One tile [1, 128] that begins with these numbers and ends in zeros."""
    return torch.tensor([[*numbers] + [0.0] * (128 - len(numbers))])


# First numbers of a tile; pow2_scale; amax_floor; the tile's scale; their payload.
TINY = 2.0**-149  # the smallest fp32 number
STATED: dict[str, tuple[list[float], bool, float | None, float, list[float]]] = {
    "an empty tile has scale 1": ([0.0, -0.0], False, None, 1.0, [0.0, -0.0]),
    "and so with powers of two": ([0.0, -0.0], True, None, 1.0, [0.0, -0.0]),
    "a scale that underflows is 1": ([224 * TINY, -TINY], False, None, 1.0, [0.0, -0.0]),
    "a subnormal scale saturates": ([627 * TINY, -TINY], False, None, TINY, [448.0, -1.0]),
    "a subnormal scale rounds up to 2^-126": ([627 * TINY], True, None, 2.0**-126, [0.0]),
    "448 times a power stays": ([448 * 2.0**5, -32.0], True, None, 32.0, [448.0, -1.0]),
    "the next number does not": ([448.0 + 2.0**-15], True, None, 2.0, [224.0]),
    "the number before does not step down": ([448.0 - 2.0**-15], True, None, 1.0, [448.0]),
    "a floor above amax holds": ([1.0, -2.0], False, 448.0, 1.0, [1.0, -2.0]),
    "a floor below amax does nothing": ([896.0, 2.0], False, 448.0, 2.0, [448.0, 1.0]),
    "a floor gives zeros a scale": ([0.0], False, 896.0, 2.0, [0.0]),
    "a floor is rounded up too": ([0.0], True, 900.0, 4.0, [0.0]),
    "Inf has scale Inf": ([INF, -INF, 3.0, -3.0], False, None, INF, [NAN, NAN, 0.0, -0.0]),
    "Inf with a power of two": ([INF, 3.0], True, None, INF, [NAN, 0.0]),
    "NaN has scale NaN": ([NAN, 3.0, -0.0], False, None, NAN, [NAN, NAN, NAN]),
    "NaN with a power of two": ([NAN, 3.0], True, 1e-4, NAN, [NAN, NAN]),
    "NaN wins over Inf": ([INF, NAN], True, None, NAN, [NAN, NAN]),
    "ties go to even": ([448.0, 17.0, 19.0, 2.0**-10, 3 * 2.0**-10], False, None, 1.0,
                        [448.0, 16.0, 20.0, 0.0, 2.0**-8]),
}  # fmt: skip


@pytest.mark.parametrize("statement", STATED)
def test_quantisers_do_what_is_stated(statement: str) -> None:
    numbers, pow2, floor, want_scale, want_q = STATED[statement]
    for quantise in (act_quant, weight_quant):
        q, scale = quantise(tile(*numbers), pow2, floor)
        assert_equal(scale, torch.tensor([[want_scale]]), Exact(), names=["scale"])
        assert_equal(q[:, : len(want_q)], torch.tensor([want_q]).to(E4M3), Exact(), names=["q"])


def test_inf_and_nan_stay_in_their_group() -> None:
    x = draw("normal", (256, 384), torch.float32)
    spoiled = x.clone()
    spoiled[130, 130], spoiled[7, 300] = INF, NAN
    for quantise, rows in ((act_quant, 1), (weight_quant, 128)):
        (clean_q, clean_scale), (q, scale) = quantise(x), quantise(spoiled)
        hit = torch.zeros_like(scale, dtype=torch.bool)
        hit[130 // rows, 1] = hit[7 // rows, 2] = True
        spread = hit.repeat_interleave(rows, dim=0).repeat_interleave(128, dim=1)
        for got, clean, kept in ((q.float(), clean_q.float(), ~spread), (scale, clean_scale, ~hit)):
            assert_equal(got[kept], clean[kept], Exact())
        assert not scale[hit].isfinite().any()


@quick
@given(st.lists(fp32s, min_size=1, max_size=6), st.booleans())
@example([float(torch.finfo(torch.float32).max)], True)
@example([TINY, 448 * TINY], False)
def test_any_tile(numbers: list[float], pow2: bool) -> None:
    got_q, got_scale = act_quant(tile(*numbers), pow2)
    want_q, want_scale = quantised(tile(*numbers), 1, pow2, None)
    assert_equal((got_q, got_scale), (want_q, want_scale), Exact(), names=("q", "scale"))


@pytest.mark.parametrize("m", [0, 1, 3, 4, 9])
def test_act_quant_layout(m: int) -> None:
    """Scales have stride 1 along M and columns of a multiple of 4 rows."""
    q, scale = act_quant(torch.ones(m, 384))
    assert (q.shape, q.stride(), q.dtype) == ((m, 384), (384, 1), E4M3)
    assert (scale.shape, scale.dtype) == ((m, 3), torch.float32)
    assert m == 0 or scale.stride() == (1, -(-m // 4) * 4)


@pytest.mark.parametrize(("n", "k"), [(0, 128), (128, 0), (1, 1), (129, 257)])
def test_weight_layout(n: int, k: int) -> None:
    q, scale = weight_quant(torch.ones(n, k))
    assert (q.shape, q.dtype) == ((n, k), E4M3)
    assert (scale.shape, scale.dtype) == ((-(-n // 128), -(-k // 128)), torch.float32)
    out = weight_dequant(q, scale, torch.float16)
    assert (out.shape, out.dtype) == ((n, k), torch.float16)
    assert all(part.is_contiguous() for part in (q, scale, out))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["wide", "subnormal", "saturating"])
def test_weight_dequant(kind: str, dtype: torch.dtype) -> None:
    """Once in fp32, then once to the output; scales from where results underflow to overflow."""
    generator = torch.Generator().manual_seed(6)
    q = payload((130, 133), kind, generator)
    exponents = torch.tensor([[-130, -14], [4, 126]])
    scale = torch.ldexp(scales((2, 2), generator), exponents)
    numbers, factors = q.double().tolist(), scale.double().tolist()
    want = torch.full((130, 133), NAN)
    for r, c in itertools.product(range(130), range(133)):
        single = fused(numbers[r][c], factors[r // 128][c // 128], 0.0)
        want[r, c] = finished(math.copysign(single, numbers[r][c]), dtype)
    assert_equal(weight_dequant(q, scale, dtype), want.to(dtype), Exact())


def finished(x: float, dtype: torch.dtype) -> float:
    """An fp32 number rounded to a format."""
    return x if math.isinf(x) else math.copysign(nearest(Fraction(x), dtype), x)


def test_weight_dequant_of_inf_and_nan() -> None:
    q = torch.tensor([[0.0, 2.0, -2.0, NAN]]).to(E4M3)
    for scale, want in ((INF, [NAN, INF, -INF, NAN]), (NAN, [NAN] * 4), (1.0, [0.0, 2, -2, NAN])):
        got = weight_dequant(q, torch.tensor([[scale]]), torch.float32)
        assert_equal(got, torch.tensor([want]), Exact())

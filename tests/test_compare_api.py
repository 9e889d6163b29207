"""What the comparator promises beside rejecting errors: properties, edges, messages, sampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import _elements
from benchmarks.compare import (
    Bound,
    Exact,
    compare,
    differing_elements,
    errors_against_exact,
    sample_rows,
)

BITS = {
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e8m0fnu: torch.uint8,
    torch.int64: torch.int64,
    torch.int32: torch.int32,
    torch.uint8: torch.uint8,
}
ZERO = Bound(0.0, 0.0, 0.0, "nothing may differ")
LOOSE = Bound(0.1, 0.1, 0.1, "a tenth")


def _random(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Any bit pattern, NaN and Inf among them."""
    size = math.prod(shape) * dtype.itemsize
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
    return values.view(dtype).reshape(shape)


SHAPES = st.lists(st.integers(0, 140), min_size=0, max_size=3).filter(
    lambda shape: math.prod(shape) < 20000
)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(list(BITS)), SHAPES, st.integers(0, 99))
def test_equal_to_itself(dtype: torch.dtype, shape: list[int], seed: int) -> None:
    x = _random(dtype, tuple(shape), seed)
    for tolerance in (Exact(), ZERO):
        comparison = compare(x.clone(), x, tolerance)
        assert comparison.ok
        assert (comparison.differing, comparison.max_error, comparison.tile_rms) == (0, 0, 0)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(list(BITS)), st.integers(1, 300), st.integers(1, 40), st.data())
def test_any_flipped_bit_is_seen(
    dtype: torch.dtype, rows: int, columns: int, data: st.DataObject
) -> None:
    """Unless a NaN became another NaN: which one it is, IEEE leaves open."""
    x = _random(dtype, (rows, columns), data.draw(st.integers(0, 99)))
    index = data.draw(st.integers(0, x.numel() - 1))
    bit = data.draw(st.integers(0, dtype.itemsize * 8 - 1))
    y = x.clone()
    flat = y.flatten().view(torch.uint8)
    flat[index * dtype.itemsize + bit // 8] ^= 1 << bit % 8
    y = flat.view(dtype).reshape(rows, columns)
    where = divmod(index, columns)
    both_nan = dtype.is_floating_point and bool(
        x[where].double().isnan() & y[where].double().isnan()
    )
    comparison = compare(y, x, Exact())
    assert comparison.ok == both_nan
    assert comparison.differing == differing_elements(y, x) == (0 if both_nan else 1)
    if not both_nan:
        assert str(list(where)) in comparison.message
        assert f"[{where[0] // 128}, {where[1] // 128}] (1)" in comparison.message


def test_signs_of_zero_and_nan() -> None:
    zero, nan = torch.zeros(3), torch.full((3,), math.nan)
    assert not compare(-zero, zero, Exact())
    assert compare(-zero, zero, ZERO).ok
    other = (nan.view(torch.int32) ^ -(1 << 31) ^ 5).view(torch.float32)
    assert compare(other, nan, Exact()).ok
    for got, want in ((zero, nan), (nan, zero)):
        comparison = compare(got, want, LOOSE)
        assert not comparison.ok
        assert comparison.max_error == comparison.rms_error == math.inf
        assert "Inf or NaN misplaced in 3 elements" in comparison.message


@pytest.mark.parametrize("outputs", [0, 1, 2])
def test_arity_and_names(outputs: int) -> None:
    x = torch.ones(2)
    names = [f"output{index}" for index in range(outputs)]
    assert compare((x,) * outputs, (x,) * outputs, Exact(), names=names).ok
    assert not compare((x,) * (outputs + 1), (x,) * outputs, Exact(), names=names)
    assert not compare([x] * outputs, (x,) * outputs, Exact(), names=names)
    with pytest.raises(ValueError, match="names: expected"):
        compare((x,) * outputs, (x,) * outputs, Exact(), names=[*names, "more"])


def test_the_worst_output_counts() -> None:
    x, y = torch.ones(4, 4), torch.ones(4, 4)
    y[1, 2] = 1.5
    comparison = compare((x, y), (x, x), Exact(), names=("payload", "scale"))
    assert not comparison.ok
    assert comparison.differing == 1
    assert comparison.max_error == 0.5
    assert comparison.message.startswith("payload: the same bits\nscale: 1 of 16 elements")


def test_strides_that_mean_nothing_are_ignored() -> None:
    column = torch.ones(1, 8).as_strided((1, 8), (999, 1))
    assert compare(column, torch.ones(1, 8), Exact()).ok
    empty = torch.ones(8, 0).T
    assert compare(empty, torch.ones(0, 8), Exact()).ok
    assert not compare(torch.ones(8, 2).T, torch.ones(2, 8), Exact())
    assert not compare(torch.ones(8, 0), torch.ones(0, 8), Exact())


def test_the_default_magnitude() -> None:
    """Small elements are held to the rms, large ones to themselves."""
    want = torch.full((128, 128), 2.0)
    want[0, 0], want[0, 1] = 1000.0, 0.0
    rms = float(want.double().square().mean().sqrt())
    got = want.clone()
    got[0, 0] += 10
    assert compare(got, want, LOOSE).max_error == pytest.approx(10 / 1000)
    got = want.clone()
    got[0, 1] += 0.125
    assert compare(got, want, LOOSE).max_error == pytest.approx(0.125 / rms)


def test_a_given_magnitude_broadcasts() -> None:
    want, got = torch.zeros(4, 256), torch.full((4, 256), 0.5)
    half = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    comparison = compare(got, want, LOOSE, magnitude=half)
    assert comparison.max_error == 0.5
    assert comparison.tile_rms == 0.5
    assert comparison.rms_error == pytest.approx(math.sqrt((0.25 + 0.0625 + 1 / 64 + 1 / 256) / 4))
    with pytest.raises(ValueError, match=r"magnitude: .*\(4, 256\), got \(3, 1\)"):
        compare(got, want, LOOSE, magnitude=half[:3])
    with pytest.raises(ValueError, match="single output"):
        compare((got, got), (want, want), LOOSE, names="ab", magnitude=half)


@pytest.mark.parametrize("magnitude", [0.0, -1.0, math.inf, math.nan])
def test_a_useless_magnitude_hides_nothing(magnitude: float) -> None:
    want, got = torch.ones(3, 3), torch.ones(3, 3)
    size = torch.full((3, 3), magnitude)
    assert compare(got, want, LOOSE, magnitude=size).ok
    got[1, 1] += 1e-6
    assert not compare(got, want, LOOSE, magnitude=size)
    assert compare(got, want, LOOSE, magnitude=size).max_error == math.inf


def test_zeros_expected() -> None:
    want = torch.zeros(5, 5)
    assert compare(want.clone(), want, LOOSE).ok
    got = want.clone()
    got[4, 4] = 1e-30
    assert not compare(got, want, LOOSE)


def test_integers_are_exact_under_any_bound() -> None:
    want = torch.arange(1000)
    got = want.clone()
    got[999] = 998
    assert not compare(got, want, LOOSE)
    assert compare(got.float(), want.float(), LOOSE).ok


def test_errors_of_known_size() -> None:
    """The three figures, and where the message says they are; the last tiles are ragged."""
    want = torch.ones(2, 300, 200)
    got = want.clone()
    got[1, 299, 130] = 1.25
    got[0, 5, 0:128] = 1.0625
    comparison = compare(got, want, Bound(0.2, 0.001, 0.02, "no reason"))
    assert comparison.max_error == 0.25
    assert comparison.tile_rms == 0.0625
    assert comparison.rms_error == pytest.approx(math.sqrt((0.0625 + 128 / 256) / want.numel()))
    message = comparison.message
    assert "max error 0.25 at [1, 299, 130] exceeds 0.2" in message
    assert "rms error 0.0625 in 1x128 tile [0, 5, 0] exceeds 0.02" in message
    assert "over the whole output exceeds 0.001" in message
    assert "the bound: no reason" in message
    assert "in 2 tiles of 128x128 (elements): [0, 0, 0] (128), [1, 2, 1] (1)" in message
    # The last 128x128 tile has 44 rows of 72 columns.
    block = max(math.sqrt(0.0625 / (44 * 72)), math.sqrt(128 / 256 / 128**2))
    assert f"worst 128x128 tile {block:.3g}" in message


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    want = torch.randn(3, 1000, 130, generator=torch.Generator().manual_seed(1)).bfloat16()
    got = (want.float() * 1.004).bfloat16()
    got[2, 999, 129], want[1, 500, 5], got[1, 500, 5] = 7, math.inf, math.inf
    whole = compare(got, want, LOOSE), errors_against_exact(got, want.double())
    monkeypatch.setattr(_elements, "CHUNK", 1)
    parts = compare(got, want, LOOSE), errors_against_exact(got, want.double())
    assert parts[0].message == whole[0].message
    assert parts[0].rms_error == pytest.approx(whole[0].rms_error)
    assert parts[1] == pytest.approx(whole[1])
    late = want.clone()
    late[2, 900, 7], late[2, 950, 0] = 1000, 2000  # the worst one is listed in any case
    assert "[2, 900, 7]: got 1000.0" in compare(late, want, Exact()).message


def test_differing_elements() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    y = x.clone()
    y[0, 0], y[2] = -0.0, 9.5
    assert differing_elements(y, x) == 5
    assert differing_elements((y, x, y), (x, x, x)) == 10
    with pytest.raises(ValueError, match=r"output 1: expected dtype torch.float32, got torch.f"):
        differing_elements((x, x.double()), (x, x))


def test_errors_against_exact() -> None:
    exact = torch.tensor([[1.0, -2.0, 3.0], [4.0, -5.0, 6.0]], dtype=torch.float64)
    out = exact.float()
    assert errors_against_exact(out, exact) == (0.0, 0.0)
    out[1, 2] = 6.5
    mean, rms = 21 / 6, math.sqrt(91 / 6)
    assert errors_against_exact(out, exact) == pytest.approx(
        (0.5 / mean, math.sqrt(0.25 / 6) / rms)
    )
    out[0, 0] = exact[0, 0] = math.inf
    assert errors_against_exact(out, exact)[0] == pytest.approx(0.5 / (20 / 5))
    exact[0, 0] = -math.inf
    assert errors_against_exact(out, exact) == (math.inf, math.inf)
    exact[0, 0] = math.nan
    assert errors_against_exact(out, exact) == (math.inf, math.inf)
    zero = torch.zeros(2, 2)
    assert errors_against_exact(zero, zero) == (0.0, 0.0)
    assert errors_against_exact(zero + 1, zero) == (math.inf, math.inf)
    assert errors_against_exact(zero[:0], zero[:0]) == (0.0, 0.0)
    with pytest.raises(ValueError, match=r"out: expected shape \(2, 2\), got \(2,\)"):
        errors_against_exact(zero[0], zero)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 5000), st.integers(0, 40000), st.sampled_from([16, 64, 128]))
def test_a_sample_touches_every_slab_of_every_tile(m: int, n: int, slab: int) -> None:
    rows, columns = sample_rows(m, n, slab)
    for indices, length, step in ((rows, m, slab), (columns, n, 128)):
        assert indices == sorted(set(indices))
        assert all(0 <= index < length for index in indices)
        assert {index // step for index in indices} == set(range(-(-length // step)))
        assert len(indices) <= -(-length // step) + 2
        assert not length or (indices[0], indices[-1]) == (0, length - 1)
    assert sample_rows(m, n, slab) == (rows, columns)


def test_a_sample_visits_every_place_of_a_slab() -> None:
    rows, columns = sample_rows(4096, 16384)
    assert {row % 64 for row in rows} == set(range(64))
    assert {column % 128 for column in columns} == set(range(128))
    # Slabs differ in the place, or a bug of one lane would be missed in all of them.
    assert len({row % 64 for row in sample_rows(512, 512)[0]}) > 4


INVALID: list[tuple[str, Callable[[], Bound]]] = [
    ("max", lambda: Bound(math.nan, 1, 1, "x")),
    ("rms", lambda: Bound(1, math.inf, 1, "x")),
    ("tile_rms", lambda: Bound(1, 1, -1, "x")),
    ("why", lambda: Bound(1, 1, 1, " ")),
]


@pytest.mark.parametrize(("name", "make"), INVALID)
def test_a_bound_needs_finite_limits_and_a_reason(name: str, make: Callable[[], Bound]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        make()


def test_a_result_may_be_missing_on_both_sides_only() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    names = ["a", "b"]
    found = compare((x, None), (x.clone(), None), Exact(), names=names)
    assert found.ok
    assert differing_elements((x, None), (x + 1, None)) == 6
    assert not compare((x + 1, None), (x, None), Exact(), names=names).ok
    for got, expected in (((x, None), (x, x)), ((x, x), (x, None))):
        found = compare(got, expected, Exact(), names=names)
        assert not found.ok
        assert found.message.startswith("b: expected ")

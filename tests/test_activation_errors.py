"""Errors and statistics of ``python -m harness.activations`` against loops over Python's floats."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import pytest
import torch

from harness import _activation_tables, _recipes
from reference_impl.wgmma import partials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

M, N, K, TILE = 6, 130, 256, 128
Group = tuple[int, int]  # of an element: those of one have one scale


def nearest(value: float) -> float:
    """The e4m3 number nearest to one of at most 448, ties to even."""
    exponent = max(math.frexp(value)[1] - 1, -6)
    step = 2.0 ** (exponent - 3)
    return round(value / step) * step  # exact: the step is a power of two, and round() is to even


def quantised(
    x: list[list[float]], group: Callable[[int, int], Group], pow2: bool = False
) -> list[list[float]]:
    """x with one scale for each group."""
    largest: dict[Group, float] = {}
    for row, line in enumerate(x):
        for column, value in enumerate(line):
            key = group(row, column)
            largest[key] = max(largest.get(key, 0.0), abs(value))
    scales = {}
    for key, amax in largest.items():
        scale = torch.tensor(amax / 448).item()
        power = 2.0 ** math.ceil(math.log2(scale)) if scale else 0.0
        scales[key] = (power if pow2 else scale) or 1.0
    return [
        [
            nearest(torch.tensor(value / scales[group(row, column)]).item())
            * scales[group(row, column)]
            for column, value in enumerate(line)
        ]
        for row, line in enumerate(x)
    ]


def tile(row: int, column: int) -> Group:
    return row, column // TILE


def block(row: int, column: int) -> Group:
    return row // TILE, column // TILE


def token(row: int, _: int) -> Group:
    return row, 0


def everything(_: int, __: int) -> Group:
    return 0, 0


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    """x and w of which each tile and block has another magnitude, and some channels are loud."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(M, K, generator=generator)
    w = torch.randn(N, K, generator=generator)
    x[:, 17] *= 90
    x[:, TILE:] *= 0.3
    x *= torch.tensor([1, 7, 0.002, 1, 50, 3.0])[:, None]
    w[TILE:] *= 40
    w[:, TILE:] *= 0.01
    return x, w


def rms(values: Sequence[float]) -> float:
    return math.sqrt(statistics.fmean(value * value for value in values))


def apart(got: list[list[float]], exact: list[list[float]]) -> float:
    """rms of the difference over rms of what is exact."""
    wrong = [
        a - b
        for line, other in zip(got, exact, strict=True)
        for a, b in zip(line, other, strict=True)
    ]
    return rms(wrong) / rms([value for line in exact for value in line])


def product(x: list[list[float]], w: list[list[float]]) -> list[list[float]]:
    return [[math.fsum(a * b for a, b in zip(row, other, strict=True)) for other in w] for row in x]


def bf16(x: list[list[float]]) -> list[list[float]]:
    rounded: list[list[float]] = torch.tensor(x, dtype=torch.float64).bfloat16().tolist()
    return rounded


@pytest.mark.parametrize(
    ("recipe", "group", "pow2"),
    [
        ("1x128", tile, False),
        ("1x128, pow2", tile, True),
        ("per token", token, False),
        ("per tensor", everything, False),
    ],
)
def test_a_recipe_is_what_it_says(
    recipe: str, group: Callable[[int, int], Group], pow2: bool
) -> None:
    x, _ = operands()
    x[3] = 0.0
    expected = torch.tensor(quantised(x.tolist(), group, pow2), dtype=torch.float64)
    assert torch.equal(_recipes.RECIPES[recipe](x), expected)
    zeros = torch.zeros(2, TILE)
    assert torch.equal(_recipes.RECIPES[recipe](zeros), zeros.double())


def test_bf16_is_rounded_to_even() -> None:
    x = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-7])
    assert _recipes.RECIPES["bf16"](x).tolist() == [1.0, 1 + 2**-6, -1 - 2**-7]


def test_recipes_differ_where_they_should() -> None:
    """A coarser scale loses the quiet tiles, and only those."""
    x, _ = operands()
    x[2] *= 0.01  # 2e-5 beside a tensor of 4500: below half of e4m3's smallest number
    found = {name: _recipes.error_of(make(x), x) for name, make in _recipes.RECIPES.items()}
    assert found["per tensor"].worst_tile == 1.0
    assert found["per tensor"].lost > 0.9 / M
    assert found["per token"].worst_tile < 0.1
    assert found["1x128"].lost < 0.01


def test_errors_by_hand() -> None:
    x, _ = operands()
    x[3, TILE:] = 0.0  # a tile of zeros, which has no relative error
    dequantised = _recipes.per_tensor(x)
    found = _recipes.error_of(dequantised, x)
    got, exact = dequantised.tolist(), x.double().tolist()
    assert found.rms == pytest.approx(apart(got, exact), rel=1e-12)
    tiles = [
        apart([got[row][start : start + TILE]], [exact[row][start : start + TILE]])
        for row in range(M)
        for start in (0, TILE)
        if any(exact[row][start : start + TILE])
    ]
    assert len(tiles) == 2 * M - 1
    assert found.worst_tile == pytest.approx(max(tiles), rel=1e-12)
    pairs = [
        (a, b)
        for line, other in zip(got, exact, strict=True)
        for a, b in zip(line, other, strict=True)
    ]
    lost = sum(a == 0 and b != 0 for a, b in pairs)
    assert lost
    assert found.lost == lost / sum(b != 0 for _, b in pairs)


def test_statistics_by_hand() -> None:
    x, _ = operands()
    x += 0.5  # so that the moments are about a mean that is not 0
    x[3, TILE:] = 0.0
    found = _recipes.shape_of(x)
    rows = x.double().tolist()
    flat = [value for line in rows for value in line]
    assert found.peak == pytest.approx(max(map(abs, flat)) / rms(flat), rel=1e-12)
    tiles = [line[start : start + TILE] for line in rows for start in (0, TILE)]
    peaks = [max(map(abs, part)) / rms(part) for part in tiles if any(part)]
    assert found.tile_peak == pytest.approx(statistics.median_low(peaks), rel=1e-12)
    largest = math.fsum(max(map(abs, part)) ** 2 for part in tiles)
    assert found.largest == pytest.approx(largest / math.fsum(a * a for a in flat), rel=1e-12)
    mean = statistics.fmean(flat)
    fourth = statistics.fmean((value - mean) ** 4 for value in flat)
    assert found.kurtosis == pytest.approx(fourth / statistics.pvariance(flat) ** 2, rel=1e-9)


def test_loud_channels_are_counted() -> None:
    x = torch.randn(512, TILE, generator=torch.Generator().manual_seed(6))
    assert _recipes.shape_of(x).loud == 0
    assert _recipes.shape_of(x).kurtosis == pytest.approx(3, abs=0.1)
    x[:, 5] *= 500  # the mean of the channels' rms is 4.9, their median 1
    x[:, 9] *= -4.6
    x[:, 11] *= 3.4
    assert _recipes.shape_of(x).loud == 2 / TILE


def test_errors_of_products_by_hand() -> None:
    x, w = operands()
    with partials("exact"):
        found = _recipes.products(x, w)
    a, b = x.tolist(), w.tolist()
    exact = product(a, b)
    payloads = product(quantised(a, tile), quantised(b, block))
    powers = product(quantised(a, tile, pow2=True), quantised(b, block, pow2=True))
    coarse = product(quantised(a, everything), quantised(b, everything))
    # Sums in fp32 differ from these by 2^-24 each, and where that crosses a tie by one bf16 number.
    assert found.fp32_scales == pytest.approx(apart(bf16(payloads), exact), rel=1e-4)
    assert found.pow2_scales == pytest.approx(apart(bf16(powers), exact), rel=1e-4)
    assert found.per_tensor == pytest.approx(apart(coarse, exact), rel=1e-9)
    assert found.bf16 == pytest.approx(apart(bf16(product(bf16(a), bf16(b))), exact), rel=1e-4)
    assert found.rounding == pytest.approx(apart(bf16(exact), exact), rel=1e-4)
    assert found.accumulating < 1e-6


def test_the_tensor_core_is_in_the_products() -> None:
    """test_accumulation.py: 1.14e-4 to 1.59e-4 on normal operands."""
    generator = torch.Generator().manual_seed(8)
    x, w = (torch.randn(64, 1024, generator=generator) for _ in range(2))
    assert 1.0e-4 < _recipes.products(x, w).accumulating < 1.7e-4


def test_a_cell_says_from_which_to_which() -> None:
    assert _activation_tables.spread([3.0, 1.0, 2.0], ".1f") == "1.0 to 3.0"
    assert _activation_tables.spread([1.04, 0.96], ".1f") == "1.0"


def test_layers_share_a_row() -> None:
    def source(name: str, k: int, layer: int | None, figure: float) -> _activation_tables.Source:
        errors = {
            recipe: _recipes.Error(figure / 100, figure / 50, place / 100)
            for place, recipe in enumerate(("1x128", "bf16", "per tensor"))
        }
        shape = _recipes.Shape(figure, 2.0, 0.125, 3.0, 0.25)
        products = [_recipes.Products(*([figure / 100] * 6)), _recipes.Products(*([0.01] * 6))]
        return _activation_tables.Source(name, k, layer, shape, errors, products)

    sources = [
        source("qkv", 384, 0, 5.0),
        source("qkv", 384, 1, 2.0),
        source("qkv", 128, None, 4.0),
    ]
    text = _activation_tables.tables(sources)
    assert "| qkv | 384 | 2.0 to 5.0 | 2.00 | 12.5 | 3.0 | 25.0 |" in text
    assert "| qkv | 384 | 2.00 to 5.00 (10.00) |" in text
    assert text.count("| 0.00 | 2.00 |\n") == 2  # those that became 0, first 1x128, then per tensor
    assert "| qkv | 384 |" + " 1.000 to 5.000 |" * 6 in text
    assert "| qkv | 128 | 4.0 | 2.00 | 12.5 | 3.0 | 25.0 |" in text
    alone = _activation_tables.tables(sources, layers=True)
    assert "| qkv | 0 | 384 | 5.0 |" in alone
    assert "| qkv | - | 128 | 4.0 |" in alone

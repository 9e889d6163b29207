"""The tables of ``harness.activations``: distributions, errors of quantising, errors of products."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from harness._markdown import markdown
from harness._recipes import LOUD, Error, Products, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

COARSE_AND_FINE = ("1x128", "per tensor")  # between these the others lie
NOTE = (
    "rms error, and in brackets that of the worst 1x128 tile of any layer, each over its own rms."
)
PRODUCTS = {
    "1x128 and 128x128": "fp32_scales",
    "the same, pow2": "pow2_scales",
    "per tensor": "per_tensor",
    "accumulating": "accumulating",
    "bf16 operands": "bf16",
    "rounding to bf16": "rounding",
}


class Source(NamedTuple):
    """What was measured on activations [M, k]; layer: of a model, None for drawn ones."""

    name: str
    k: int
    layer: int | None
    shape: Shape
    errors: dict[str, Error]
    products: list[Products]


def tables(sources: Sequence[Source], layers: bool = False) -> str:
    """Markdown.  Without ``layers`` the layers of a model share a row, and a cell says from which to
    which figure they go."""
    groups: dict[tuple[str, int, int | None], list[Source]] = {}
    for part in sources:
        key = part.name, part.k, part.layer if layers else None
        groups.setdefault(key, []).append(part)
    header = ["input of", *(["layer"] if layers else []), "K"]
    named = [
        ([name, *([_layer(layer)] if layers else []), str(k)], parts)
        for (name, k, layer), parts in groups.items()
    ]
    recipes = list(sources[0].errors)

    def table(columns: Sequence[str], cells: Callable[[list[Source]], list[str]]) -> str:
        rows = [first + cells(parts) for first, parts in named]
        return markdown([*header, *columns], rows, left=1)

    shapes = [
        "amax / rms",
        "amax / rms of a tile, median",
        "squares in tiles' largest, %",
        "kurtosis",
        f"channels above {LOUD:.0f} medians, %",
    ]
    lost = [f"to 0, {recipe}, %" for recipe in COARSE_AND_FINE]
    return "\n\n".join(
        [
            table(shapes, _shape),
            table([*(f"{recipe}, %" for recipe in recipes), *lost], _errors),
            NOTE,
            table([f"{title}, %" for title in PRODUCTS], _products),
        ]
    )


def _layer(layer: int | None) -> str:
    return "-" if layer is None else str(layer)


def _shape(parts: list[Source]) -> list[str]:
    return [
        spread((part.shape.peak for part in parts), ".1f"),
        spread((part.shape.tile_peak for part in parts), ".2f"),
        spread((100 * part.shape.largest for part in parts), ".1f"),
        spread((part.shape.kurtosis for part in parts), ".1f"),
        spread((100 * part.shape.loud for part in parts), ".1f"),
    ]


def _errors(parts: list[Source]) -> list[str]:
    cells = []
    for recipe in parts[0].errors:
        found = [part.errors[recipe] for part in parts]
        worst = max(error.worst_tile for error in found)
        cells.append(f"{spread((100 * error.rms for error in found), '.2f')} ({100 * worst:.2f})")
    return cells + [
        spread((100 * part.errors[recipe].lost for part in parts), ".2f")
        for recipe in COARSE_AND_FINE
    ]


def _products(parts: list[Source]) -> list[str]:
    found = [product for part in parts for product in part.products]
    return [
        spread((100 * getattr(product, field) for product in found), ".3f")
        for field in PRODUCTS.values()
    ]


def spread(numbers: Iterable[float], style: str) -> str:
    """The smallest and the largest, or the one there is."""
    ordered = sorted(numbers)
    low, high = format(ordered[0], style), format(ordered[-1], style)
    return low if low == high else f"{low} to {high}"

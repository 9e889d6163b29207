"""Walks two tensors side by side: which bits differ, how large the errors are, and in which tiles.

The arithmetic behind :mod:`benchmarks.compare`, which says what is right.  Matrices are walked in
chunks of rows, so that float64 copies stay in the order of 100 MB whatever the size.  A tensor of
more than two dimensions is a stack of matrices, one of fewer a single row.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

TILE = 128
CHUNK = 1 << 22  # elements walked at once
SHOWN = 4  # differing elements whose coordinates are kept


@dataclass
class Difference:
    """Elements that differ in bits: how many, the first few, and how many in each 128x128 tile
    (keyed by the tile's index: the leading indices, tile row, tile column)."""

    count: int = 0
    where: list[tuple[int, ...]] = field(default_factory=list)
    tiles: Counter[tuple[int, ...]] = field(default_factory=Counter)


@dataclass
class Error:
    """Errors over magnitude: largest, rms over all, rms of the worst tiles, and where those are."""

    max: float = 0.0
    rms: float = 0.0
    row_tile: float = 0.0  # of 1x128
    block: float = 0.0  # of 128x128
    worst: tuple[int, ...] = ()
    worst_row_tile: tuple[int, ...] = ()
    worst_block: tuple[int, ...] = ()
    misplaced: int = 0  # Inf or NaN in one of the two only, or Inf of another sign


def chunks(*tensors: torch.Tensor) -> Iterator[tuple[int, int, list[torch.Tensor]]]:
    """(matrix, first row, those rows of every tensor), in multiples of 128 rows, in order."""
    if not tensors[0].numel():
        return
    matrices = [
        tensor.reshape(-1, *tensor.shape[-2:]) if tensor.dim() > 1 else tensor.reshape(1, 1, -1)
        for tensor in tensors
    ]
    count, rows, columns = matrices[0].shape
    step = max(1, CHUNK // columns // TILE) * TILE
    for matrix in range(count):
        for row in range(0, rows, step):
            yield matrix, row, [part[matrix, row : row + step] for part in matrices]


def difference(got: torch.Tensor, expected: torch.Tensor) -> Difference:
    """Which elements differ in bits; tensors of one shape and dtype."""
    found = Difference()
    for matrix, row, (one, other) in chunks(got, expected):
        differs = _differs(one, other)
        count = int(differs.sum())
        if not count:
            continue
        found.count += count
        for r, c in differs.nonzero()[: SHOWN - len(found.where)].tolist():
            found.where.append(_coordinates(expected.shape, matrix, row + r, c))
        per_tile = _row_sums(_tile_sums(differs))
        for r, c in per_tile.nonzero().tolist():
            tile = (*_leading(expected.shape, matrix), row // TILE + r, c)
            found.tiles[tile] += int(per_tile[r, c])
    return found


def error(
    got: torch.Tensor, expected: torch.Tensor, magnitude: torch.Tensor | None = None
) -> Error:
    """Errors relative to ``magnitude`` (shape of ``expected``), or to max(|expected|, its rms)."""
    found = Error()
    floor = _rms(expected) if magnitude is None else 0.0
    squares = counted = 0.0
    extra = () if magnitude is None else (magnitude,)
    for matrix, row, (one, other, *size) in chunks(got, expected, *extra):
        absolute, finite, misplaced = _absolute(one, other)
        scale = size[0].double() if size else other.double().abs().clamp(min=floor)
        relative = _ratio(absolute, scale)
        part = relative.square()
        row_squares, row_counts = _tile_sums(part), _tile_sums(finite | misplaced)
        row_tiles = (row_squares / row_counts.clamp(min=1)).sqrt()
        blocks = (_row_sums(row_squares) / _row_sums(row_counts).clamp(min=1)).sqrt()
        found.misplaced += int(misplaced.sum())
        squares += float(row_squares.sum())
        counted += float(row_counts.sum())
        for name, values, place, unit in (
            ("max", relative, "worst", 1),
            ("row_tile", row_tiles, "worst_row_tile", 1),
            ("block", blocks, "worst_block", TILE),
        ):
            largest, (r, c) = _largest(values)
            if largest > getattr(found, name) or not getattr(found, place):
                setattr(found, name, largest)
                setattr(found, place, _coordinates(expected.shape, matrix, row // unit + r, c))
    found.rms = math.sqrt(squares / max(counted, 1))
    return found


def against_exact(out: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """See :func:`benchmarks.compare.errors_against_exact`."""
    largest = squares = size = size_squares = 0.0
    count = 0
    for _, _, (one, other) in chunks(out, exact):
        absolute, finite, _ = _absolute(one, other)
        kept = other[finite].double().abs()
        largest = max(largest, float(absolute.max()))
        squares += float(absolute.square().sum())
        size += float(kept.sum())
        size_squares += float(kept.square().sum())
        count += kept.numel()
    if largest == 0:
        return 0.0, 0.0
    if size == 0:
        return math.inf, math.inf
    return largest / (size / count), math.sqrt(squares / size_squares)


def _differs(got: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Which elements differ in bits, pairs of NaN apart."""
    import torch

    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[got.dtype.itemsize]
    differs = got.view(bits) != expected.view(bits)
    if got.dtype.is_floating_point and differs.any():
        differs &= ~(got.double().isnan() & expected.double().isnan())
    return differs


def _absolute(
    got: torch.Tensor, expected: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(|got - expected| in float64, where both are finite, where Inf or NaN are misplaced).

    The error is 0 where both are NaN or the same Inf, and inf where they are misplaced.
    """
    one, other = got.double(), expected.double()
    finite = one.isfinite() & other.isfinite()
    misplaced = ~(finite | (one == other) | (one.isnan() & other.isnan()))
    absolute = (one - other).abs_()
    absolute[~finite] = 0.0
    absolute[misplaced] = math.inf
    return absolute, finite, misplaced


def _ratio(absolute: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """absolute / scale: 0 where there is no error, inf where there is one but no usable scale."""
    ratio = absolute / scale
    ratio[~((scale > 0) & scale.isfinite())] = math.inf
    ratio[absolute == 0] = 0.0
    return ratio


def _rms(values: torch.Tensor) -> float:
    """Root mean square of the finite elements, in float64; 0 when there are none."""
    squares, count = 0.0, 0
    for _, _, (part,) in chunks(values):
        wide = part.double()
        finite = wide[wide.isfinite()]
        squares += float(finite.square().sum())
        count += finite.numel()
    return math.sqrt(squares / max(count, 1))


def _tile_sums(values: torch.Tensor) -> torch.Tensor:
    """[rows, columns] to sums over 1x128 tiles, float64 [rows, ceil(columns/128)]."""
    from torch.nn.functional import pad

    wide = pad(values.double(), (0, -values.shape[1] % TILE))
    return wide.reshape(values.shape[0], -1, TILE).sum(dim=2)


def _row_sums(values: torch.Tensor) -> torch.Tensor:
    """[rows, tiles] to sums over 128 rows, [ceil(rows/128), tiles]."""
    from torch.nn.functional import pad

    tall = pad(values, (0, 0, 0, -values.shape[0] % TILE))
    return tall.reshape(-1, TILE, values.shape[1]).sum(dim=1)


def _largest(values: torch.Tensor) -> tuple[float, tuple[int, int]]:
    """Largest element of a matrix, and where it is."""
    index = int(values.argmax())
    return float(values.flatten()[index]), divmod(index, values.shape[1])


def _leading(shape: torch.Size, matrix: int) -> tuple[int, ...]:
    """Leading indices of matrix number ``matrix`` of the stack."""
    indices: list[int] = []
    for size in reversed(shape[:-2]):
        matrix, index = divmod(matrix, size)
        indices.append(index)
    return tuple(reversed(indices))


def _coordinates(shape: torch.Size, matrix: int, row: int, column: int) -> tuple[int, ...]:
    """Index of an element, or of a tile, as the tensor itself is indexed."""
    if len(shape) < 2:
        return (column,)[: len(shape)]
    return (*_leading(shape, matrix), row, column)

"""Are two results the same, and if not, by how much and where?

Two tolerances.  :class:`Exact` asks for the same bits.  :class:`Bound` is for results whose bits
cannot agree (another order of summation, another exp) and limits the error three ways, since no
single figure sees every bug: its maximum, its rms over the output, and its rms over the worst tile.
None of them is a cosine or a share of elements, which let a zeroed row or a doubled scale through;
tests/test_compare.py plants such errors.

Both ask for the same arity, dtype, shape, strides and kind of device.  The stride of a dimension of
size 1, or of an empty tensor, means nothing and is not compared; nor is that of a vector, which a
kernel may lay out as its atomics want it: what takes one says whether it must be contiguous.

Bits: +0 and -0 differ.  A NaN equals any NaN, FP8 included: IEEE 754 leaves the sign and payload of
a NaN open, and x86, PTX and torch choose differently.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import _elements

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

TILE = _elements.TILE


@dataclass(frozen=True)
class Exact:
    """The same bits."""


@dataclass(frozen=True)
class Bound:
    """Limits on error = |got - expected| / magnitude, for results whose bits cannot agree.

    max: of any element.  rms: over the whole output.  tile_rms: over any 1x128 tile, and so over
    any 128x128 tile too, whose mean square is the average of its rows'.  why: where the numbers
    come from.  Inf and NaN must stand in the same places.  Integers are compared exactly.
    """

    max: float
    rms: float
    tile_rms: float
    why: str

    def __post_init__(self) -> None:
        for name in ("max", "rms", "tile_rms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: expected a finite number, 0 or more, got {value!r}")
        if not self.why.strip():
            raise ValueError("why: expected a reason for the bound, got nothing")


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; true exactly when ``ok``, so ``assert compare(...)`` asserts.

    differing: elements whose bits differ, over all outputs; every element where the structure
    (arity, dtype, shape, ...) does.  max_error, rms_error, tile_rms: as in :class:`Bound`, the
    largest of any output; inf where the structure differs or Inf or NaN are misplaced.
    """

    ok: bool
    differing: int
    max_error: float
    rms_error: float
    tile_rms: float
    message: str

    def __bool__(self) -> bool:
        return self.ok


def compare(
    got: Any,
    expected: Any,
    tolerance: Exact | Bound,
    *,
    names: Sequence[str] = ("out",),
    magnitude: torch.Tensor | None = None,
) -> Comparison:
    """Compare an operator's result with the reference's.

    got, expected: a tensor, or a tuple of tensors, one of ``names`` each, None for one that there is
    not on either side.
    magnitude: for a single output, what an error is relative to, of a shape that broadcasts to it;
    by default max(|expected|, rms(expected)).  Where it is 0 or not finite any error is infinite.

    Never raises for a wrong ``got``: that is a Comparison which is not ok.  Raises ValueError for
    names or a magnitude that do not fit ``expected``.
    """
    outputs = _outputs(expected)
    if len(names) != len(outputs):
        raise ValueError(f"names: expected {len(outputs)}, one an output, got {list(names)}")
    if magnitude is not None:
        magnitude = _spread(magnitude, outputs)
    problem = structure(got, expected, names)
    if problem:
        elements = sum(output.numel() for output in outputs if output is not None)
        return Comparison(False, elements, math.inf, math.inf, math.inf, problem)
    parts = [
        _compare_one(name, one, other, tolerance, magnitude)
        for name, one, other in zip(names, _outputs(got), outputs, strict=True)
        if other is not None
    ]
    return Comparison(
        ok=all(part.ok for part in parts),
        differing=sum(part.differing for part in parts),
        max_error=max((part.max_error for part in parts), default=0.0),
        rms_error=max((part.rms_error for part in parts), default=0.0),
        tile_rms=max((part.tile_rms for part in parts), default=0.0),
        message="\n".join(part.message for part in parts),
    )


def assert_equal(
    got: Any,
    expected: Any,
    tolerance: Exact | Bound,
    *,
    names: Sequence[str] = ("out",),
    magnitude: torch.Tensor | None = None,
) -> None:
    """Raise AssertionError, saying what differs and where, unless :func:`compare` is satisfied."""
    comparison = compare(got, expected, tolerance, names=names, magnitude=magnitude)
    if not comparison.ok:
        raise AssertionError(comparison.message)


def differing_elements(got: Any, expected: Any) -> int:
    """Number of elements whose bits differ, over all outputs.

    Raises ValueError where arity, dtype, shape, strides or kind of device differ.
    """
    outputs = _outputs(expected)
    problem = structure(got, expected, [f"output {index}" for index in range(len(outputs))])
    if problem:
        raise ValueError(problem)
    pairs = zip(_outputs(got), outputs, strict=True)
    return sum(_elements.difference(one, other).count for one, other in pairs if other is not None)


def errors_against_exact(out: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """(max|error| / mean|exact|, rms(error) / rms(exact)) in float64, of tensors of one shape.

    Where both are NaN, or the same Inf, there is no error and the element is left out; where only
    one is, both figures are inf.  Without any error they are 0 even for an ``exact`` of zeros, and
    with one they are inf then.  Raises ValueError when the shapes differ.
    """
    if out.shape != exact.shape:
        raise ValueError(f"out: expected shape {tuple(exact.shape)}, got {tuple(out.shape)}")
    return _elements.against_exact(out, exact)


def sample_rows(m: int, n: int, slab: int = 64) -> tuple[list[int], list[int]]:
    """Rows and columns whose crossings touch every slab of ``slab`` rows by 128 columns of [m, n].

    One row of each slab and one column of each 128 columns, plus the first and last of either.  The
    place inside slab and tile is a seeded permutation that does not repeat until each had its turn:
    from m = slab**2 on (4096 for 64) every place of a slab is visited, and from n = 16384 on every
    column of a tile, so a bug of one warp or lane is not missed for good.  Not seen: a bug of
    single elements between the samples; `nox -s exact` compares every element.

    Returns sorted row indices and sorted column indices, the same for the same arguments.
    """
    return _places(m, slab, f"rows {m} {n}"), _places(n, TILE, f"columns {m} {n}")


def _places(length: int, step: int, seed: str) -> list[int]:
    """One index in each ``step`` of ``length``, and the first and last index."""
    generator = random.Random(seed)
    places: list[int] = []
    chosen = {0, length - 1} if length else set()
    for start in range(0, length, step):
        places = places or generator.sample(range(step), step)
        chosen.add(start + places.pop() % min(step, length - start))
    return sorted(chosen)


def _outputs(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _spread(magnitude: torch.Tensor, outputs: tuple[Any, ...]) -> torch.Tensor:
    """``magnitude`` in the shape of the one output it is for."""
    if len(outputs) != 1:
        raise ValueError(f"magnitude: expected a single output, got {len(outputs)}")
    shape = tuple(outputs[0].shape)
    try:
        return magnitude.expand(shape)
    except RuntimeError:
        got = tuple(magnitude.shape)
        raise ValueError(
            f"magnitude: expected a shape that broadcasts to {shape}, got {got}"
        ) from None


def structure(got: Any, expected: Any, names: Sequence[str]) -> str:
    """How ``got`` differs from ``expected`` in all but the numbers, a sentence an output of ``names``;
    empty when it does not."""
    results, outputs = _outputs(got), _outputs(expected)
    if isinstance(got, tuple) != isinstance(expected, tuple) or len(results) != len(outputs):
        return f"expected {_kind(expected)}, got {_kind(got)}"
    problems = []
    for name, one, other in zip(names, results, outputs, strict=True):
        if type(one) is not type(other):
            problems.append(f"{name}: expected {_kind(other)}, got {_kind(one)}")
            continue
        if other is None:
            continue
        for what, have, want in (
            ("device", one.device.type, other.device.type),
            ("dtype", one.dtype, other.dtype),
            ("shape", tuple(one.shape), tuple(other.shape)),
            ("strides", _strides(one), _strides(other)),
        ):
            if have != want:
                problems.append(f"{name}: expected {what} {want}, got {have}")
                break  # the strides of another shape say nothing
    return "\n".join(problems)


def _kind(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__


def _strides(tensor: torch.Tensor) -> tuple[int | None, ...]:
    """Strides, None where they mean nothing."""
    empty = tensor.numel() == 0 or tensor.dim() == 1
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return tuple(None if empty or size == 1 else stride for size, stride in pairs)


def _compare_one(
    name: str,
    got: torch.Tensor,
    expected: torch.Tensor,
    tolerance: Exact | Bound,
    magnitude: torch.Tensor | None,
) -> Comparison:
    """Compare one output, of the right structure."""
    found = _elements.difference(got, expected)
    if not found.count:
        return Comparison(True, 0, 0.0, 0.0, 0.0, f"{name}: the same bits")
    error = _elements.error(got, expected, magnitude)
    if isinstance(tolerance, Bound) and expected.dtype.is_floating_point:
        broken = _broken(error, tolerance)
        text = [*broken, f"the bound: {tolerance.why}"] if broken else ["inside the bound"]
    else:
        broken = text = [f"{found.count} of {expected.numel()} elements differ in bits"]
    text += _examples(got, expected, found, error)
    message = f"{name}: " + "\n  ".join(text)
    return Comparison(not broken, found.count, error.max, error.rms, error.row_tile, message)


def _broken(error: _elements.Error, bound: Bound) -> list[str]:
    """Which of the bound's limits the error passes, a sentence each."""
    tile = list(error.worst_row_tile)
    limits = (
        ("max error", error.max, bound.max, f"at {list(error.worst)}"),
        ("rms error", error.rms, bound.rms, "over the whole output"),
        ("rms error", error.row_tile, bound.tile_rms, f"in 1x128 tile {tile}"),
    )
    broken = [
        f"{what} {value:.3g} {where} exceeds {limit:.3g}"
        for what, value, limit, where in limits
        if value > limit
    ]
    if error.misplaced:
        broken.insert(0, f"Inf or NaN misplaced in {error.misplaced} elements")
    return broken


def _examples(
    got: torch.Tensor, expected: torch.Tensor, found: _elements.Difference, error: _elements.Error
) -> list[str]:
    """The first differing elements and the worst one, the tiles they lie in, and the errors."""
    lines = []
    for where in dict.fromkeys([*found.where, error.worst]):
        values = f"got {got[where].item()!r}, expected {expected[where].item()!r}"
        lines.append(f"{list(where)}: {values}")
    tiles = found.tiles.most_common(_elements.SHOWN)
    listed = ", ".join(f"{list(tile)} ({count})" for tile, count in tiles)
    more = ", ..." if len(found.tiles) > len(tiles) else ""
    lines.append(f"in {len(found.tiles)} tiles of 128x128 (elements): {listed}{more}")
    lines.append(
        f"error over magnitude: max {error.max:.3g}, rms {error.rms:.3g}, worst 1x128 tile "
        f"{error.row_tile:.3g}, worst 128x128 tile {error.block:.3g} {list(error.worst_block)}"
    )
    return lines

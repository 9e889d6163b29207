"""Where a series of numbers changes its level.

A change point is a place that splits a stretch of the series into two means that differ by more than
chance explains.  Stretches are searched as in seeded binary segmentation (Kovacs et al., Biometrika
110, 2023): of all lengths, so that a level that was left and came back is found between its two ends.

The test is a moderated t (Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004).  Four points say next to
nothing about their own noise; what other series of the same machine say of it enters as so many
degrees of freedom, and counts the less the longer the series is.  A p value is multiplied by the
number of places that were looked at (Bonferroni).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy

# Up to this length all stretches are looked at; above, the seeded ones.
SHORT = 12


class Noise(NamedTuple):
    """What is known of the noise beforehand.

    sd: of one point of the series, in its own units.  degrees: as how many points this counts.
    """

    sd: float
    degrees: float


class Step(NamedTuple):
    """A change of level before the point ``place``; the means on either side; p, already adjusted."""

    place: int
    before: float
    after: float
    p: float


def find(
    values: Sequence[float],
    *,
    variances: Sequence[float] | None = None,
    noise: Noise | None = None,
    alpha: float = 1e-3,
) -> list[Step]:
    """Change points of ``values``, in order.

    variances: of each point, known from within it (its rounds), on top of ``noise``; 0 by default.
    noise: None where nothing is known; then at least two points must lie on either side of a change.
    alpha: adjusted p below which a split counts.

    Raises ValueError for numbers that are not finite, or variances of another length.
    """
    import numpy

    y = numpy.asarray(values, dtype=float)
    extra = numpy.zeros_like(y) if variances is None else numpy.asarray(variances, dtype=float)
    if extra.shape != y.shape:
        raise ValueError(f"variances: expected {len(y)} numbers, got {len(extra)}")
    if not (numpy.isfinite(y).all() and numpy.isfinite(extra).all()):
        raise ValueError("values and variances: expected finite numbers")
    series = _Series(y, extra, noise, alpha)
    return series.refined(series.search(0, len(y)))


class _Series:
    """One series during the search."""

    def __init__(
        self, y: numpy.ndarray, extra: numpy.ndarray, noise: Noise | None, alpha: float
    ) -> None:
        import numpy

        known = noise is not None and noise.sd > 0
        scale = noise.sd**2 if noise is not None and noise.sd > 0 else 1.0
        # Weights are relative to a point without noise of its own beyond that of the series.
        weights = 1 / (1 + extra / scale) if known else numpy.ones_like(y)
        self.variance = scale
        self.degrees = noise.degrees if noise is not None and known else 0.0
        self.alpha = alpha
        self.least = 1 if known else 2
        self.w = numpy.concatenate([[0.0], numpy.cumsum(weights)])
        self.wy = numpy.concatenate([[0.0], numpy.cumsum(weights * y)])
        self.wyy = numpy.concatenate([[0.0], numpy.cumsum(weights * y * y)])

    def mean(self, start: int, stop: int) -> float:
        return float((self.wy[stop] - self.wy[start]) / (self.w[stop] - self.w[start]))

    def split(self, start: int, stop: int) -> tuple[float, int]:
        """(adjusted p, place) of the best split of a stretch; (1, start) where there is none."""
        import numpy
        from scipy import special

        places = numpy.arange(start + self.least, stop - self.least + 1)
        degrees = self.degrees + (stop - start - 2)
        if not len(places) or degrees <= 0:
            return 1.0, start
        left, right = self.w[places] - self.w[start], self.w[stop] - self.w[places]
        low = (self.wy[places] - self.wy[start]) / left
        high = (self.wy[stop] - self.wy[places]) / right
        between = (high - low) ** 2 * left * right / (left + right)
        total = self.wyy[stop] - self.wyy[start]
        total -= (self.wy[stop] - self.wy[start]) ** 2 / (self.w[stop] - self.w[start])
        within = numpy.maximum(total - between, 0.0) + self.degrees * self.variance
        # Equal numbers leave no noise at all; rounding must not make a change of that.
        floor = 1e-24 * (1 + abs(self.wyy[stop] - self.wyy[start]))
        squares = between * degrees / numpy.maximum(within, floor)
        best = int(numpy.argmax(squares))
        p = 2 * float(special.stdtr(degrees, -float(numpy.sqrt(squares[best]))))
        return min(1.0, p * len(places)), int(places[best])

    def search(self, start: int, stop: int) -> list[int]:
        """Places of change within a stretch, by the clearest first."""
        if stop - start < 2 * self.least:
            return []
        p, place = min(
            self.split(start + low, start + high) for low, high in stretches(stop - start)
        )
        if p >= self.alpha:
            return []
        return [*self.search(start, place), place, *self.search(place, stop)]

    def refined(self, places: list[int]) -> list[Step]:
        """Each place moved to where it splits its neighbours' stretch best; the unclear ones left out."""
        size = len(self.w) - 1
        for _ in range(len(places) + 1):
            bounds = [0, *places, size]
            tested = [self.split(bounds[i - 1], bounds[i + 1]) for i in range(1, len(bounds) - 1)]
            worst = max(range(len(tested)), key=lambda i: tested[i][0], default=None)
            if worst is None:
                break
            if tested[worst][0] >= self.alpha:
                places = places[:worst] + places[worst + 1 :]
                continue
            moved = sorted({place for _, place in tested})
            if moved == places:
                break
            places = moved
        bounds = [0, *places, size]
        steps = []
        for i in range(1, len(bounds) - 1):
            before, after = (
                self.mean(bounds[i - 1], bounds[i]),
                self.mean(bounds[i], bounds[i + 1]),
            )
            steps.append(
                Step(bounds[i], before, after, self.split(bounds[i - 1], bounds[i + 1])[0])
            )
        return steps


@functools.cache
def stretches(size: int) -> tuple[tuple[int, int], ...]:
    """(start, stop) of the stretches that are looked at in a series of ``size`` points."""
    if size <= SHORT:
        return tuple(
            (low, high) for low in range(size - 1) for high in range(low + 2, size + 1)
        ) or ((0, size),)
    found = {(0, size)}
    length = float(size)
    while length > 4:
        length /= 2**0.5
        count = 2 * int(-(-size // length)) - 1
        for index in range(count):
            low = int(index * (size - length) / max(1, count - 1))
            found.add((low, min(size, low + int(-(-length // 1)))))
    return tuple(sorted(found))

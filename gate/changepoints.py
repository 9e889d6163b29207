"""Where a series of numbers changes its level.

Two tests, by how much a series can say of its own noise.

*Short* (under LONG points): a moderated t (Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004).  Four
points say next to nothing about their noise; what other series of the same machine say of it enters
as so many degrees of freedom.  A p value is multiplied by the number of places that were looked at.

*Long*: how much likelier the series is with a step, averaged over what its noise may be like, from
neighbours that resemble each other to drifts and outliers (:mod:`gate._likelihood`).  Nothing needs to
be known beforehand.

Either looks at stretches of the series, as seeded binary segmentation does (Kovacs et al., Biometrika
110, 2023), so that a level that was left and came back is found between its two ends.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from gate import _likelihood

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy

    from gate._likelihood import Model, Split

LONG = 12
# A gain (:mod:`gate._likelihood`) above this is a step: with it, at most 1 in 100 series of noise
# alone has a step upward, whatever the kind of noise.  From ``python -m gate selftest --tune --noise 800``,
# whose worst row is AR(0.8), 10+5.
THRESHOLD = 2.3
# Stretches inside a long series are looked at closely where a plain step gains this much, the most
# promising ones first: a close look takes milliseconds.  As of places, there are many of them, and what
# they gain is divided by their number to the same power.
PROMISING = 4.0
CLOSE_LOOKS = 3


class Noise(NamedTuple):
    """What is known of the noise beforehand.

    sd: of one point of the series, in its own units.  degrees: as how many points this counts.
    """

    sd: float
    degrees: float


class Step(NamedTuple):
    """A change of level before the point ``place``; the levels on either side.

    p: adjusted, of a short series; 0 in a long one, where ``gain`` tells how clear it is.
    """

    place: int
    before: float
    after: float
    p: float
    gain: float = 0.0


def find(
    values: Sequence[float] | numpy.ndarray,
    *,
    variances: Sequence[float] | None = None,
    noise: Noise | None = None,
    alpha: float = 1e-3,
    threshold: float = THRESHOLD,
) -> list[Step]:
    """Change points of ``values``, in order.  Of a short series by ``alpha``, of a long one by
    ``threshold``, and then ``variances`` and ``noise`` are not needed.

    variances: of each point, known from within it (its rounds), on top of ``noise``; 0 by default.
    noise: None where nothing is known; then at least two points must lie on either side of a change.
    alpha: adjusted p below which a split counts.
    threshold: gain above which it does.

    Raises ValueError for numbers that are not finite, or variances of another length.
    """
    import numpy

    y = numpy.asarray(values, dtype=float)
    extra = numpy.zeros_like(y) if variances is None else numpy.asarray(variances, dtype=float)
    if extra.shape != y.shape:
        raise ValueError(f"variances: expected {len(y)} numbers, got {len(extra)}")
    if not (numpy.isfinite(y).all() and numpy.isfinite(extra).all()):
        raise ValueError("values and variances: expected finite numbers")
    if len(y) >= LONG:
        return Long(y).find(threshold)
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

    def gain(self, start: int, stop: int) -> float:
        """Log-likelihood that a step gains over one level, with plain independent noise."""
        import numpy

        places = numpy.arange(start + 2, stop - 1)
        left, right = places - start, stop - places
        low = (self.wy[places] - self.wy[start]) / left
        high = (self.wy[stop] - self.wy[places]) / right
        total = (
            self.wyy[stop]
            - self.wyy[start]
            - (self.wy[stop] - self.wy[start]) ** 2 / (stop - start)
        )
        if total <= 1e-24 * (1 + abs(self.wyy[stop] - self.wyy[start])):
            return 0.0
        share = float(((high - low) ** 2 * left * right / (left + right)).max()) / total
        return -(stop - start) / 2 * float(numpy.log(max(1 - share, 1e-12)))

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


class Long:
    """One long series during the search."""

    def __init__(self, y: numpy.ndarray, model: Model = _likelihood.ANY) -> None:
        self.y = y
        self.model = model
        self.looked: dict[tuple[int, int], Split] = {}

    def find(self, threshold: float) -> list[Step]:
        """The steps, each where it divides the stretch between its neighbours best."""
        import numpy

        size = len(self.y)
        places = sorted(self.search(0, size, threshold))
        for _ in range(len(places) + 1):
            bounds = [0, *places, size]
            looked = [self.look(low, high) for low, high in zip(bounds, bounds[2:], strict=False)]
            kept = sorted({one.place for one in looked if one.gain > threshold})
            if kept == places:
                break
            places = kept
        bounds = [0, *places, size]
        levels = [float(numpy.median(self.y[i:j])) for i, j in itertools.pairwise(bounds)]
        return [
            Step(place, levels[i], levels[i + 1], 0.0, self.look(bounds[i], bounds[i + 2]).gain)
            for i, place in enumerate(places)
        ]

    def search(self, start: int, stop: int, threshold: float) -> list[int]:
        found = self.scan(start, stop)
        if found is None or found.gain <= threshold:
            return []
        left = self.search(start, found.place, threshold)
        return [*left, found.place, *self.search(found.place, stop, threshold)]

    def scan(self, start: int, stop: int, *, upward: bool = False) -> Split | None:
        """The clearest step in a stretch or a promising part of it; None if it is too short."""
        if stop - start < _likelihood.LEAST:
            return None
        plain = _Series(self.y, 0 * self.y, None, 1.0)
        inner = [
            (plain.gain(start + low, start + high), start + low, start + high)
            for low, high in stretches(stop - start)
            if _likelihood.LEAST <= high - low < stop - start
        ]
        close = sorted((one for one in inner if one[0] > PROMISING), reverse=True)[:CLOSE_LOOKS]
        inside = [self.look(low, high) for _, low, high in close]
        cost = _likelihood.PLACES * math.log(max(1, len(inner)))
        looked = [one._replace(gain=one.gain - cost) for one in inside]
        looked.insert(0, self.look(start, stop))
        if upward:
            looked = [one for one in looked if one.rise > 0]
        return max(looked, key=lambda one: one.gain, default=None)

    def look(self, start: int, stop: int) -> Split:
        """The best step of a stretch; one too short to be looked at alone borrows from around it."""
        lack = _likelihood.LEAST - (stop - start)
        if lack > 0:
            start = max(0, start - lack)
            stop = min(len(self.y), max(stop, start + _likelihood.LEAST))
        if (start, stop) not in self.looked:
            found = _likelihood.best(self.y[start:stop], self.model)
            self.looked[start, stop] = found._replace(place=start + found.place)
        return self.looked[start, stop]


def rise(values: Sequence[float] | numpy.ndarray, model: Model = _likelihood.ANY) -> float:
    """Gain of the clearest step upward of a long series, before any threshold; -inf without one."""
    import numpy

    y = numpy.asarray(values, dtype=float)
    found = Long(y, model).scan(0, len(y), upward=True)
    return found.gain if found else -numpy.inf


@functools.cache
def stretches(size: int) -> tuple[tuple[int, int], ...]:
    """(start, stop) of the stretches that are looked at in a series of ``size`` points."""
    if size <= LONG:
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

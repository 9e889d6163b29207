"""Other detectors under one interface: where does a series go up?

asv's own, as its pages use it, and the method of Hunter (Fleming et al., arXiv 2301.03034), today
Apache Otava: E-divisive (Matteson and James, arXiv 1306.4933) names places, a t-test keeps some.  The
latter is written from the papers, with Otava 0.8's window and its weaker first pass.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

WINDOW = 50
# Otava's own setting, and the largest with which no kind of noise raises more than 1 % false alarms
# (``python -m gate selftest --tune``).
OTAVA_P = 1e-3
STRENGTHS = 200  # tenths of -log10 p up to which an alarm is looked for
OTAVA_STRICT_P = 1e-12
ASV_THRESHOLD = 0.05


def asv(costs: numpy.ndarray, threshold: float, memory: dict[Any, Any] | None = None) -> list[int]:
    """asv's fit of steps, and those upward that its page of regressions lists."""
    from asv import step_detect

    memory = {} if memory is None else memory
    if "asv" not in memory:
        memory["asv"] = step_detect.detect_steps([float(cost) for cost in costs])
    _, _, found = step_detect.detect_regressions(memory["asv"], threshold)
    return [int(after) for _, after, *_ in found or []]


def otava(costs: numpy.ndarray, p: float, memory: dict[Any, Any] | None = None) -> list[int]:
    """E-divisive and t-test.  memory: keeps the work that does not depend on ``p``, of one series."""
    memory = {} if memory is None else memory
    places = _merged(costs, _weak(costs, _first_pass(p), memory), p)
    bounds = [0, *places, len(costs)]
    return [
        place
        for i, place in enumerate(places)
        if costs[place : bounds[i + 2]].mean() > costs[bounds[i] : place].mean()
    ]


def otava_strength(costs: numpy.ndarray) -> float:
    """-log10 of the largest p, to a tenth, from which on down there is no alarm; 0 without one at 0.5."""
    memory: dict[Any, Any] = {}
    looked: tuple[int, ...] = (*range(STRENGTHS, 9, -1), 6, 3)
    for tenths in looked:
        if otava(costs, 10 ** (-tenths / 10), memory):
            return (tenths + 1) / 10
    return 0.0


def _first_pass(p: float) -> float:
    """The weaker level of the first pass."""
    return 10 * p if p < 0.05 else min(2 * p, max(p, 0.5))


def _weak(costs: numpy.ndarray, level: float, memory: dict[Any, Any]) -> list[int]:
    """Places of every window, by the weaker level."""
    found: set[int] = set()
    start = 0
    while start < len(costs):
        stop = min(start + WINDOW, len(costs))
        places: list[int] = []
        while True:
            bounds = [start, *places, stop]
            best = max(
                (
                    _divided(costs, low, high, memory)
                    for low, high in itertools.pairwise(bounds)
                    if high - low > 1
                ),
                default=None,
            )
            if best is None or best[2] > level:
                break
            places = sorted([*places, best[1]])
        found.update(places)
        start = max(places[-1] if places else 0, start + WINDOW // 2)
    return sorted(found)


def _divided(
    costs: numpy.ndarray, start: int, stop: int, memory: dict[Any, Any]
) -> tuple[float, int, float]:
    """(energy, place, p of a t-test) of the best division of a stretch, as E-divisive looks for it:
    the part behind the place may end before the stretch does."""
    import numpy

    if (start, stop) not in memory:
        part = costs[start:stop]
        n = len(part)
        sums = numpy.zeros((n + 1, n + 1))
        sums[1:, 1:] = numpy.abs(part[:, None] - part[None, :]).cumsum(0).cumsum(1)
        whole = numpy.diagonal(sums)
        place, end = numpy.arange(1, n)[:, None], numpy.arange(2, n + 1)[None, :]
        after = numpy.maximum(end - place, 1)
        between = sums[place, end] - whole[place]
        left = whole[place] / 2
        right = (whole[end] - 2 * sums[place, end] + whole[place]) / 2
        # Means of distances within a side of one point are 0.
        left = numpy.where(place > 1, 2 * left / (place * numpy.maximum(place - 1, 1)), 0)
        right = numpy.where(after > 1, 2 * right / (after * numpy.maximum(after - 1, 1)), 0)
        energy = 2 * between / (place * after) - left - right
        energy = numpy.where(end > place, energy * place * after / (place + after), -math.inf)
        row, column = numpy.unravel_index(int(energy.argmax()), energy.shape)
        at = start + int(row) + 1
        p = _t_test(costs[start:at], costs[at:stop])
        memory[start, stop] = float(energy[row, column]), at, p
    found: tuple[float, int, float] = memory[start, stop]
    return found


def _merged(costs: numpy.ndarray, places: list[int], p: float) -> list[int]:
    """The weakest place is left out until none is weak."""
    while places:
        bounds = [0, *places, len(costs)]
        tested = [
            _t_test(costs[bounds[i] : bounds[i + 1]], costs[bounds[i + 1] : bounds[i + 2]])
            for i in range(len(places))
        ]
        weakest = max(range(len(tested)), key=tested.__getitem__)
        if tested[weakest] < p:
            break
        places = places[:weakest] + places[weakest + 1 :]
    return places


def _t_test(left: numpy.ndarray, right: numpy.ndarray) -> float:
    """Two-sided p of Student's t, of deviations that divide by n as Otava 0.8 has them."""
    from scipy import special

    n, m = len(left), len(right)
    if n + m <= 2:
        return 1.0
    pooled = (left.var() * (n - 1) + right.var() * (m - 1)) / (n + m - 2)
    if pooled == 0:
        return 0.0 if left.mean() != right.mean() else 1.0
    t = abs(right.mean() - left.mean()) / math.sqrt(pooled * (1 / n + 1 / m))
    return float(2 * special.stdtr(n + m - 2, -t))

"""Series and runs of our making, of which the truth is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy

# Of one point, relative: what a good machine scatters from night to night.
SD = 0.01
# Kinds of noise.
INDEPENDENT, DRIFT, OUTLIERS = "independent", "drift", "outliers"
RESEMBLING = {"AR(0.5)": 0.5, "AR(0.8)": 0.8}
KINDS = (INDEPENDENT, *RESEMBLING, DRIFT, OUTLIERS)
# Points before and after the step.
LAYOUTS = ((10, 2), (10, 5), (10, 15), (30, 5), (30, 15))
STEPS = (0.01, 0.02, 0.03, 0.05, 0.10, 0.20)
# A drift goes this many standard deviations from end to end, up or down.
DRIFT_SDS = 2.0
# One point in so many is an outlier; it is slower, by the size of a normal number of so many sd.
OUTLIER_SHARE, OUTLIER_SDS = 0.08, 8.0
# Series whose seeds begin with PUBLISHED are shown; constants are tuned on TUNING alone.
PUBLISHED, TUNING = 2027, 11


class Row(NamedTuple):
    """One line of the tables: a kind of noise, and points before and after the step."""

    kind: str
    before: int
    after: int


ROWS = tuple(Row(kind, *layout) for kind in KINDS for layout in LAYOUTS)


def series(seed: int, row: Row, step: float, draw: int) -> numpy.ndarray:
    """Costs [before + after] around 100, ``step`` (0.03 is 3 %) higher from point ``before`` on.

    The same seed, row, step and draw give the same numbers everywhere.
    """
    import numpy

    key = [seed, KINDS.index(row.kind), row.before, row.after, round(step * 1000), draw]
    dice = numpy.random.default_rng(key)
    logs = noise(dice, row.kind, row.before + row.after)
    logs[row.before :] += numpy.log1p(step)
    costs: numpy.ndarray = 100 * numpy.exp(logs)
    return costs


def noise(dice: numpy.random.Generator, kind: str, size: int) -> numpy.ndarray:
    """Logarithms [size] of relative noise.  Raises ValueError for an unknown kind."""
    import numpy

    plain: numpy.ndarray = SD * dice.standard_normal(size)
    if kind == INDEPENDENT:
        return plain
    if kind in RESEMBLING:
        rho = RESEMBLING[kind]
        made = plain.copy()
        for i in range(1, size):
            made[i] = rho * made[i - 1] + numpy.sqrt(1 - rho * rho) * plain[i]
        return made
    if kind == DRIFT:
        plain += numpy.linspace(0, DRIFT_SDS * SD, size) * dice.choice([-1, 1])
        return plain
    if kind == OUTLIERS:
        hit = dice.random(size) < OUTLIER_SHARE
        plain += hit * numpy.abs(dice.standard_normal(size)) * OUTLIER_SDS * SD
        return plain
    raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")

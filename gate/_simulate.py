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
# Kinds that no detector is tuned on: a random walk, a bend of so many standard deviations, and
# outliers amid neighbours that resemble each other.
WALK, BEND, BOTH = "random walk", "bend", "AR(0.8), outliers"
OTHERS = (WALK, BEND, BOTH)
BEND_SDS = 5.0
# Series whose seeds begin with PUBLISHED are shown; constants are tuned on TUNING alone.
PUBLISHED, TUNING = 2028, 11


class Row(NamedTuple):
    """One line of the tables: a kind of noise, points before and after the step, size of the noise."""

    kind: str
    before: int
    after: int
    sd: float = SD


ROWS = tuple(Row(kind, *layout) for kind in KINDS for layout in LAYOUTS)
# Size of the noise -> steps, as asv's and Otava's detectors were looked at before there was this one.
SIZES = {0.01: (0.05, 0.10, 0.03), 0.02: (0.10, 0.03), 0.04: (0.20, 0.03)}
OTHER_ROWS = tuple(Row(kind, 60, 40) for kind in KINDS) + tuple(
    Row(kind, *layout) for kind in OTHERS for layout in ((10, 15), (30, 15), (60, 40))
)


def series(seed: int, row: Row, step: float, draw: int) -> numpy.ndarray:
    """Costs [before + after] around 100, ``step`` (0.03 is 3 %) higher from point ``before`` on.

    The same seed, row, step and draw give the same numbers everywhere.
    """
    import numpy

    kind = (*KINDS, *OTHERS).index(row.kind)
    key = [seed, kind, row.before, row.after, round(step * 1000), draw]
    dice = numpy.random.default_rng([*key, round(row.sd * 1000)] if row.sd != SD else key)
    logs = noise(dice, row.kind, row.before + row.after) * (row.sd / SD)
    logs[row.before :] += numpy.log1p(step)
    costs: numpy.ndarray = 100 * numpy.exp(logs)
    return costs


def noise(dice: numpy.random.Generator, kind: str, size: int) -> numpy.ndarray:
    """Logarithms [size] of relative noise.  Raises ValueError for an unknown kind."""
    import numpy

    if kind not in (*KINDS, *OTHERS):
        raise ValueError(f"kind: expected one of {', '.join((*KINDS, *OTHERS))}, got {kind!r}")
    made: numpy.ndarray = SD * dice.standard_normal(size)
    if kind in RESEMBLING or kind == BOTH:
        rho = RESEMBLING.get(kind, 0.8)
        for i in range(1, size):
            made[i] = rho * made[i - 1] + numpy.sqrt(1 - rho * rho) * made[i]
    if kind == DRIFT:
        made += numpy.linspace(0, DRIFT_SDS * SD, size) * dice.choice([-1, 1])
    if kind == BEND:
        made += BEND_SDS * SD * numpy.linspace(0, 1, size) ** 2 * dice.choice([-1, 1])
    if kind in (OUTLIERS, BOTH):
        hit = dice.random(size) < OUTLIER_SHARE
        made += hit * numpy.abs(dice.standard_normal(size)) * OUTLIER_SDS * SD
    return numpy.cumsum(made) if kind == WALK else made

"""From one number a process to a verdict: pure functions, no input or output.

The process is the unit.  What differs between two processes of the same commit (where memory lies,
what the clock does that minute) is as large as what differs between commits, and no number of samples
inside one process averages it out; so a process is one number, the median of its samples.

Processes run in blocks A B B A, B A A B, ...: neighbours make pairs, one of each commit.  The data
are the logarithms of head over base, one a pair.  Their trimmed mean is the effect; its interval and
its p-value are Yuen's (1974) for a trimmed mean, from Student's t.  docs/decisions/0007 says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

REGRESSED, IMPROVED, SAME, INCONCLUSIVE = "regressed", "improved", "same", "inconclusive"
PAIRS_A_BLOCK = 2
# Two blocks: with fewer, Student's t has so few degrees of freedom that nothing is ever decided.
LEAST_PAIRS = 4
# One pair in this many is cut off at each end before the mean is taken.
TRIM = 8
MOST_BLOCKS = 200  # further ones, beyond which their number is not worth saying


@dataclass(frozen=True)
class Rule:
    """What counts as a change.

    threshold: the relative change that matters, 0.02 for 2 %.  fraction: a change is one when its
    whole interval lies beyond this part of the threshold.  alpha: the share of false ones among the
    changes that are reported, and 1 minus the confidence of the intervals.  resolution: the least
    scatter of a pair that is believed; half a microsecond, what an event of CUDA resolves, of a graph
    of a millisecond.

    Raises ValueError for settings with which no verdict could be reached.
    """

    threshold: float = 0.02
    fraction: float = 0.5
    alpha: float = 0.05
    resolution: float = 5e-4

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"threshold: expected more than 0 and less than 1, got {self.threshold}"
            )
        if not 0 <= self.fraction < 1:
            raise ValueError(f"fraction: expected at least 0 and less than 1, got {self.fraction}")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha: expected more than 0 and less than 0.5, got {self.alpha}")
        if not self.resolution > 0:
            raise ValueError(f"resolution: expected more than 0, got {self.resolution}")

    @property
    def band(self) -> float:
        """The threshold as a logarithm: inside, two costs are equal for all practical purposes."""
        return math.log1p(self.threshold)


DEFAULT = Rule()


class Effect(NamedTuple):
    """Head against base, as logarithms of the ratio.

    mean: trimmed.  low, high: its confidence interval.  p: two-sided, of no effect.  pairs: how many.
    scatter: winsorised standard deviation of a pair.
    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int
    scatter: float


class Observation(NamedTuple):
    """One case: a number a process, ``base[i]`` and ``head[i]`` being neighbours in time.

    base_cycles, head_cycles: the same in clock cycles, where the clock is known of every process.
    """

    base: Sequence[float]
    head: Sequence[float]
    base_cycles: Sequence[float] | None = None
    head_cycles: Sequence[float] | None = None


@dataclass(frozen=True)
class Decision:
    """verdict: regressed, improved, same or inconclusive.  time: the effect that was seen, None with
    fewer than two pairs.  cycles: the same in clock cycles.  q: p adjusted for the number of cases.
    more_blocks: how many more would settle an inconclusive one, None where that is not known.  reason:
    why, a phrase."""

    verdict: str
    time: Effect | None
    cycles: Effect | None
    q: float
    more_blocks: int | None
    reason: str

    @property
    def change(self) -> float:
        """Relative change of the cost: 0.02 is 2 % slower; NaN where nothing was seen."""
        return math.expm1(self.time.mean) if self.time else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Confidence interval of the relative change."""
        if self.time is None:
            return math.nan, math.nan
        return math.expm1(self.time.low), math.expm1(self.time.high)


def decide(
    base: Sequence[float],
    head: Sequence[float],
    rule: Rule = DEFAULT,
    *,
    base_cycles: Sequence[float] | None = None,
    head_cycles: Sequence[float] | None = None,
) -> Decision:
    """The verdict on one case that stands alone; for several see :func:`decide_all`.

    Raises ValueError for sides of unequal length and for what is no positive number.
    """
    return decide_all([Observation(base, head, base_cycles, head_cycles)], rule)[0]


def decide_all(cases: Sequence[Observation], rule: Rule = DEFAULT) -> list[Decision]:
    """The verdicts on cases that are judged together: of the changes reported, at most ``rule.alpha``
    are expected to be none (Benjamini and Hochberg), however many cases there are."""
    seen = [_effects(case, rule) for case in cases]
    # Significant in time and in cycles: the larger p decides (an intersection-union test).
    p = [
        max(effect.p for effect in (time, cycles) if effect is not None)
        for time, cycles in seen
        if time is not None and time.pairs >= LEAST_PAIRS
    ]
    adjusted = iter(_adjust(p))
    return [
        _decide(time, cycles, next(adjusted), rule)
        if time is not None and time.pairs >= LEAST_PAIRS
        else _too_few(time, cycles)
        for time, cycles in seen
    ]


def effect(base: Sequence[float], head: Sequence[float], rule: Rule = DEFAULT) -> Effect | None:
    """Trimmed mean of the pairs' log ratios with its interval; None with fewer than two pairs.

    Raises ValueError for sides of unequal length and for what is no positive number.
    """
    import numpy as np

    before, after = np.asarray(base, dtype=float), np.asarray(head, dtype=float)
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"head: expected {before.size} numbers as base has, got {after.size}")
    for name, values in (("base", before), ("head", after)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"{name}: expected positive numbers, got {values.tolist()}")
    if before.size < 2:
        return None
    return _trimmed(np.sort(np.log(after / before)), rule)


def _trimmed(ordered: NDArray[np.float64], rule: Rule) -> Effect:
    """Yuen's interval for the mean of what is left when the ends are cut off."""
    from scipy import special

    n = ordered.size
    cut = n // TRIM
    mean = float(ordered[cut : n - cut].mean())
    # What was cut counts as the nearest value left.
    winsorised = ordered.clip(ordered[cut], ordered[n - cut - 1])
    scatter = max(float(winsorised.std(ddof=1)), rule.resolution)
    error, freedom = _error(scatter, n)
    half = -float(special.stdtrit(freedom, rule.alpha / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(mean) / error))
    return Effect(mean, mean - half, mean + half, p, n, scatter)


def _error(scatter: float, pairs: int) -> tuple[float, int]:
    """Standard error of the trimmed mean, and its degrees of freedom."""
    kept = pairs - 2 * (pairs // TRIM)
    return scatter * math.sqrt((pairs - 1) / (kept * (kept - 1))), kept - 1


def _effects(case: Observation, rule: Rule) -> tuple[Effect | None, Effect | None]:
    cycles = None
    if case.base_cycles is not None and case.head_cycles is not None:
        cycles = effect(case.base_cycles, case.head_cycles, rule)
    return effect(case.base, case.head, rule), cycles


def _adjust(p: Sequence[float]) -> list[float]:
    """p-values adjusted for the false discovery rate."""
    if len(p) < 2:
        return list(p)
    from scipy.stats import false_discovery_control

    return [float(value) for value in false_discovery_control(p, method="bh")]


def _too_few(time: Effect | None, cycles: Effect | None) -> Decision:
    pairs = time.pairs if time else 0
    more = -(-(LEAST_PAIRS - pairs) // PAIRS_A_BLOCK)
    reason = f"{pairs} pairs of processes, {LEAST_PAIRS} are the least"
    return Decision(INCONCLUSIVE, time, cycles, math.nan, more, reason)


def _decide(time: Effect, cycles: Effect | None, q: float, rule: Rule) -> Decision:
    """Both clocks must say the same."""
    verdict, reason = _place(time, q, rule)
    made = Decision(verdict, time, cycles, q, None, reason)
    if cycles is not None:
        # Clocks are read in coarse steps: that cycles leave it open does not undo an equal time.
        agreeing = (SAME, INCONCLUSIVE) if verdict == SAME else (verdict,)
        alone = [_place(one, one.p, rule)[0] for one in (time, cycles)]
        other = alone[1] if verdict == SAME else _place(cycles, q, rule)[0]
        if other not in agreeing:
            said = f"{alone[0]} in time, {alone[1]} in clock cycles"
            made = replace(made, verdict=INCONCLUSIVE, reason=said)
            if INCONCLUSIVE not in alone:
                return made  # not for want of data
    if made.verdict == INCONCLUSIVE:
        # The share of alpha that the adjustment left to this case.
        level = rule.alpha * time.p / q if q > 0 else rule.alpha
        made = replace(made, more_blocks=_more(time, min(level, rule.alpha), rule))
    return made


def _place(seen: Effect, q: float, rule: Rule) -> tuple[str, str]:
    """The verdict on one clock's effect, and why."""
    beyond = rule.fraction * rule.band
    said = f"significant, and the whole interval beyond {rule.fraction * rule.threshold:.1%}"
    if q <= rule.alpha and seen.low >= beyond:
        return REGRESSED, said
    if q <= rule.alpha and seen.high <= -beyond:
        return IMPROVED, said
    if -rule.band < seen.low and seen.high < rule.band:
        return SAME, f"within {rule.threshold:.1%}"
    return INCONCLUSIVE, "the interval is too wide"


def _more(seen: Effect, level: float, rule: Rule) -> int | None:
    """Blocks to add until an effect and a scatter as seen would settle the verdict."""
    import numpy as np
    from scipy import special

    pairs = seen.pairs + PAIRS_A_BLOCK * np.arange(1, MOST_BLOCKS + 1)
    kept = pairs - 2 * (pairs // TRIM)
    error = seen.scatter * np.sqrt((pairs - 1) / (kept * (kept - 1)))
    half = -special.stdtrit(kept - 1, rule.alpha / 2) * error
    size = abs(seen.mean)
    equal = size + half < rule.band
    significant = size >= -special.stdtrit(kept - 1, level / 2) * error
    changed = significant & (size - half >= rule.fraction * rule.band)
    enough = np.flatnonzero(equal | changed)
    return int(enough[0]) + 1 if enough.size else None

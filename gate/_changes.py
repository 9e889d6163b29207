"""Changes of the history's series, and what became of each.

A change for the worse is *open* until it is something else:

recovered  a later commit brought the cost back; both are named
accepted   an annotation says why it may stay
harmless   what the compiler made is more, and wherever the case was timed, it took no longer
noise      both commits run the same program, so their times cannot differ

A change for the better is *improved*; of a metric that is neither better nor worse, *changed*.
"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.metrics import CODEGEN, METRICS
from gate import changepoints
from gate._series import noises, same

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gate._annotations import Annotation
    from gate._series import Point, Series
    from gate.changepoints import Noise

# Relative changes below this are no news, however clear; 0 where every change is news.
FLOORS = {
    "device_us": 0.01, "launch_us": 0.05, "cpu_us": 0.05, "compile_s": 0.2,
    "max_error": 0.01, "rms_error": 0.01,
}  # fmt: skip
# Adjusted p of a change of time.  A history has hundreds of series, and each is looked at every night.
ALPHA = 1e-4
# A time this much longer is harm even where noise, or a throttled clock, hides whether it is a change.
SLOWER = 1.03
OPEN, RECOVERED, ACCEPTED = "open", "recovered", "accepted"
HARMLESS, NOISE, IMPROVED, CHANGED = "harmless", "noise", "improved", "changed"


@dataclass
class Change:
    """Between two measured commits the level of a series changed.

    before, after: levels, in the series' unit.  evidence: why it is no noise: ``p 3e-06`` (adjusted),
    ``gain 12.1`` (of a long series, see gate/changepoints.py), ``exact`` where nothing is noisy.
    since: the last commit measured before; commit: the first measured after.  mended: the commit
    that brought a recovered cost back.  reason: of an accepted one.
    """

    series: Series
    since: Point
    commit: Point
    before: float
    after: float
    evidence: str
    status: str = ""
    mended: str = ""
    reason: str = ""

    @property
    def ratio(self) -> float:
        """after over before; infinite from 0, NaN where an error became NaN."""
        if self.before == 0:
            return math.inf if self.after > 0 else 1.0
        return self.after / self.before

    @property
    def worse(self) -> bool:
        """Whether it changed against the metric's direction.  An error that became NaN did."""
        better = METRICS[self.series.key.metric].better
        if math.isnan(self.after) or math.isnan(self.before):
            return better != "neither" and math.isnan(self.after)
        return {"less": self.after > self.before, "more": self.after < self.before}.get(
            better, False
        )


def changes(series: Sequence[Series]) -> list[Change]:
    """All changes of all series that are ours, with their status but for annotations."""
    noise = noises(series)
    found = []
    for one in series:
        if one.key.implementation not in ("kernels", "reference"):
            continue
        known = noise.get((*one.facts, one.key.metric))
        own = list(_stepped(one, known))
        for change in own:
            change.status = change.status or _status(change, own)
        found += own
    _harmless(found, series)
    return found


def _stepped(series: Series, noise: Noise | None) -> Iterator[Change]:
    """The changes of one series, in order.  ``status`` is set where both sides are one program."""
    points = series.points
    values = [point.value for point in points]
    if series.deterministic or not all(0 < value < math.inf for value in values):
        yield from _exact(series)
        return
    logs = [math.log(value) for value in values]
    steps = changepoints.find(
        logs, variances=[point.variance for point in points], noise=noise, alpha=ALPHA
    )
    for step in steps:
        if abs(step.after - step.before) < math.log1p(FLOORS[series.key.metric]):
            continue
        old, new = points[step.place - 1], points[step.place]
        told = f"gain {step.gain:.1f}" if step.gain else f"p {step.p:.0e}"
        change = Change(series, old, new, math.exp(step.before), math.exp(step.after), told)
        if same(series, old, new):
            change.status = NOISE
        yield change


def _exact(series: Series) -> Iterator[Change]:
    """Every change between neighbours that is above the metric's floor."""
    floor = FLOORS.get(series.key.metric, 0.0)
    for old, new in zip(series.points, series.points[1:], strict=False):
        if differs(old.value, new.value, floor):
            yield Change(series, old, new, old.value, new.value, "exact")


def differs(old: float, new: float, floor: float) -> bool:
    """Whether two numbers are apart by more than ``floor`` of the older one."""
    if math.isnan(old) or math.isnan(new):
        return math.isnan(old) != math.isnan(new)
    return old != new and not abs(new - old) <= floor * abs(old)


def _status(change: Change, own: Sequence[Change]) -> str:
    if METRICS[change.series.key.metric].better == "neither":
        return CHANGED
    if not change.worse:
        return IMPROVED
    for later in own[own.index(change) + 1 :]:
        if later.status != NOISE and not later.worse and _back(change, later.after):
            change.mended = later.commit.commit
            return RECOVERED
    return OPEN


def _back(change: Change, level: float) -> bool:
    """Whether ``level`` is as good as the one that the change left, within the metric's floor."""
    if math.isnan(level):
        return False
    metric = change.series.key.metric
    allowed = FLOORS.get(metric, 0.0) * abs(change.before)
    if METRICS[metric].better == "more":
        return level >= change.before - allowed
    return level <= change.before + allowed


def _harmless(found: Iterable[Change], series: Iterable[Series]) -> None:
    """Mark what the compiler made more of where the case was timed and takes no longer.

    More registers or instructions are no loss unless they cost time.  Where no machine timed the
    case before and after, what the compiler says is all there is, and the change stays open.
    """
    timed: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        if one.key.metric == "device_us":
            timed.setdefault(one.key[:3], []).append(one)
    slower = {
        (id(change.series), change.commit.place)
        for change in found
        if change.series.key.metric == "device_us" and change.worse and change.status != NOISE
    }
    for change in found:
        if change.status == OPEN and change.series.key.metric in CODEGEN:
            told = [
                (one, pair)
                for one in timed.get(change.series.key[:3], [])
                if (pair := _around(one, change)) is not None
            ]
            harmed = any(
                (id(one), new.place) in slower or new.value > old.value * SLOWER
                for one, (old, new) in told
            )
            if told and not harmed:
                change.status = HARMLESS


def _around(series: Series, change: Change) -> tuple[Point, Point] | None:
    """The points of ``series`` next before and next after a change, throttled ones too, or None."""
    points = sorted([*series.points, *series.throttled], key=lambda point: point.place)
    old = [point for point in points if point.place <= change.since.place]
    new = [point for point in points if point.place >= change.commit.place]
    return (old[-1], new[0]) if old and new else None


def accept(found: Iterable[Change], annotations: Sequence[Annotation]) -> list[Annotation]:
    """Move what is annotated from open to accepted; returns the annotations that fit nothing."""
    used = set()
    for change in found:
        key = change.series.key
        for index, one in enumerate(annotations):
            fits = change.since.place < one.place <= change.commit.place and all(
                fnmatch.fnmatchcase(have, wanted)
                for have, wanted in (
                    (key.operator, one.operator), (key.case, one.case), (key.metric, one.metric),
                    (change.series.machine, one.machine),
                )
            )  # fmt: skip
            if fits and change.worse:
                used.add(index)
                if change.status == OPEN:
                    change.status, change.reason = ACCEPTED, one.reason
    return [one for index, one in enumerate(annotations) if index not in used]

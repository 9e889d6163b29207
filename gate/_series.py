"""The committed history as series: one a fingerprint and key, in the order of the commit graph."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.rawlog import Key
from gate.changepoints import Noise
from harness._logs import MACHINE, OURS, quantile
from harness._verdict import OUR_SIDES, SAME, equal, program
from harness.bench import git

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.rawlog import Measured
    from harness._logs import Log

# Noisy ones; every other metric is the same whenever it is measured.
TIMES = ("device_us", "launch_us", "cpu_us", "compile_s")
# The program's own time: equal programs have equal ones, and what differs is noise.
OF_PROGRAM = ("device_us",)
# As many pairs of equal programs as may speak for the noise; fewer, and neighbours do.
ENOUGH = 10
# They count as this many points: their tails are heavier than the normal distribution's.
DEGREES = 10


class Point(NamedTuple):
    """One commit of a series.  value: the median.  variance: of the log of the median, from its
    samples.  program: machine code and launch of every kernel of the call, None where not known."""

    commit: str
    place: int
    value: float
    variance: float
    program: list[list[Any]] | None


@dataclass
class Series:
    """One key on one machine as it was at the time; points in the order of the commit graph.

    throttled: the points that no change is looked for in.
    """

    machine: str
    facts: tuple[str, ...]
    key: Key
    unit: str
    points: list[Point] = field(default_factory=list)
    throttled: list[Point] = field(default_factory=list)

    @property
    def deterministic(self) -> bool:
        """Whether any change is a change."""
        return self.key.metric not in TIMES


class Commits:
    """The commits that HEAD has behind it, parents first."""

    def __init__(self, root: Path) -> None:
        listed = git(root, "rev-list", "--topo-order", "--reverse", "HEAD").split()
        self.order = {commit: place for place, commit in enumerate(listed)}
        self.short = {commit[:12]: place for place, commit in enumerate(listed)}

    def place(self, commit: str) -> int | None:
        """Place of a commit, by 12 digits or more, or None where HEAD does not have it."""
        return self.short.get(commit[:12])

    def full(self, prefix: str) -> str | None:
        """The one commit that begins with ``prefix``, or None."""
        found = [commit for commit in self.order if commit.startswith(prefix)]
        return found[0] if len(found) == 1 else None


def build(
    logs: Iterable[Log], commits: Commits, metrics: Sequence[str], warn: Callable[[str], None]
) -> list[Series]:
    """All series of ``metrics``.  Peers are among them: nobody changed them, so they tell the noise.

    A log of a commit that HEAD does not have is named and left out.
    """
    found: dict[tuple[Any, ...], Series] = {}
    for log in logs:
        place = commits.place(log.commit)
        if place is None:
            warn(f"{log.path}: left out: HEAD's history has no commit {log.commit}")
            continue
        facts = (log.machine, *(log.fact(name) for name in SAME))
        for key, measured in log.measured.items():
            if key.metric not in metrics or key.operator == MACHINE:
                continue
            series = found.setdefault((*facts, key), Series(log.machine, facts, key, measured.unit))
            known = program(log, key) if key.implementation == OURS else None
            held = series.throttled if measured.throttled else series.points
            held.append(Point(log.commit, place, measured.median, _variance(measured), known))
    for series in found.values():
        series.points.sort(key=lambda point: point.place)
    return [found[which] for which in sorted(found, key=str)]


def _variance(measured: Measured) -> float:
    """Of the log of the median, from how the medians of the rounds scatter; 0 for a single round."""
    size, rounds = len(measured.samples), measured.rounds
    if rounds < 2 or size % rounds or min(measured.samples) <= 0:
        return 0.0
    each = size // rounds
    medians = [
        math.log(statistics.median(measured.samples[i * each : (i + 1) * each]))
        for i in range(rounds)
    ]
    return statistics.variance(medians) / rounds


def noises(series: Iterable[Series]) -> dict[tuple[str, ...], Noise]:
    """(facts, metric) -> noise of the log of one point, from pairs of neighbouring commits.

    Of equal programs, and of peers, where there are ENOUGH: nothing of those changed.  Else of all
    neighbours, whose changes make the noise seem larger than it is.  The larger of two estimates,
    from the middle half and from the tail, because the tail is heavy.
    """
    equal: dict[tuple[str, ...], list[float]] = {}
    every: dict[tuple[str, ...], list[float]] = {}
    for one in series:
        if one.deterministic:
            continue
        which = (*one.facts, one.key.metric)
        for control, ratio in _pairs(one):
            every.setdefault(which, []).append(ratio)
            if control:
                equal.setdefault(which, []).append(ratio)
    found = {}
    for which, ratios in every.items():
        controls = equal.get(which, [])
        used = controls if len(controls) >= ENOUGH else ratios
        middle = 1.4826 * statistics.median(used)
        sd = middle if used is ratios else max(middle, quantile(used, 0.95) / 1.96)
        found[which] = Noise(sd / 2**0.5, min(DEGREES, len(used)))
    return found


def _pairs(series: Series) -> Iterator[tuple[bool, float]]:
    """Whether two neighbours are the same work, and the absolute log of their ratio."""
    for old, new in zip(series.points, series.points[1:], strict=False):
        if min(old.value, new.value) > 0:
            peer = series.key.implementation not in OUR_SIDES
            yield peer or same(series, old, new), abs(math.log(new.value / old.value))


def same(series: Series, old: Point, new: Point) -> bool:
    """Whether both points timed the same program, so that what differs is noise."""
    return series.key.metric in OF_PROGRAM and equal(old.program, new.program)

"""The verdict of ``compare`` (gate/stats.py) on processes of which the truth is known.

A run compares two commits on CASES cases in some blocks A B B A; a process is one number a case.  The
numbers come from a model of noise, or from processes that were really measured, all of one commit
(``python -m gate aa``): there, whole processes are drawn, so that what the cases of a process have in
common stays in common.  In some runs a few cases of the second commit are slower, by a known factor.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gate import plan, stats
from gate._shares import Share

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy

CASES = 40
SLOWED = 4  # of CASES, in the runs with a slowdown
BLOCKS = (3, 5, 8)
SLOWDOWNS = (0.01, 0.02, 0.03, 0.05, 0.10, 0.20)
SAMPLES = 12
LEAST_PROCESSES = 40
# Of clean cases; more than this is a broken promise.
FALSE_ALARMS = 0.01


class Source(Protocol):
    """Where processes come from."""

    @property
    def name(self) -> str:
        """What it is, for a table."""

    @property
    def cases(self) -> int:
        """How many cases a process has."""

    def draw(self, dice: numpy.random.Generator, processes: int) -> numpy.ndarray:
        """Costs [processes, cases] of one commit, in the order of time."""


@dataclass(frozen=True)
class Model:
    """Noise of processes, relative.

    between: standard deviation between processes; half of its variance is common to all cases of a
    process.  within: of a sample in its process, of which a process takes the median of SAMPLES.
    drift: over the whole run.  rho: resemblance of successive processes.  outliers: share of
    processes that are slower, by up to 10 %.
    """

    name: str
    between: float = 0.003
    within: float = 0.005
    drift: float = 0.0
    rho: float = 0.0
    outliers: float = 0.0
    cases: int = CASES

    def draw(self, dice: numpy.random.Generator, processes: int) -> numpy.ndarray:
        """Costs [processes, cases]."""
        import numpy

        common = self._resembling(dice, (processes, 1))
        own = self._resembling(dice, (processes, self.cases))
        logs = self.between * numpy.sqrt(0.5) * (common + own)
        samples = self.within * dice.standard_normal((processes, self.cases, SAMPLES))
        logs += numpy.median(samples, axis=2)
        logs += self.drift * numpy.linspace(0, 1, processes)[:, None] * dice.choice([-1, 1])
        hit = dice.random((processes, 1)) < self.outliers
        logs += hit * dice.uniform(0, 0.1, (processes, 1))
        costs: numpy.ndarray = 100 * numpy.exp(logs)
        return costs

    def _resembling(self, dice: numpy.random.Generator, shape: tuple[int, int]) -> numpy.ndarray:
        import numpy

        made = dice.standard_normal(shape)
        for i in range(1, shape[0]):
            made[i] = self.rho * made[i - 1] + numpy.sqrt(1 - self.rho**2) * made[i]
        return made


MODELS = (
    Model("0.2 % between processes", between=0.002),
    Model("0.5 % between processes", between=0.005),
    Model("0.5 %, drift of 2 % over the run", between=0.005, drift=0.02),
    Model("0.5 %, AR(0.7) from process to process", between=0.005, rho=0.7),
    Model("0.5 %, 5 % of processes up to 10 % slower", between=0.005, outliers=0.05),
)


class Measured:
    """Processes of one commit that were measured: costs [processes, cases].

    What is drawn are runs of four successive ones, so that what neighbours have in common stays.
    """

    def __init__(self, name: str, costs: numpy.ndarray) -> None:
        self.name = name
        self.costs = costs
        self.cases = costs.shape[1]

    def draw(self, dice: numpy.random.Generator, processes: int) -> numpy.ndarray:
        """Costs [processes, cases]."""
        import numpy

        have = len(self.costs)
        starts = dice.integers(0, have, -(-processes // plan.POSITIONS))
        rows = (starts[:, None] + numpy.arange(plan.POSITIONS)[None, :]) % have
        drawn: numpy.ndarray = self.costs[rows.ravel()[:processes]]
        return drawn


def read(path: Path, warn: Callable[[str], None]) -> Measured:
    """Processes of a raw log, in the order in which they were measured, with the cases that all have.

    Raises ValueError where there are fewer than LEAST_PROCESSES, of more than one commit, or no case.
    """
    import numpy

    from benchmarks import rawlog
    from gate.rows import TIMED

    found: dict[str, dict[tuple[str, ...], float]] = {}
    commits = set()
    for row in rawlog.read(path, warn):
        if row["kind"] == "sample" and row["metric"] in TIMED:
            key = (row["operator"], row["case"], row["implementation"], row["metric"])
            found.setdefault(row["process"], {})[key] = statistics.median(row["samples"])
            commits.add(row["commit"])
    if len(found) < LEAST_PROCESSES:
        raise ValueError(
            f"{path}: expected {LEAST_PROCESSES} processes or more, got {len(found)}: "
            f"python -m gate aa --out {path} goes on"
        )
    if len(commits) > 1:
        raise ValueError(f"{path}: expected one commit, got {', '.join(sorted(commits))}")
    whole = set.intersection(*(set(held) for held in found.values()))
    if not whole:
        raise ValueError(f"{path}: no case that every process timed")
    order = sorted(whole)
    costs = numpy.array([[held[key] for key in order] for held in found.values()])
    if not (numpy.isfinite(costs) & (costs > 0)).all():
        raise ValueError(f"{path}: expected positive times only")
    return Measured(f"{len(found)} measured processes, {len(order)} cases", costs)


class Result(NamedTuple):
    """Of one source and number of blocks.

    cases: clean cases that regressed or improved, of all runs without a slowdown; runs: such runs with
    at least one.  opened: clean cases that stayed inconclusive.  found: slowed cases that regressed,
    by slowdown.
    """

    source: str
    blocks: int
    cases: Share
    runs: Share
    opened: Share
    found: dict[float, Share]


def measure(source: Source, blocks: int, runs: int, seed: int, slowed_runs: int) -> Result:
    """Drive the verdict.  runs: without a slowdown; slowed_runs: of each slowdown."""
    import numpy

    dice = numpy.random.default_rng([seed, blocks, *source.name.encode()])
    wrong, alarmed, opened = 0, 0, 0
    for _ in range(runs):
        verdicts = _verdicts(source, blocks, dice, 0.0, 0)
        changed = sum(verdict in (stats.REGRESSED, stats.IMPROVED) for verdict in verdicts)
        wrong += changed
        alarmed += changed > 0
        opened += verdicts.count(stats.INCONCLUSIVE)
    slowed = max(1, min(SLOWED, source.cases // 10))
    found = {}
    for slowdown in SLOWDOWNS:
        hits = sum(
            _verdicts(source, blocks, dice, slowdown, slowed)[:slowed].count(stats.REGRESSED)
            for _ in range(slowed_runs)
        )
        found[slowdown] = Share(hits, slowed_runs * slowed)
    clean = runs * source.cases
    return Result(
        source.name, blocks, Share(wrong, clean), Share(alarmed, runs), Share(opened, clean), found
    )


def _verdicts(
    source: Source, blocks: int, dice: numpy.random.Generator, slowdown: float, slowed: int
) -> list[str]:
    """Verdict of every case of one run, the first ``slowed`` of which are slower at head."""
    costs = source.draw(dice, plan.POSITIONS * blocks)
    if slowed:
        costs = costs[:, dice.permutation(costs.shape[1])]
    sides = [side for block in range(blocks) for side in plan.order(block)]
    first = dice.choice([0, 1])  # which commit begins must not matter
    head = [number for number, side in enumerate(sides) if (side == plan.HEAD) != bool(first)]
    base = [number for number in range(len(sides)) if number not in head]
    after, before = costs[head].copy(), costs[base]
    after[:, :slowed] *= 1 + slowdown
    seen = [
        stats.Observation(before[:, case].tolist(), after[:, case].tolist())
        for case in range(costs.shape[1])
    ]
    return [decision.verdict for decision in stats.decide_all(seen)]

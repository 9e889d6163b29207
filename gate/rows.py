"""What a comparison finds, a row for each cost of each case; and the rows that need no clock."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.metrics import METRICS
from gate import plan, stats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gate.log import Process


CHANGED = "changed"
TIMED = ("device_us", "cpu_us")
# Growth that is a regression, of what a commit decides and no clock.
EXACT = {
    "differing_elements": 0.0, "spills": 0.0, "peak_bytes": 0.0, "max_error": 0.01, "rms_error": 0.01,
}  # fmt: skip
SHOWN = ("registers", "shared_bytes", "wgmma", "instructions")


class Case(NamedTuple):
    """What is measured."""

    operator: str
    case: str
    implementation: str


@dataclass(frozen=True)
class Row:
    """One cost of one case in both commits.

    base, head: medians over processes.  decision: of the statistics, where they were asked.
    noise: both sides are the same program, and the change that was measured is noise.
    """

    which: Case
    metric: str
    verdict: str
    base: float = math.nan
    head: float = math.nan
    decision: stats.Decision | None = None
    noise: bool = False
    note: str = ""

    @property
    def gates(self) -> bool:
        """Whether the exit code depends on it."""
        return self.metric in TIMED or self.metric in EXACT

    @property
    def unit(self) -> str:
        """Unit of base and head."""
        return METRICS[self.metric].unit


def exact(processes: Sequence[Process], chosen: dict[str, list[str]]) -> list[Row]:
    """Rows of what a commit decides alone, and no clock."""
    held: dict[tuple[Case, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for process in processes:
        for row in process.samples:
            if (row["metric"] in EXACT or row["metric"] in SHOWN) and plan.wanted(
                chosen, row["operator"], row["case"]
            ):
                which = Case(row["operator"], row["case"], row["implementation"])
                held[which, row["metric"]][process.turn.side].append(float(row["value"]))
    rows = []
    for (which, metric), sides in sorted(held.items()):
        if len(sides) < len(plan.SIDES):
            continue
        base, head = (max(sides[side], key=_size) for side in plan.SIDES)
        varies = any(len({_size(value) for value in sides[side]}) > 1 for side in plan.SIDES)
        note = "varies between processes" if varies else ""
        verdict = stats.SAME
        if metric in SHOWN:
            verdict = stats.SAME if base == head else CHANGED
        elif _grew(base, head, EXACT[metric]):
            verdict = stats.REGRESSED
        elif _grew(head, base, EXACT[metric]):
            verdict = stats.IMPROVED
        rows.append(Row(which, metric, verdict, base, head, note=note))
    return rows


def _size(value: float) -> float:
    """Orders values with NaN above all others."""
    return math.inf if math.isnan(value) else value


def _grew(old: float, new: float, allowed: float) -> bool:
    if math.isnan(old) or math.isnan(new):
        return math.isnan(new) and not math.isnan(old)
    return new > old * (1 + allowed)


def noise_floor(rows: Iterable[Row]) -> list[float]:
    """Relative changes that were measured between same programs, smallest first."""
    changes = [abs(row.decision.change) for row in rows if row.noise and row.decision]
    return sorted(change for change in changes if not math.isnan(change))

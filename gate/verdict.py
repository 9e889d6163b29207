"""From the processes of a comparison to verdicts, and to one exit code.

What gates, and how:

===========================  ====================================================================
``device_us``, ``cpu_us``    by statistics (gate/stats.py); ``same`` whatever was measured where
                             both commits run the same program
``differing_elements``,      any increase is a regression: they are exact
``spills``, ``peak_bytes``
``max_error``, ``rms_error`` an increase by more than 1 %: another order of the same sum moves them
===========================  ====================================================================

Shown and not gating: ``launch_us`` (by the same statistics), registers, shared memory, wgmma and other
instructions.  What fails, or gives a wrong answer, at head is broken, which is no verdict on a cost.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.tasks import OURS
from gate import log, plan, stats
from gate.programs import programs, untimed
from gate.rows import TIMED, Case, Row, exact
from gate.times import times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gate.log import Process


OK, BROKEN, REGRESSED, INCONCLUSIVE, NOTHING = 0, 1, 10, 11, 12
WORDS = {
    OK: "ok", BROKEN: "broken", REGRESSED: "regressed", INCONCLUSIVE: "inconclusive",
    NOTHING: "measured nothing",
}  # fmt: skip


@dataclass
class Result:
    """All verdicts.  broken: what failed at head.  other: what only one commit has, or what only base
    got wrong.  allowed: the share of inconclusive times that is no reason to stop."""

    rule: stats.Rule
    allowed: float
    rows: list[Row] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def gating(self, verdict: str | None = None) -> list[Row]:
        """The gating rows, with this verdict if given."""
        return [row for row in self.rows if row.gates and verdict in (None, row.verdict)]

    @property
    def open_share(self) -> float:
        """Share of inconclusive ones among the times."""
        times = [row.verdict for row in self.rows if row.metric in TIMED]
        return times.count(stats.INCONCLUSIVE) / len(times) if times else 0.0

    @property
    def code(self) -> int:
        """The exit code.  What is broken comes first: it may hide anything else."""
        if self.broken:
            return BROKEN
        if not self.gating():
            return NOTHING
        if self.gating(stats.REGRESSED):
            return REGRESSED
        return INCONCLUSIVE if self.open_share > self.allowed else OK

    @property
    def word(self) -> str:
        """The exit code in words."""
        return WORDS[self.code]


def judge(
    processes: Sequence[Process], chosen: dict[str, list[str]], rule: stats.Rule, allowed: float
) -> Result:
    """Verdicts on the chosen cases.  processes: of one machine, one a turn."""
    result = Result(rule, allowed)
    _outcomes(result, processes, chosen)
    same = programs(processes, chosen)
    result.rows += times(processes, chosen, same, rule)
    timed = {row.which for row in result.rows if row.metric == "device_us"}
    result.rows += [
        untimed(which, difference) for which, difference in same.items()
        if which not in timed and which.implementation == OURS
    ]  # fmt: skip
    result.rows += exact(processes, chosen)
    return result


def _outcomes(result: Result, processes: Sequence[Process], chosen: dict[str, list[str]]) -> None:
    """What failed, and what only one side has."""
    said: dict[tuple[Case, str], dict[str, tuple[str, str]]] = defaultdict(dict)
    for process in processes:
        turn = process.turn
        for row in process.statuses:
            if plan.wanted(chosen, row["operator"], row["case"]):
                key = (Case(row["operator"], row["case"], row["implementation"]), turn.step)
                said[key].setdefault(turn.side, (row["status"], row.get("reason", "")))
        if process.outcome == log.DIED and turn.operator in chosen:
            if process.at is None:
                text = f"{turn.operator}, {turn.step} at {turn.side}: died: {process.reason}"
                if text not in result.broken:
                    result.broken.append(text)
            elif plan.wanted(chosen, turn.operator, process.at[0]):
                key = (Case(turn.operator, *process.at), turn.step)
                said[key].setdefault(turn.side, ("died", process.reason))
    for (which, step), sides in said.items():
        _outcome(result, f"{' '.join(which)}, {step}", sides)


def _outcome(result: Result, name: str, sides: dict[str, tuple[str, str]]) -> None:
    base, head = (sides.get(side, ("", "")) for side in plan.SIDES)
    if head[0] in ("failed", "died"):
        result.broken.append(f"{name}: {head[0]}: {head[1]}")
    elif base[0] in ("failed", "died"):
        result.other.append(f"{name}: base only: {base[0]}: {base[1]}")
    elif base[0] != head[0]:
        gone = "new" if base[0] else "gone"
        result.other.append(f"{name}: {gone}: {(base[1] or head[1])}")

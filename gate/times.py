"""The rows that the clock and the statistics decide."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from gate import plan, stats
from gate.rows import TIMED, Case, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gate.log import Process


class Number(NamedTuple):
    """One process on one case.  cycles: None where the clock is not known."""

    value: float
    cycles: float | None
    throttled: bool


def number(row: dict[str, Any]) -> Number:
    """Of a sample row."""
    value = statistics.median(row["samples"])
    clocks = row.get("clocks") or {}
    read = [clocks[when].get("sm_mhz") for when in ("before", "after") if when in clocks]
    known = len(read) == 2 and all(read)
    cycles = value * statistics.mean(read) if known else None
    return Number(value, cycles, bool(row.get("throttled", False)))


def times(
    processes: Sequence[Process], chosen: dict[str, list[str]], programs: dict[Case, str],
    rule: stats.Rule,
) -> list[Row]:  # fmt: skip
    """Rows of what the statistics decide."""
    rows = []
    for metric in (*TIMED, "launch_us"):
        found: dict[Case, dict[tuple[int, str], Number]] = defaultdict(dict)
        for process in processes:
            for row in process.samples:
                if row["metric"] == metric and plan.wanted(chosen, row["operator"], row["case"]):
                    which = Case(row["operator"], row["case"], row["implementation"])
                    place = process.turn.pair, process.turn.side
                    found[which].setdefault(place, number(row))
        # What only one side has is said elsewhere, by its status.
        held = {
            which: numbers
            for which, numbers in found.items()
            if {side for _, side in numbers} == set(plan.SIDES)
        }
        # Same programs are no candidates: among them every change is a false one.
        noise = {which for which in held if metric in TIMED and programs.get(which) == ""}
        for family in (set(held) - noise, noise):
            members = sorted(family)
            pairs = [_pairs(held[which]) for which in members]
            decisions = stats.decide_all([observation(pair) for pair in pairs], rule)
            for which, pair, decision in zip(members, pairs, decisions, strict=True):
                dropped = len({number for number, _ in held[which]}) - len(pair)
                rows.append(_time(which, metric, pair, decision, which in noise, dropped))
    return rows


def _pairs(held: dict[tuple[int, str], Number]) -> list[tuple[Number, Number]]:
    """Neighbours that were both measured, and both or neither under throttling."""
    found = []
    for pair in sorted({number for number, _ in held}):
        base, head = (held.get((pair, side)) for side in plan.SIDES)
        if base is not None and head is not None and base.throttled == head.throttled:
            found.append((base, head))
    return found


def observation(pairs: Sequence[tuple[Number, Number]]) -> stats.Observation:
    """For the statistics.  pairs: (base, head) of neighbours."""
    base, head = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    cycles = [[one.cycles for one in side if one.cycles is not None] for side in (base, head)]
    known = bool(pairs) and len(cycles[0]) == len(cycles[1]) == len(pairs)
    return stats.Observation(
        [one.value for one in base], [one.value for one in head],
        cycles[0] if known else None, cycles[1] if known else None,
    )  # fmt: skip


def _time(
    which: Case, metric: str, pairs: list[tuple[Number, Number]], decision: stats.Decision,
    noise: bool, dropped: int,
) -> Row:  # fmt: skip
    notes = [decision.reason]
    if noise:
        notes = [f"the same program; the clock says {decision.verdict}"]
    elif metric in TIMED and decision.cycles is None:
        notes.append("clock cycles not known")
    if decision.more_blocks and not noise:
        notes.append(f"about {decision.more_blocks} more blocks would settle it")
    if dropped:
        notes.append(f"{dropped} pairs left out: incomplete, or one of them throttled")
    if any(one.throttled for pair in pairs for one in pair):
        notes.append("throttled")
    base, head = (
        statistics.median(one.value for one in side) if side else math.nan
        for side in ([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    )
    verdict = stats.SAME if noise else decision.verdict
    return Row(which, metric, verdict, base, head, decision, noise, "; ".join(notes))

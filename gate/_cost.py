"""What a comparison costs in minutes of a GPU, by the clock of an A/A log, beside what it finds."""

from __future__ import annotations

import datetime
import statistics
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import rawlog
from gate import plan
from harness._markdown import markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gate._processes import Result

SLOWDOWN, ENOUGH = 0.02, 0.95
TEXT = """### What that costs

A process of the A/A log, which times {cases} cases of {count} operators ({names}),
took {seconds:.1f} s: the median from the end of one to the end of the next, with its start and all checks.
An A/B of these cases in N blocks is 4 N such processes. `compare` gives each operator a process of its
own: one operator costs no more than what is said here, and {count} no more than {count} times as much.
"""


class Clock(NamedTuple):
    """seconds: of a process, which times so many ``cases`` of ``operators``."""

    seconds: float
    cases: int
    operators: Sequence[str]


def read(path: Path, warn: Callable[[str], None]) -> Clock:
    """Of an A/A log, the rows of whose processes carry the time at which these ended.

    A median, since the log may be of several calls, between which hours lie.
    """
    ends: dict[str, datetime.datetime] = {}
    cases = set()
    for row in rawlog.read(path, warn):
        if row["kind"] == "sample":
            ends[row["process"]] = datetime.datetime.fromisoformat(row["time"])
            cases.add((row["operator"], row["case"]))
    gaps = [(after - before).total_seconds() for before, after in pairwise(sorted(ends.values()))]
    return Clock(statistics.median(gaps), len(cases), sorted({operator for operator, _ in cases}))


def text(clock: Clock, results: Sequence[Result]) -> str:
    """The section.  results: of the processes of the same log."""
    rows = [
        [
            str(one.blocks), str(plan.POSITIONS * one.blocks),
            f"{plan.POSITIONS * one.blocks * clock.seconds / 60:.1f}", str(one.found[SLOWDOWN]),
        ]
        for one in results
    ]  # fmt: skip
    least = fewest(results)
    said = f"Fewest of these that find it in at least {ENOUGH:.0%}: {least or 'none'}.".replace(
        "%", " %"
    )
    names = ", ".join(f"`{name}`" for name in clock.operators)
    head = TEXT.format(
        cases=clock.cases, count=len(clock.operators), names=names, seconds=clock.seconds
    )  # fmt: skip
    header = ["blocks", "processes", "minutes", f"{SLOWDOWN:.0%} found".replace("%", " %")]
    return f"{head}\n{markdown(header, rows, left=0)}\n\n{said}\n"


def fewest(results: Sequence[Result]) -> int | None:
    """Blocks: the least number that finds a slowdown of SLOWDOWN in ENOUGH of the cases."""
    able = [one.blocks for one in results if one.found[SLOWDOWN].value >= ENOUGH]
    return min(able, default=None)

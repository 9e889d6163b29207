"""What a table leaves out: cases that are there at its commit, of which its log holds nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from benchmarks import cases
from harness._logs import OURS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from harness._lines import Line
    from harness._logs import Log

Problem = tuple[str, str]  # operator, case


def sentence(
    logs: Sequence[Log], log: Log, shown: Iterable[Line], operators: Sequence[str], metrics: Collection[str],
    part: str = "",
) -> str:  # fmt: skip
    """The line below a table of ``log`` that names what it lacks, with a blank line before; else nothing.

    A case is there when any log of this commit holds it, of whatever machine and metric, or when an
    older one of this machine holds one of ``metrics``; those that no longer are timed cases do not
    count.  part: of every label that the table shows.
    """
    have = {(line.operator, line.case) for line in shown}
    older = sorted(
        (one for one in logs if one.machine == log.machine and one.age < log.age),
        key=lambda one: one.age,
    )
    there = set().union(*(_held(one) for one in logs if one.commit == log.commit))
    last = {problem: one.commit for one in older for problem in _held(one, metrics)}
    missing = [
        (stem, case.label)
        for stem in operators
        for case in cases.load(stem).CASES
        if case.bench and part in case.label and (stem, case.label) in (there | last.keys()) - have
    ]
    if not missing:
        return ""
    counts = Counter((stem, last.get((stem, label), "")) for stem, label in missing)
    named = ", ".join(
        f"`{stem}` ({number} case{'s' if number > 1 else ''}, {_when(commit)})"
        for (stem, commit), number in counts.items()
    )
    return f"\n\nNot measured at this commit: {named}."


def _when(commit: str) -> str:
    return f"last at {commit}" if commit else "never on this machine"


def _held(log: Log, metrics: Collection[str] | None = None) -> set[Problem]:
    """Problems of which the log holds a number, if ``metrics`` are given: one of those, and ours."""
    return {
        (key.operator, key.case)
        for key in log.measured
        if metrics is None or (key.implementation == OURS and key.metric in metrics)
    }

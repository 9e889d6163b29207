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

    The arguments are those of :func:`named`.
    """
    lacks = named(logs, log, shown, operators, metrics, part)
    return f"\n\nNot measured at this commit: {lacks}." if lacks else ""


def named(
    logs: Sequence[Log], log: Log, shown: Iterable[Line], operators: Sequence[str], metrics: Collection[str],
    part: str = "",
) -> str:  # fmt: skip
    """Operators of which ``log`` lacks cases that are there: how many, and where they are; else nothing.

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
    last = {problem: _when(one, log) for one in older for problem in _held(one, metrics)}
    missing = [
        (stem, case.label)
        for stem in operators
        for case in cases.load(stem).CASES
        if case.bench and part in case.label and (stem, case.label) in (there | last.keys()) - have
    ]
    counts = Counter(
        (stem, last.get((stem, label), "never on this machine")) for stem, label in missing
    )
    return ", ".join(
        f"`{stem}` ({number} case{'s' if number > 1 else ''}, {when})"
        for (stem, when), number in counts.items()
    )


def _when(held: Log, log: Log) -> str:
    """Where a case is that ``log`` lacks; a commit may have a log for each environment."""
    if held.commit == log.commit:
        return f"measured with Triton {held.fact('triton')}, torch {held.fact('torch')}"
    return f"last at {held.commit}"


def _held(log: Log, metrics: Collection[str] | None = None) -> set[Problem]:
    """Problems of which the log holds a number, if ``metrics`` are given: one of those, and ours."""
    return {
        (key.operator, key.case)
        for key in log.measured
        if metrics is None or (key.implementation == OURS and key.metric in metrics)
    }

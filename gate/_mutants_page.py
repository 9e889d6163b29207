"""docs/mutants.md: which test kills which planted fault."""

from __future__ import annotations

import platform
import re
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gate._faults import Fault
    from gate.mutants import Verdict

INTRODUCTION = """\
# Planted faults

Written by `nox -s mutants{option}`; do not edit. Each fault of `gate/faults/` is one replacement of
text, planted in a copy of the tree. The tests of its operator run, cheapest first, until one fails:
that one is named here, and passes without the fault. Others may find it as well. A fault of the
reference is tried twice: against the kernel (parity), and against tests that use no kernel (own).
A run of part of the list replaces the rows of that part.
"""
HEAD = "| fault | what it models | killed by |\n| --- | --- | --- |\n"
TOOK = re.compile(r"^The last run of the whole list, .*$", re.MULTILINE)
UNTIMED = "No run of the whole list has been timed yet."
ELSEWHERE = "not here"
UNTRIED = "not tried"
ALIVE = ("survived", "timeout", "wrong", UNTRIED)


def page(
    verdicts: Sequence[Verdict],
    faults: Sequence[Fault],
    gpu: bool,
    before: str = "",
    took: str = "",
) -> str:
    """The whole page.

    verdicts: of this run.  faults: the whole list.  before: the page as it was, which keeps the rows
    of faults that this run did not try whole.  took: of :func:`took`, for a run of the whole list.
    """
    rows = _rows(before)
    by_fault: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_fault.setdefault(verdict.trial.fault.id, []).append(verdict)
    for fault in faults:
        found, sides = by_fault.get(fault.id, []), fault.sides(gpu)
        if not sides:
            why = fault.blind or (fault.blind_on_gpu if gpu else fault.gpu)
            rows[fault.id] = _row(fault, f"{ELSEWHERE}: {why}")
        elif len(found) == len(sides):
            order = sorted(found, key=lambda verdict: verdict.trial.by == "own")
            rows[fault.id] = _row(fault, "<br>".join(map(_who, order)))
        else:
            rows.setdefault(fault.id, _row(fault, UNTRIED))
    versions = [f"{name} {version(name)}" for name in ("torch", "triton")]
    where = ", ".join([*versions, f"Python {platform.python_version()}"])
    summary = counted([rows[fault.id] for fault in faults], gpu, where)
    kept = TOOK.search(before)
    summary += f"\n{took or (kept[0] if kept else UNTIMED)}"
    parts = [INTRODUCTION.format(option=" -- --gpu" if gpu else ""), f"\n{summary}\n"]
    for operator in dict.fromkeys(fault.operator for fault in faults):
        parts.append(f"\n## {operator}\n\n{HEAD}")
        parts += [rows[fault.id] + "\n" for fault in faults if fault.operator == operator]
    return "".join(parts)


def counted(rows: Sequence[str], gpu: bool, where: str) -> str:
    """How many of these rows were tried and killed, in a line.  where: the versions they were tried with."""
    said = [row.removesuffix(" |").rsplit(" | ", 1)[1] for row in rows]
    here = [cell for cell in said if not cell.startswith(ELSEWHERE)]
    untried = here.count(UNTRIED)
    killed = len(here) - sum(map(alive, here))
    place = f"{'on a Hopper GPU' if gpu else 'without a GPU'} ({where})"
    if untried:
        line = f"Of {len(here)} faults {len(here) - untried} were tried {place}, and {killed} of these killed; "
        line += f"{untried} have not been tried."
    else:
        line = f"Of {len(here)} faults {killed} were killed {place}."
    if len(here) < len(said):
        other = "without one" if gpu else "on one: `nox -s mutants -- --gpu`"
        line += f" {len(said) - len(here)} more can be found only {other}."
    return line


def alive(cell: str) -> bool:
    """Whether a fault was not killed, or by one of two not; "wrong" may be in the name of a killer."""
    return any(part.split(": ")[-1] in ALIVE for part in cell.split("<br>"))


def took(trials: int, seconds: float, jobs: int) -> str:
    """A sentence.  seconds: of wall time, from the first copy of the tree to the last verdict."""
    minutes = f"{seconds / 60:.1f} minutes of wall time"
    return f"The last run of the whole list, {trials} trials, took {minutes}, {jobs} at a time."


def _rows(page_text: str) -> dict[str, str]:
    """Rows of a page by their fault."""
    return {line.split("`")[1]: line for line in page_text.splitlines() if line.startswith("| `")}


def _row(fault: Fault, killers: str) -> str:
    cells = (f"`{fault.id}`", fault.models, killers)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _who(verdict: Verdict) -> str:
    said = verdict.word
    if verdict.word == "killed":
        said = f"`{verdict.killer.removeprefix('tests/')}`"
        if verdict.said == "hangs":
            said += " (hangs)"
    by = verdict.trial.by
    return said if by == "tests" else f"{by}: {said}"

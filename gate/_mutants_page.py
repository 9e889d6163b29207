"""docs/mutants.md: which test kills which planted fault."""

from __future__ import annotations

import platform
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
"""


def page(verdicts: Sequence[Verdict], faults: Sequence[Fault], gpu: bool) -> str:
    """The whole page, of a run of all ``faults``."""
    by_fault: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_fault.setdefault(verdict.trial.fault.id, []).append(verdict)
    killed = sum(all(v.word == "killed" for v in found) for found in by_fault.values())
    waiting = len(faults) - len(by_fault)
    where = f"torch {version('torch')}, Triton {version('triton')}, Python {platform.python_version()}"
    machine = "a Hopper GPU" if gpu else "Triton's interpreter"
    summary = f"Of {len(by_fault)} faults tried, {killed} were killed ({machine}, {where})."
    if waiting:
        summary += f" {waiting} more are found only on a Hopper GPU: `nox -s mutants -- --gpu`."
    parts = [INTRODUCTION.format(option=" -- --gpu" if gpu else ""), f"\n{summary}\n"]
    for operator in dict.fromkeys(fault.operator for fault in faults):
        mine = [fault for fault in faults if fault.operator == operator]
        parts.append(f"\n## {operator}\n\n| fault | what it models | killed by |\n| --- | --- | --- |\n")
        parts += [_row(fault, by_fault.get(fault.id, [])) for fault in mine]
    return "".join(parts)


def _row(fault: Fault, verdicts: Sequence[Verdict]) -> str:
    order = {"tests": 0, "parity": 1, "own": 2}
    found = [_who(verdict) for verdict in sorted(verdicts, key=lambda v: order[v.trial.by])]
    killers = "<br>".join(found) or f"Hopper only: {fault.gpu}"
    cells = (f"`{fault.id}`", fault.models, killers)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _who(verdict: Verdict) -> str:
    said = verdict.word
    if verdict.word == "killed":
        said = f"`{verdict.killer.removeprefix('tests/')}`"
        if verdict.said == "hangs":
            said += " (hangs)"
    by = verdict.trial.by
    return said if by == "tests" else f"{by}: {said}"

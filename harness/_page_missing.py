"""What the page shows of an older log, because the machine's newest sweep has it not: in words."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from benchmarks.rawlog import Key
from harness import _lines, _missing
from harness._logs import MACHINE, OURS, lost
from harness._verdict import equal, program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness._logs import Log
    from harness._page_tables import View

CODE = re.compile(r"`([^`]*)`")


def sentence(logs: Sequence[Log], view: View) -> str:
    """What one machine's newest sweep lacks of an operator, and of which commit the table is; or nothing.

    logs: of the machine, from the oldest commit to the newest.  A table is of one log, its codegen
    as well, so that a time and the registers beside it are of the same program, even where the
    newest sweep ended after it had compiled.
    """
    sweep = newest(logs)
    if sweep is None:
        return ""
    stems = (view.operator,)
    shown = _lines.timed(sweep, stems, (OURS,))
    lacks = _missing.named(logs, sweep, shown, stems, ("device_us",))
    older = view.log is not sweep
    if not lacks and not older:
        return ""
    said = [f"Not measured at {sweep.commit[:8]}, the newest sweep of this machine"]
    said[0] += (
        f": {CODE.sub(lambda name: f'<code>{name[1]}</code>', escape(lacks))}." if lacks else "."
    )
    if older:
        said.append(f"All figures of this table, codegen too, are of {view.log.commit[:8]}.")
        said += _compiled(sweep, view)
    return " ".join(said)


def newest(logs: Sequence[Log]) -> Log | None:
    """The last log in which a kernel of ours was timed, or broke on a GPU; None where none was."""
    ran = [log for log in logs if _timed(log)]
    return ran[-1] if ran else None


def _timed(log: Log) -> bool:
    stems = {key.operator for key in log.measured} | {which[0] for which in log.statuses}
    broke = log.fact("capability") == "9.0" and any(lost(log, sorted(stems - {MACHINE})))
    return broke or any(
        (key.implementation, key.metric) == (OURS, "device_us") for key in log.measured
    )


def _compiled(sweep: Log, view: View) -> list[str]:
    """Whether the newest sweep has compiled what it has not run, and to which code: a sentence or none."""
    keys = [Key(view.operator, line.case, OURS, "registers") for line in view.lines]
    both = [
        (old, new)
        for key in keys
        if (old := program(view.log, key)) and (new := program(sweep, key))
    ]
    if not both:
        return []
    changed = sum(not equal(old, new) for old, new in both)
    what = (
        f"{changed} of {len(both)} cases to other machine code"
        if changed
        else "to the same machine code"
    )
    return [f"{sweep.commit[:8]} compiles {what}."]

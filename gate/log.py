"""The gate's raw log: rows of benchmarks/rawlog.py, of two commits, with their place in the plan.

Every row carries ``side``, ``step``, ``block`` and ``position`` beside its commit and process.  The
``process`` row of a child is written when it has ended, with ``outcome`` (``ended`` or ``died``),
``reason``, ``at`` (the case it died at), ``measuring`` and ``reference`` (hashes of the measuring code
and of the commit's reference_impl): rows of a
process that has none were cut off with the comparison, and do not count.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import rawlog
from gate.plan import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HARNESS = Path(__file__).resolve().parents[1]
FIELDS = Turn._fields
ENDED, DIED = "ended", "died"


class Writer(rawlog.Writer):
    """Appends rows of one process, with its place in the plan."""

    def __init__(self, path: Path, *, commit: str, process: str, turn: Turn) -> None:
        super().__init__(path, commit=commit, process=process)
        self.tags = {name: value for name, value in turn._asdict().items() if name != "operator"}

    def _line(self, kind: str, fields: dict[str, Any]) -> bytes:
        return super()._line(kind, fields | self.tags)


@dataclass
class Process:
    """One process that ended, and what it left.

    reference: hash of the code of its reference_impl.  at: the (case, implementation) it died at,
    where it did and got that far.
    """

    turn: Turn
    commit: str
    facts: dict[str, str]
    measuring: str
    reference: str
    outcome: str
    reason: str
    at: tuple[str, str] | None
    samples: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)


def read(path: Path, warn: Callable[[str], None]) -> list[Process]:
    """Processes of the log that came to their end, in order.  What cannot be used is named."""
    if not path.exists():
        return []
    found: dict[str, Process] = {}
    rows = rawlog.read(path, warn)
    for row in rows:
        if row["kind"] == "process":
            made = _process(row)
            if made is None:
                warn(f"{path}: skipped: a process without its place in a comparison")
            else:
                found[row["process"]] = made
    for row in rows:
        process = found.get(row["process"])
        if process is None or row["kind"] == "process":
            continue
        (process.samples if row["kind"] == "sample" else process.statuses).append(row)
    return list(found.values())


def _process(row: dict[str, Any]) -> Process | None:
    if any(name not in row for name in (*FIELDS, "outcome", "measuring")):
        return None
    at = row.get("at")
    return Process(
        turn=Turn(**{name: row[name] for name in FIELDS}),
        commit=row["commit"],
        facts=row["machine"] if isinstance(row["machine"], dict) else {},
        measuring=row["measuring"],
        reference=row.get("reference", ""),
        outcome=row["outcome"],
        reason=row.get("reason", ""),
        at=(at[0], at[1]) if at else None,
    )


def alike(processes: Iterable[Process], facts: dict[str, str], measuring: str) -> list[Process]:
    """Those measured on a machine with these facts, by this measuring code; the first of each turn."""
    kept: dict[Turn, Process] = {}
    for process in processes:
        if process.facts == facts and process.measuring == measuring:
            kept.setdefault(process.turn, process)
    return list(kept.values())


def measuring() -> str:
    """Hash of the code that measures: numbers of different clocks are not compared."""
    digest = hashlib.sha256()
    places = [*sorted((HARNESS / "benchmarks").rglob("*.py")), HARNESS / "gate" / "child.py"]
    for path in places:
        digest.update(path.relative_to(HARNESS).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]

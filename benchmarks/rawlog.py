"""The raw log: one JSON object a line, appended with fsync, never rewritten.

Everything else (asv's values, summary.csv, tables, verdicts, pages) is derived from it and can be
thrown away.  A file holds one commit measured in one environment of one machine::

    results/<machine>/raw/<commit, 12 hex>-py3.12-torch2.11.0-triton3.6.0.jsonl

Three kinds of row, told apart by ``kind``; every row carries ``schema``, ``commit``, ``process``
(id of the sweep that wrote it) and ``time`` (UTC, ISO 8601):

``process``
    One per sweep: ``machine`` (the fingerprint, see :mod:`benchmarks.fingerprint`), ``date`` of the
    commit, ``harness`` (commit of the measuring code, with ``+`` behind it when it was modified).
``sample``
    One measured quantity: ``operator``, ``case`` (label), ``implementation``, ``metric``, ``unit``,
    ``round``, and ``samples`` (list of numbers) or ``value`` (one number).  Optional ``throttled``
    (bool), ``clocks`` (dict, before and after), ``detail`` (dict, for codegen: kernel names, wgmma
    shapes, the two hashes).
``status``
    Why a (operator, case, implementation) has no numbers from a ``phase`` of the sweep (``codegen`` or
    ``run``): ``status`` is ``failed`` (a wrong answer
    or an exception), ``died`` (its process was killed, ``reason`` names the signal) or ``n/a`` (the
    commit does not have it, or the machine cannot run it).  A later sample supersedes it.

A line cut short by a crash is skipped, named, and costs that line alone.

Rows are written in the newest schema and never rewritten; :func:`read` brings older ones up to it:

1. the first.
2. Each kernel in a codegen row's ``detail`` has ``launch``, a hash of what it was launched with.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.metrics import phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

SCHEMA = 2
KINDS = ("process", "sample", "status")
# What a row of each kind must carry; a row without it is foreign and is skipped by name.
REQUIRED = {
    "process": ("machine", "date"),
    "sample": ("operator", "case", "implementation", "metric", "unit", "round"),
    "status": ("operator", "case", "implementation", "phase", "status"),
}
COMMON = ("schema", "kind", "commit", "process", "time")


class Key(NamedTuple):
    """What a number is of."""

    operator: str
    case: str
    implementation: str
    metric: str


def file_name(commit: str, python: str, torch: str, triton: str) -> str:
    """Name of the raw log of ``commit`` in one environment; versions lose their local part."""
    plain = [
        re.sub(r"[^0-9A-Za-z.]", "_", version.split("+")[0]) for version in (python, torch, triton)
    ]
    return f"{commit[:12]}-py{plain[0]}-torch{plain[1]}-triton{plain[2]}.jsonl"


class Writer:
    """Appends rows to one raw log; each row is on disk when :meth:`append` returns."""

    def __init__(self, path: Path, *, commit: str, process: str) -> None:
        self.path = path
        self.commit = commit
        self.process = process
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, kind: str, **fields: Any) -> None:
        """Append one row.  Raises ValueError when the row lacks what its kind requires."""
        self.append_all(kind, [fields])

    def append_all(self, kind: str, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows that belong together: a crash leaves all of them or none.

        Raises ValueError, before anything is written, when a row lacks what its kind requires.
        """
        lines = b"".join(self._line(kind, fields) for fields in rows)
        if not lines:
            return
        # One write of whole lines: a reader, or a second writer, never sees half of two rows.  A
        # crash may have left a line without its end; the newline in front keeps ours whole.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                lines = b"\n" + lines
            os.write(descriptor, lines)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _line(self, kind: str, fields: dict[str, Any]) -> bytes:
        missing = [name for name in REQUIRED[kind] if name not in fields]
        if missing:
            raise ValueError(f"a {kind} row needs {', '.join(missing)}")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        row = {
            "schema": SCHEMA, "kind": kind, "commit": self.commit, "process": self.process, "time": now,
        } | fields  # fmt: skip
        return json.dumps(row, allow_nan=True, separators=(",", ":")).encode() + b"\n"


def read(path: Path, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows of one raw log, in order.  What is cut short or foreign is named to ``warn`` and skipped."""
    rows: list[dict[str, Any]] = []
    try:
        data = path.read_bytes()
    except OSError as error:
        warn(f"{path}: not read: {error}")
        return rows
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        problem = None
        try:
            row = json.loads(line)
        except ValueError:
            row, problem = None, "not a whole JSON object"
        if problem is None:
            row = _migrated(row)
            problem = _problem(row)
        if problem:
            warn(f"{path}:{number}: skipped: {problem}")
        else:
            rows.append(row)
    return rows


def _without_launch(row: dict[str, Any]) -> None:
    """1 to 2: what the kernels were launched with is not known."""
    detail = row.get("detail")
    kernels = detail.get("kernels") if isinstance(detail, dict) else None
    for kernel in kernels if isinstance(kernels, list) else ():
        if isinstance(kernel, dict):
            kernel.setdefault("launch", "")


# From each schema to the next.
MIGRATIONS = {1: _without_launch}


def _migrated(row: Any) -> Any:
    """The row in today's schema; as it is when its own is not known."""
    while isinstance(row, dict) and (step := MIGRATIONS.get(_schema(row))) is not None:
        step(row)
        row["schema"] += 1
    return row


def _schema(row: dict[str, Any]) -> int:
    number = row.get("schema")
    return number if type(number) is int else 0


def _problem(row: Any) -> str | None:
    """Why a row cannot be used, or None."""
    if not isinstance(row, dict):
        return "not a JSON object"
    if row.get("schema") != SCHEMA:
        return f"schema {row.get('schema')!r}, expected {SCHEMA}"
    if row.get("kind") not in KINDS:
        return f"kind {row.get('kind')!r}, expected one of {', '.join(KINDS)}"
    missing = [name for name in COMMON + REQUIRED[row["kind"]] if name not in row]
    if missing:
        return f"a {row['kind']} row without {', '.join(missing)}"
    if row["kind"] == "sample" and not _numbers(row):
        return "a sample row without numbers in samples or value"
    return None


def _numbers(row: dict[str, Any]) -> list[float]:
    values: Any = row["samples"] if "samples" in row else [row.get("value")]
    good = (
        isinstance(values, list)
        and values
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    )
    return list(values) if good else []


def logs(results: Path, machine: str | None = None, commit: str | None = None) -> Iterator[Path]:
    """Raw logs under ``results``, sorted, of one machine and one commit (a prefix) when given."""
    pattern = f"{machine or '*'}/raw/{commit[:12] if commit else ''}*.jsonl"
    yield from sorted(results.glob(pattern))


@dataclass(frozen=True)
class Measured:
    """All samples of one key in one log: ``samples`` pooled over rounds, with what they were."""

    key: Key
    unit: str
    samples: tuple[float, ...]
    rounds: int
    throttled: bool
    detail: dict[str, Any]

    @property
    def median(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)


def collect(rows: list[dict[str, Any]]) -> dict[Key, Measured]:
    """Samples by key, pooled over rounds; a round measured twice counts once, with its newest row.

    So a sweep that was killed and resumed yields the same set of rounds as one that was not, and a
    deliberate second measurement replaces the first; the older rows stay in the log for whoever
    studies noise.  What was found wrong (``failed``) has no numbers, whatever was measured before.
    """
    wrong = {which for which, (status, _) in statuses(rows).items() if status == "failed"}
    newest: dict[Key, dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] == "sample":
            key = Key(row["operator"], row["case"], row["implementation"], row["metric"])
            if (*key[:3], phase(key.metric)) not in wrong:
                newest.setdefault(key, {})[row["round"]] = row
    measured = {}
    for key, rounds in newest.items():
        held = [rounds[index] for index in sorted(rounds)]
        measured[key] = Measured(
            key,
            unit=held[-1]["unit"],
            samples=tuple(value for row in held for value in _numbers(row)),
            rounds=len(held),
            throttled=any(row.get("throttled", False) for row in held),
            detail=held[-1].get("detail", {}),
        )
    return measured


def statuses(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str, str], tuple[str, str]]:
    """(operator, case, implementation, phase) -> (status, reason), where the last word on that phase
    is a status and not a sample."""
    last: dict[tuple[str, str, str, str], tuple[str, str] | None] = {}
    for row in rows:
        if row["kind"] == "process":
            continue
        what = (row["operator"], row["case"], row["implementation"])
        if row["kind"] == "sample":
            last[(*what, phase(row["metric"]))] = None
        else:
            last[(*what, row["phase"])] = (row["status"], row.get("reason", ""))
    return {which: status for which, status in last.items() if status is not None}

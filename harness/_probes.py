"""The processes in which backends run, each with a time limit for a case, and what comes out of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import fingerprint, tasks
from harness._backends import OURS, AdapterError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
GRACE = 1.0  # for a process that has closed its pipe to end
LOADING = 120.0  # importing torch, and whatever the adapter compiles


class Row(NamedTuple):
    """What became of one case."""

    case: str
    status: str
    message: str = ""


@dataclass
class Column:
    """What became of all cases under one backend.

    given: its name on the command line.  absent: why there are no rows; broken: and that is a mistake.
    """

    given: str
    name: str
    operator: str
    contract: str = ""
    absent: str = ""
    broken: bool = False
    rows: list[Row] = field(default_factory=list)

    @property
    def timed_as(self) -> str:
        """Its name among the times."""
        return tasks.OURS if self.given == OURS else self.name


class Child:
    """A process that runs ``work`` of a module, in a group of its own, and the lines it says."""

    def __init__(self, module: str, job: dict[str, Any]) -> None:
        reading, writing = os.pipe()
        code = (
            "import importlib, json, sys; "
            "importlib.import_module(sys.argv[1]).work(json.loads(sys.argv[2]), int(sys.argv[3]))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, module, json.dumps(job), str(writing)],
            pass_fds=[writing], start_new_session=True, stdin=subprocess.DEVNULL, env=_environment(),
        )  # fmt: skip
        os.close(writing)
        self.pipe, self.held = reading, b""

    def line(self, seconds: float) -> dict[str, Any] | None:
        """The next line, or None at the end.  Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self.held:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.pipe], [], [], left)[0]:
                raise TimeoutError
            piece = os.read(self.pipe, 65536)
            if not piece:
                return None
            self.held += piece
        line, _, self.held = self.held.partition(b"\n")
        held: dict[str, Any] = json.loads(line)
        return held

    def end(self) -> str:
        """Kill what is left of its group; how the process itself ended, in words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        os.close(self.pipe)
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _environment() -> dict[str, str]:
    """The child's: our packages, and kernels interpreted where there is no Hopper GPU."""
    held = dict(os.environ)
    held.pop("TRITON_INTERPRET", None)
    if not fingerprint.has_hopper():
        held["TRITON_INTERPRET"] = "1"
    held["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), held.get("PYTHONPATH", "")]))
    return held


class Lost(NamedTuple):
    """A process that did not come to its end.  at: what it was at, None between two.  how: in words,
    nothing where only the process's own end says it.  again: it asked for another one itself."""

    at: Any = None
    status: str = ""
    how: str = ""
    again: bool = False


def probe(name: str, operator: str | None, part: str | None, seconds: float) -> Column:
    """Every case put to one backend.  Raises AdapterError when it is none, or cannot be loaded.

    A process that ends, or has to be ended, costs the case it was at; another one goes on.
    """
    column: Column | None = None
    rows: list[Row] = []
    while True:
        skip = [row.case for row in rows]
        job = {"name": name, "operator": operator, "part": part, "skip": skip}
        child = Child("harness._adapter", job)
        try:
            head = loaded(child, name)
            column = Column(
                name, *(head[key] for key in ("name", "operator", "contract", "absent"))
            )
            lost = follow(child, seconds, lambda line: rows.append(Row(**line)))
        finally:
            how = child.end()
        if lost is None:
            column.rows = rows
            return column
        if lost.again:
            continue
        if not lost.at and not rows:
            raise AdapterError(f"{name}: it ended before the first case: {how}")
        if lost.at:
            rows.append(Row(lost.at, lost.status, lost.how or how))
        else:
            rows.append(Row(rows.pop().case, lost.status, "after its result"))


def loaded(child: Child, name: str) -> dict[str, Any]:
    """The first line: what the backend says of itself.  Raises AdapterError."""
    try:
        head = child.line(LOADING)
    except TimeoutError:
        raise AdapterError(f"{name}: not loaded after {LOADING:.0f} s") from None
    if head is None:
        raise AdapterError(f"{name}: loading it failed, or ended the process")
    if "problem" in head:
        raise AdapterError(head["problem"])
    return head


def follow(child: Child, seconds: float, take: Callable[[dict[str, Any]], Any]) -> Lost | None:
    """Give each finished line to ``take``; how the process was lost, None when it was not."""
    at = None
    try:
        while (line := child.line(seconds)) is not None:
            if "end" in line:
                return None
            if "again" in line:
                return Lost(again=True)
            at = line.get("begin")
            if at is None:
                take(line)
    except TimeoutError:
        return Lost(at, "hangs", f"no result after {seconds:g} s")
    return Lost(at, "crashes")


def clocked(job: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
    """Rows of :class:`harness._desk.Row`, their case a label.  job: of ``harness._adapter_clock.work``.

    A backend that ends the process, or does not come back, has no number on that case; the others have.
    Raises AdapterError where no process comes up.
    """
    known: dict[str, dict[str, str]] = job["known"]
    done: list[str] = []
    rows: list[dict[str, Any]] = []

    def take(line: dict[str, Any]) -> None:
        if "rows" in line:
            done.append(line["case"])
            rows.extend(line["rows"])
        else:
            known[line["case"]] = line["known"]

    while True:
        child = Child("harness._adapter_clock", job | {"done": done})
        try:
            loaded(child, "--time")
            lost = follow(child, seconds, take)
        finally:
            how = child.end()
        if lost is None:
            return rows
        if lost.again:
            continue
        if lost.at is None:
            raise AdapterError(f"--time: the process ended between two cases: {how}")
        label, name = lost.at
        why = f"{lost.status}: {lost.how or how}"
        known.setdefault(label, {})[name] = why
        if not name:  # of nobody: the case itself
            done.append(label)
            rows.append({"case": label, "name": tasks.OURS, "problem": why})

"""``python -m harness.adapter FILE.py``: is your own kernel right, by the contract of its operator?

The file holds ``NAME``, ``OPERATOR`` (one of ours), a function of the operator's name and signature,
and, if it cannot take every case, ``supports(case)``: True, or the reason as text.  An installed
package offers the same as an entry point of the group ``fp8_bench.kernels``; then its name is given.

On a Hopper GPU every case of the operator is put to it, elsewhere those that a CPU can take (Triton's
kernels are interpreted).  Each is called on fresh memory that holds a pattern, then on other numbers at
the same addresses, and compared with the reference by the operator's tolerance, in a process of its own
with a time limit.

Exit codes: 0 when every case that it supports is right, 1 otherwise, 2 when it is no adapter.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import fingerprint
from harness import _adapter, doctor

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60.0
GRACE = 1.0  # for a process that has closed its pipe to end
LOADING = 120.0  # importing torch, and whatever the adapter compiles


class Row(NamedTuple):
    """What became of one case."""

    case: str
    status: str
    message: str = ""


class Child:
    """A process that probes cases, in a group of its own, and the lines it says."""

    def __init__(self, name: str, part: str | None, skip: Sequence[str]) -> None:
        reading, writing = os.pipe()
        job = json.dumps([name, part, list(skip), writing])
        code = "import json, sys; from harness import _adapter; _adapter.work(*json.loads(sys.argv[1]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, job], pass_fds=[writing], start_new_session=True,
            stdin=subprocess.DEVNULL, env=_environment(),
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


def probe(name: str, part: str | None, seconds: float) -> tuple[str, str, list[Row]]:
    """(NAME, OPERATOR, rows).  Raises AdapterError when it is none, or cannot be loaded.

    A process that ends, or has to be ended, costs the case it was at; another one goes on.
    """
    rows: list[Row] = []
    while True:
        child = Child(name, part, [row.case for row in rows])
        try:
            head = _loaded(child, name)
            at = _collected(child, seconds, rows)
            if at is None:
                return head["name"], head["operator"], rows
        finally:
            how = child.end()
        if not at.case and not rows:
            raise _adapter.AdapterError(f"{name}: it ended before the first case: {how}")
        lost = at if at.case else Row(rows.pop().case, at.status, "after its result")
        rows.append(lost if lost.message else lost._replace(message=how))


def _loaded(child: Child, name: str) -> dict[str, Any]:
    """The first line: what the adapter says of itself.  Raises AdapterError."""
    try:
        head = child.line(LOADING)
    except TimeoutError:
        raise _adapter.AdapterError(f"{name}: not loaded after {LOADING:.0f} s") from None
    if head is None:
        raise _adapter.AdapterError(f"{name}: loading it failed, or ended the process")
    if "problem" in head:
        raise _adapter.AdapterError(head["problem"])
    return head


def _collected(child: Child, seconds: float, rows: list[Row]) -> Row | None:
    """Add the verdicts to ``rows``; the case at which the process was lost, None when it was not."""
    at = ""
    try:
        while (line := child.line(seconds)) is not None:
            if "end" in line:
                return None
            at = line.get("begin", "")
            if not at:
                rows.append(Row(line["case"], line["status"], line["message"]))
    except TimeoutError:
        return Row(at, "hangs", f"no result after {seconds:g} s")
    return Row(at, "crashes")


def show(name: str, operator: str, rows: Sequence[Row]) -> None:
    """The table, then the evidence against each case that is not right."""
    from rich.table import Table

    from harness import _problem

    console = _problem.console()
    shared, short = _problem.shortened([row.case for row in rows])
    drawn = Table(title=f"{name}: {operator} {shared}".rstrip(), title_justify="left")
    drawn.add_column("case", overflow="fold")
    drawn.add_column("verdict")
    for row in rows:
        colour = {"right": "green", _adapter.UNSUPPORTED: "dim"}.get(row.status, "red")
        drawn.add_row(short[row.case], f"[{colour}]{row.status}[/{colour}]")
    console.print(drawn)
    for row in rows:
        if row.message:
            words = f"{row.case}: {row.status}: {row.message}"
            console.print(words, markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.adapter", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("adapter", metavar="FILE", help="a Python file, or an entry point's name")
    parser.add_argument("--case", help="only cases whose label has this")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for a case (default: 60)")
    options = parser.parse_args(arguments)
    doctor.require(["torch", "triton", "numpy", "rich"], "an adapter's check")
    try:
        name, operator, rows = probe(options.adapter, options.case, options.seconds)
    except _adapter.AdapterError as error:
        print(error, file=sys.stderr)
        return 2
    if not rows:
        print(f"no case of {operator} has {options.case!r} in its label", file=sys.stderr)
        return 2
    show(name, operator, rows)
    bad = [row for row in rows if row.status not in ("right", _adapter.UNSUPPORTED)]
    right = sum(row.status == "right" for row in rows)
    print(f"{right} right, {len(bad)} not, {len(rows) - right - len(bad)} not supported")
    return 1 if bad or not right else 0


if __name__ == "__main__":
    sys.exit(main())

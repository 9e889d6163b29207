"""``python -m gate aa``: time one commit in many fresh processes, for the self-test.

Between two processes of one commit nothing differs but what noise makes of it, so their numbers are
what the verdict's false alarms can be counted on (``python -m gate selftest --aa LOG``).  Each process
times the same few cases, some small and some large of each operator, by the clock and with the checks
of the sweep; without a GPU, the reference's time on the CPU.

Needs torch, Triton and git.  A process writes its numbers when it ends, in one piece: after an
interruption the same command goes on, and a process that fails costs itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases, rawlog, sweep, tasks, worker
from benchmarks.fingerprint import fingerprint, has_hopper
from harness.bench import BenchError, git

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.cases import Case
    from benchmarks.measure import Timing
    from benchmarks.tasks import Task

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 40
OPERATORS = ("act_quant", "fp8_gemm", "weight_dequant")
CASES = 3  # of each operator
# Larger products take the reference, and so each process, too long.
MOST_FLOPS = 2e10
# After so many failed processes in a row the next will fail as well.
MOST_FAILURES = 3
PLACES = ("benchmarks", "gate", "kernels", "reference_impl")
OK, BROKEN, UNFINISHED = 0, 1, 11


class Worker(worker.Worker):
    """Times some cases of one operator, and keeps the rows."""

    def __init__(self, stem: str, labels: Sequence[str], number: int) -> None:
        super().__init__(_Nowhere(), stem, "run")
        self.rows: list[dict[str, Any]] = []
        kind, who = ("device", tasks.OURS) if has_hopper() else ("cpu", tasks.REFERENCE)
        # Not round 0, in which errors against float64 are taken as well.
        last = "device_us" if kind == "device" else "cpu_us"
        self.steps = [tasks.Task(kind, label, who, number + 1, last) for label in labels]

    def todo(self) -> Iterable[Task]:
        """All of them."""
        return self.steps

    def run(self) -> None:
        """Raises what a step raises: half a process is of no use."""
        for task in self.todo():
            print("@" + json.dumps([task.kind, task.case, task.implementation]), flush=True)
            self.held.clear()
            getattr(self, task.kind)(task)
            self.rows += self.held
            self.expected.clear()

    def derived(self, task: Task, case: Case, timing: Timing, evidence: dict[str, Any]) -> None:
        """Nothing: rates follow from the time."""


class _Nowhere(rawlog.Writer):
    """A writer that nothing may be written to."""

    def __init__(self) -> None:
        pass

    def append_all(self, kind: str, rows: Iterable[dict[str, Any]]) -> None:
        del rows
        raise AssertionError(f"a {kind} row before the process has ended")


def child(arguments: list[str]) -> None:
    """log, commit, process, its number, cases by operator as JSON, process number of the parent."""
    log, commit, process, number, given, parent = arguments
    worker.end_with(int(parent))
    rows: list[dict[str, Any]] = []
    for stem, labels in json.loads(given).items():
        measured = Worker(stem, labels, int(number))
        measured.run()
        rows += measured.rows
    rawlog.Writer(Path(log), commit=commit, process=process).append_all("sample", rows)


def choose(operators: Sequence[str], count: int, *, hopper: bool) -> dict[str, list[str]]:
    """Labels of ``count`` timed cases of each operator, from the smallest to the largest by bytes.

    Raises ValueError for an unknown operator, and for one that has nothing to time on this machine.
    """
    chosen = {}
    for stem in operators:
        table = cases.load(stem).CASES if hopper else cases.on_cpu(stem)
        able = [case for case in table if case.bench and case.cost().flops <= MOST_FLOPS]
        if not able:
            raise ValueError(f"operators: {stem} has no case that can be timed on this machine")
        able.sort(key=lambda case: (case.cost().bytes, case.label))
        last = len(able) - 1
        picks = sorted({round(i * last / max(1, count - 1)) for i in range(count)})
        chosen[stem] = [able[pick].label for pick in picks]
    return chosen


def collect(
    path: Path, commit: str, chosen: dict[str, list[str]], processes: int, minutes: float,
    tell: Callable[[str], None],
) -> int:  # fmt: skip
    """Run the processes that the log lacks; returns the exit code.

    minutes: start no process after so many.  Raises BenchError for a log of another commit, machine
    or choice of cases.
    """
    facts = fingerprint()
    end = time.monotonic() + 60 * minutes
    done = _done(path, commit, facts, chosen, tell)
    if not done and processes:
        writer = rawlog.Writer(path, commit=commit, process=uuid.uuid4().hex[:12])
        writer.append("process", machine=facts, date=date(commit), chosen=chosen)
    failures = 0
    while done < processes and failures < MOST_FAILURES:
        if time.monotonic() > end:
            tell(f"{minutes:g} minutes are over: {done} of {processes} processes in {path}")
            return UNFINISHED
        started = time.monotonic()
        reason = spawn("gate.aa.child", path, commit, str(done), json.dumps(chosen))
        took = time.monotonic() - started
        failures = failures + 1 if reason else 0
        done += not reason
        tell(f"{done}/{processes}: {reason or 'measured'}, {took:.1f} s")
    if failures:
        tell(f"{MOST_FAILURES} processes in a row failed")
        return BROKEN
    tell(f"{done} processes in {path}")
    return OK


def spawn(child: str, path: Path, commit: str, *arguments: str) -> str | None:
    """A fresh process that runs the function ``child``, "module.name", of this tree; why it failed, or None.

    It is given the log, the commit, a process's name, ``arguments`` and this process's number.
    """
    module, name = child.rsplit(".", 1)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        f"from {module} import {name}; {name}(sys.argv[2:])"
    )
    command = [
        sys.executable, "-P", "-c", code, str(ROOT), str(path.absolute()), commit,
        uuid.uuid4().hex[:12], *arguments, str(os.getpid()),
    ]  # fmt: skip
    # Triton's cache stays: what is compiled is the same in every process.
    cache = os.environ.get("TRITON_CACHE_DIR", str(ROOT / ".gate" / "triton" / commit[:12]))
    said: list[str] = []
    _, reason = sweep.watch(command, sweep.environment("run", cache), said.append)
    return f"{reason}: {' | '.join(said[-2:])[-300:]}" if reason else None


def _done(
    path: Path, commit: str, facts: dict[str, Any], chosen: dict[str, list[str]],
    tell: Callable[[str], None],
) -> int:  # fmt: skip
    """How many processes the log holds."""
    if not path.exists():
        return 0
    rows = rawlog.read(path, tell)
    for row in rows:
        if row["commit"] != commit:
            raise BenchError(f"{path}: is of commit {row['commit'][:12]}, not of {commit[:12]}")
        if row["kind"] == "process" and row.get("chosen") != chosen:
            raise BenchError(f"{path}: holds other cases: {row.get('chosen')}")
        if row["kind"] == "process" and row["machine"] != facts:
            raise BenchError(f"{path}: is of another machine, or of one that was changed since")
    return len({row["process"] for row in rows if row["kind"] == "sample"})


def head(given: str | None) -> str:
    """The commit that is timed.  Raises BenchError where the tree is not that commit."""
    if given is not None:
        return given
    changed = _git("status", "--porcelain", "--", *PLACES)
    if changed:
        raise BenchError(
            f"what is measured is a commit, and this is modified: {changed.split()[-1]}"
        )
    return _git("rev-parse", "HEAD")


def date(commit: str) -> str:
    """When it was made; nothing where git is not there."""
    return _git("show", "-s", "--format=%cI", commit)


def _git(*arguments: str) -> str:
    """Output of git, or nothing where a commit was named and git is not there."""
    try:
        return git(ROOT, *arguments).strip()
    except BenchError:
        if arguments[0] == "show":
            return ""
        raise


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m gate aa", description=__doc__.splitlines()[0])
    made.add_argument("--out", type=Path, required=True, help="the raw log, a .jsonl")
    made.add_argument("--processes", type=int, default=PROCESSES, help=f"default: {PROCESSES}")
    made.add_argument("--operators", nargs="+", default=list(OPERATORS), metavar="OPERATOR")
    made.add_argument("--cases", type=int, default=CASES, help=f"of each; default: {CASES}")
    made.add_argument("--minutes", type=float, default=1e6, help="start no process after so many")
    made.add_argument("--commit", help="40 digits, for a tree without git; default: HEAD")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0 complete, 11 out of time, 1 broken."""
    options = parser().parse_args(arguments)
    try:
        chosen = choose(options.operators, options.cases, hopper=has_hopper())
        commit = head(options.commit)
        return collect(
            options.out, commit, chosen, options.processes, options.minutes,
            lambda said: print(said, flush=True),
        )  # fmt: skip
    except (BenchError, ValueError) as error:
        print(error, file=sys.stderr)
        return BROKEN


if __name__ == "__main__":
    sys.exit(main())

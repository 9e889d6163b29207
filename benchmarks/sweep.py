"""One sweep: measure what the raw log of a commit lacks, and append it sample by sample.

Each operator runs in child processes of its own, so that an illegal instruction, a hang or an
exhausted memory costs that operator and is named in the log.  The child imports ``kernels`` and
``reference_impl`` from the commit's checkout and ``benchmarks`` from the tree this file lies in.

What is measured depends on the machine.  Everywhere: codegen for sm_90.  With a Hopper GPU: parity,
accuracy, device time, launch overhead and memory of ours and of the peers, beside the machine's own
ceilings.  Without one: parity and accuracy in Triton's interpreter, and the reference's time.

    python -m benchmarks.sweep --checkout DIR --commit HASH --results DIR [--operators a,b] [--phase codegen]
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import cases, rawlog
from benchmarks.fingerprint import fingerprint, has_hopper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HARNESS = Path(__file__).resolve().parents[1]
# A child that says nothing for this long is hung: the longest single step, the parity of one
# production shape with its compilation, takes seconds.
SILENCE_S = 300.0
MACHINE = "machine"  # the operator under which the machine's ceilings are filed
PHASES = ("codegen", "run")
FILED = (MACHINE, "codegen")  # what the machine itself has no such phase of
CORES = 4  # of a process that compiles
# The checkout must win for kernels and reference_impl, this tree for benchmarks and harness; these
# are imported before the checkout, which has them too, comes onto the path.
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import benchmarks.cases, benchmarks.rawlog, benchmarks.parity, harness
sys.path[0] = sys.argv[2]
from benchmarks.worker import main
main(sys.argv[2:])
"""


class SweepError(RuntimeError):
    """The sweep could not run at all; the message says why."""


def sweep(
    checkout: Path,
    commit: str,
    results: Path,
    *,
    operators: Sequence[str] | None = None,
    phases: Sequence[str] = PHASES,
    tell: Callable[[str], None] = print,
) -> Path:
    """Measure what the raw log of ``commit`` lacks; returns the log's path.

    checkout: a tree of that commit.  results: the folder of all machines.  operators: stems, all of
    this harness's cases by default.  phases: codegen, which needs no GPU that is quiet, and run.
    tell: called with a line of progress at a time.

    Raises ValueError for an unknown operator.  A commit that lacks an operator, or gets one wrong,
    is not an error: the log says so.
    """
    chosen = list(operators) if operators is not None else cases.names()
    for stem in chosen:
        cases.load(stem)
    facts = fingerprint()
    path = log_path(commit, results, facts)
    process = uuid.uuid4().hex[:12]
    writer = rawlog.Writer(path, commit=commit, process=process)
    stems = [MACHINE, *chosen] if has_hopper() else chosen
    pairs = [(stem, phase) for stem in stems for phase in phases if (stem, phase) != FILED]
    work = [pair for pair in pairs if missing(path, *pair, tell)]
    if not work:
        tell(f"{commit[:12]}: nothing to measure, the raw log is complete")
        return path
    writer.append("process", machine=facts, date=_date(checkout, commit), harness=_harness())
    # Compiling needs no GPU: some at a time, while nothing is timed.
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // CORES)) as pool:
        compiling = [
            pool.submit(_run_child, stem, phase, checkout, writer, tell)
            for stem, phase in work
            if phase == "codegen"
        ]
        for future in compiling:
            future.result()
    for stem, phase in work:
        if phase != "codegen":
            _run_child(stem, phase, checkout, writer, tell)
    return path


def log_path(commit: str, results: Path, facts: dict[str, str]) -> Path:
    """Where the raw log of ``commit`` on the machine of these facts lies."""
    name = rawlog.file_name(commit, facts["python"], facts["torch"], facts["triton"])
    return results / facts["machine"] / "raw" / name


def missing(path: Path, stem: str, phase: str, tell: Callable[[str], None]) -> bool:
    """Whether a child has anything to do for this operator and phase."""
    from benchmarks import tasks

    rows = rawlog.read(path, tell) if path.exists() else []
    return bool(tasks.missing(stem, phase, rows, hopper=has_hopper()))


def _run_child(
    stem: str, phase: str, checkout: Path, writer: rawlog.Writer, tell: Callable[[str], None]
) -> None:
    """Run one operator's phase in a process of its own and log how it ended."""
    tell(f"{stem}: {phase}")
    command = [
        sys.executable, "-P", "-c", CHILD, str(HARNESS), str(checkout), str(writer.path), writer.commit,
        writer.process, stem, phase, str(os.getpid()),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        # A kernel that hangs or dies must not find, or leave, anything in the user's cache.
        cache = os.environ.get("TRITON_CACHE_DIR", str(Path(folder) / "triton"))
        current, reason = watch(command, environment(phase, cache), tell)
    if reason is None:
        return
    tell(f"{stem}: {phase}: died: {reason}")
    _mark_dead(stem, phase, current, reason, writer, tell)


def environment(phase: str, cache: str) -> dict[str, str]:
    """Variables of a child.  cache: Triton's folder."""
    made = os.environ | {"PYTHONUNBUFFERED": "1", "TRITON_CACHE_DIR": cache}
    made.pop("TRITON_INTERPRET", None)
    if phase == "run" and not has_hopper():
        made["TRITON_INTERPRET"] = "1"
    return made


def watch(
    command: Sequence[str], variables: dict[str, str], tell: Callable[[str], None]
) -> tuple[tuple[str, str] | None, str | None]:
    """Run a child to its end, and kill it if it hangs.

    Returns (the case and implementation it was at, why it died or None).
    """
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", env=variables, start_new_session=True,
    )  # fmt: skip
    try:
        current, tail, hung = _follow(child, tell)
    finally:
        _end(child)
    if hung:
        return current, f"no sign of life for {SILENCE_S:.0f} s"
    if child.returncode < 0:
        return current, f"killed by {signal.Signals(-child.returncode).name}"
    if child.returncode:
        return current, f"exit code {child.returncode}: {' | '.join(tail[-3:])[-400:]}"
    return current, None


def _follow(
    child: subprocess.Popen[str], tell: Callable[[str], None]
) -> tuple[tuple[str, str] | None, list[str], bool]:
    """Relay the child's lines until it ends or falls silent.

    Returns (the case and implementation it was at, its last lines, whether it hung).
    """
    lines: queue.Queue[str | None] = queue.Queue()
    stream = child.stdout
    assert stream is not None

    def pump() -> None:
        for line in stream:
            lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    current: tuple[str, str] | None = None
    tail: list[str] = []
    while True:
        try:
            line = lines.get(timeout=SILENCE_S)
        except queue.Empty:
            return current, tail, True
        if line is None:
            child.wait()
            return current, tail, False
        if line.startswith("@"):
            _, case, implementation = json.loads(line[1:])
            current = (case, implementation)
            tell(f"  {case} {implementation}".rstrip())
        elif line:
            tail = [*tail[-20:], line]
            tell(f"  {line}")


def _end(child: subprocess.Popen[str]) -> None:
    """Leave no process behind, whatever happened."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _mark_dead(
    stem: str, phase: str, current: tuple[str, str] | None, reason: str, writer: rawlog.Writer,
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Say in the log what the dead child leaves unmeasured: the case it was at, and those after."""
    from benchmarks import tasks

    rows = rawlog.read(writer.path, tell) if writer.path.exists() else []
    seen: set[tuple[str, str]] = set()
    for task in tasks.missing(stem, phase, rows, hopper=has_hopper()):
        which = (task.case, task.implementation)
        if which in seen:
            continue
        seen.add(which)
        why = reason
        if current is not None and which != current:
            why = f"not measured: the process died at {current[0]} {current[1]}: {reason}"
        writer.append(
            "status", operator=stem, case=task.case, implementation=task.implementation,
            phase=phase, status="died", reason=why,
        )  # fmt: skip


def _git(checkout: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", "-c", f"safe.directory={checkout.resolve()}", "-C", str(checkout), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return run.stdout.strip() if run.returncode == 0 else ""


def _date(checkout: Path, commit: str) -> str:
    """Committer date of the commit, ISO 8601 in UTC; empty where git cannot tell."""
    stamp = _git(checkout, "show", "-s", "--format=%ct", commit)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(stamp))) if stamp else ""


def _harness() -> str:
    """Commit of the measuring code, with ``+`` behind it when benchmarks/ was modified."""
    commit = _git(HARNESS, "rev-parse", "--short=12", "HEAD")
    changed = _git(HARNESS, "status", "--porcelain", "--", "benchmarks")
    return (commit or "unknown") + ("+" if changed else "")


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--operators", type=lambda text: text.split(","))
    parser.add_argument("--phase", choices=PHASES, help="that one alone")
    arguments = parser.parse_args()
    commit = _git(arguments.checkout, "rev-parse", "--verify", f"{arguments.commit}^{{commit}}")
    if not commit:
        parser.error(f"--commit: {arguments.checkout} has no commit {arguments.commit}")
    phases = (arguments.phase,) if arguments.phase else PHASES
    path = sweep(
        arguments.checkout, commit, arguments.results, operators=arguments.operators, phases=phases
    )
    print(path)


if __name__ == "__main__":
    main()

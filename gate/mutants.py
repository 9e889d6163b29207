"""``python -m gate.mutants [OPERATOR | NAME]...``: do the tests find what could go wrong?

Plants each fault of ``gate/faults/`` in a copy of the tree, runs the tests of its operator until the
first fails, and prints which one did: the killer.  A killer must pass on the tree as it is.  A fault
of a kernel is judged by parity with the reference and the operator's other tests; one of the
reference twice, by parity and by the reference's own tests, which do without a kernel.

docs/mutants.md holds what was found, for ``--gpu`` docs/mutants-hopper.md; a sample leaves it as it
is.  A fault that survives is a bug of the tests.

Exit codes: 0 all were killed; 1 some survived, or ran out of time; 2 the command line asks for what
there is not; 3 ``--gpu`` without a Hopper GPU; 4 the list is wrong: a fault does not apply, nothing
could be run with it, or its killer fails without it.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gate import _faults, _mutants_page, _trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gate._faults import Fault

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("benchmarks", "gate", "harness", "kernels", "reference_impl", "tests", "pyproject.toml")
# Of the processor, of a trial, after its imports; on a GPU it compiles its kernels.
SECONDS = {"cpu": 30.0, "gpu": 60.0}
# Processes that share a GPU: each holds a context, some hundred MB, and small cases.
GPU_JOBS = 8
EXIT = {"killed": 0, "survived": 1, "timeout": 1, "no-gpu": 3, "wrong": 4}


class Trial(NamedTuple):
    """A fault and which tests judge it: "tests" of a kernel; "parity" and "own" of the reference."""

    fault: Fault
    by: str


class Verdict(NamedTuple):
    """word: killed, survived, timeout, or wrong (the list is).  killer: the test.  said: its message."""

    trial: Trial
    word: str
    killer: str
    said: str
    seconds: float


def trials(faults: Sequence[Fault], gpu: bool) -> list[Trial]:
    """What runs on this machine, in order."""
    return [Trial(fault, by) for fault in faults for by in fault.sides(gpu)]


def chosen(faults: Sequence[Fault], names: Sequence[str]) -> list[Fault]:
    """Faults of these operators or of these names; all without names."""
    known = {part for fault in faults for part in (fault.operator, fault.name, fault.id)}
    unknown = sorted(set(names) - known)
    if unknown:
        raise ValueError(f"expected an operator or a fault of gate/faults, got {unknown[0]!r}")
    return [f for f in faults if not names or {f.operator, f.name, f.id} & set(names)]


class Runner:
    """Runs trials, as many at once as there are copies of the tree."""

    def __init__(self, folder: Path, jobs: int, gpu: bool) -> None:
        self.trees = [_copy(folder / f"tree{number}") for number in range(jobs)]
        self.seconds = SECONDS["gpu" if gpu else "cpu"]
        self.sources: dict[str, str] = {}  # files as they are without a fault
        self.running: dict[int, tuple[Path, Trial, _trial.Outcome | None]] = {}
        self.sound: set[str] = set()  # killers that pass on the tree as it is
        self.failing: dict[str, str] = {}  # and those that do not: what they say

    def run(self, waiting: Sequence[Trial]) -> Iterator[Verdict]:
        """Verdicts in the order in which they are found."""
        queue, free = list(reversed(waiting)), list(self.trees)
        while queue or self.running:
            while queue and free:
                trial = queue.pop()
                try:
                    self._plant(free[-1], trial)
                except _faults.NotApplicableError as error:
                    yield Verdict(trial, "wrong", "", str(error), 0.0)
                else:
                    free.pop()
            if self.running:
                tree, verdict = self._reap()
                if verdict is not None:
                    free.append(tree)
                    yield verdict

    def stop(self) -> None:
        """End what still runs, so that its copy of the tree can be removed."""
        for child in self.running:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.running.clear()

    def _plant(self, tree: Path, trial: Trial) -> None:
        path = tree / trial.fault.file
        text = self.sources.setdefault(trial.fault.file, path.read_text(encoding="utf-8"))
        path.write_text(trial.fault.applied(text), encoding="utf-8")
        make = _trial.own if trial.by == "own" else _trial.parity
        self.running[_trial.start(tree, make(trial.fault, self.seconds))] = (tree, trial, None)

    def _restore(self, tree: Path, trial: Trial) -> None:
        (tree / trial.fault.file).write_text(self.sources[trial.fault.file], encoding="utf-8")

    def _reap(self) -> tuple[Path, Verdict | None]:
        """Wait for one process; None while its killer is still to be tried without the fault."""
        child, status = os.wait()
        tree, trial, first = self.running.pop(child)
        found = _trial.outcome(tree, status)
        if first is not None:
            if found.word == "passed":
                self.sound.add(first.test)
            else:
                self.failing[first.test] = found.said
            return tree, self._killed(trial, first)
        self._restore(tree, trial)
        if found.word in ("failed", "died"):
            if found.test in self.sound or found.test in self.failing:
                return tree, self._killed(trial, found)
            again = _trial.alone(found.test, trial.fault.operators, self.seconds)
            self.running[_trial.start(tree, again)] = (tree, trial, found)
            return tree, None
        return tree, _verdict(trial, found)

    def _killed(self, trial: Trial, found: _trial.Outcome) -> Verdict:
        if found.test in self.failing:
            said = f"{found.test} fails without it: {self.failing[found.test]}"
            return Verdict(trial, "wrong", "", said, found.seconds)
        return Verdict(trial, "killed", found.test, found.said, found.seconds)


def _verdict(trial: Trial, found: _trial.Outcome) -> Verdict:
    """Of a run in which no test failed."""
    if found.word == "timeout" and trial.fault.hangs:
        return Verdict(trial, "killed", found.test, "hangs", found.seconds)
    word = {"passed": "survived", "timeout": "timeout"}.get(found.word, "wrong")
    return Verdict(trial, word, found.test if word == "timeout" else "", found.said, found.seconds)


def _copy(target: Path) -> Path:
    target.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target / name)
    return target


def _warm(tree: Path, gpu: bool) -> None:
    """Import, from a copy of the tree, what every trial needs and no fault touches, and price all cases.

    Nothing here may start CUDA or a thread: this process forks.
    """
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # No bytecode: two faults of one length within a second would not be told apart.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(tree))
    for name in ("torch", "hypothesis", "numpy"):
        importlib.import_module(name)
    if not gpu:
        os.environ["TRITON_INTERPRET"] = "1"
        importlib.import_module("harness.interpreter").install()
    importlib.import_module("triton.language")
    _trial.price_cases()
    gc.freeze()


def _hopper() -> bool:
    """Asked in a process of its own, which may start the driver."""
    child = os.fork()
    if not child:
        try:
            from benchmarks.fingerprint import has_hopper

            os._exit(0 if has_hopper() else 1)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = _parse(arguments)
    try:
        everything = _faults.load()
        faults = chosen(everything, given.names)
    except _faults.NotApplicableError as error:
        print(error, file=sys.stderr)
        return EXIT["wrong"]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if given.list:
        for fault in faults:
            print(f"{fault.id}  {fault.models}{'  (GPU only)' if fault.gpu else ''}")
        return 0
    if given.gpu and not _hopper():
        print("expected a Hopper GPU for --gpu, got none", file=sys.stderr)
        return EXIT["no-gpu"]
    waiting = trials(faults, given.gpu)
    if given.sample:
        waiting = random.Random(given.seed).sample(waiting, min(given.sample, len(waiting)))
    began = time.monotonic()
    verdicts = _run(waiting, given)
    seconds = time.monotonic() - began
    words = [verdict.word for verdict in verdicts]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    print(f"{len(words)} trials in {seconds:.0f} s: {counts}")
    if not given.sample:
        path = ROOT / "docs" / ("mutants-hopper.md" if given.gpu else "mutants.md")
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = len(verdicts) == len(trials(everything, given.gpu))
        took = _mutants_page.took(len(verdicts), seconds, _jobs(given)) if whole else ""
        page = _mutants_page.page(verdicts, everything, given.gpu, before, took)
        path.write_text(page, encoding="utf-8")
    return max((EXIT[word] for word in words), default=0)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gate.mutants")
    parser.add_argument("names", nargs="*", metavar="OPERATOR | NAME", help="which faults; all")
    parser.add_argument("--gpu", action="store_true", help="all faults, on a Hopper GPU")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="only N trials")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which N trials those are")
    parser.add_argument("-j", "--jobs", type=int, default=0, help="trials at once; one a core")
    parser.add_argument("--list", action="store_true", help="print the list and run nothing")
    given = parser.parse_args(arguments)
    if given.sample < 0 or given.jobs < 0:
        parser.error("--sample and --jobs: expected a number above 0")
    return given


def _jobs(given: argparse.Namespace) -> int:
    """Trials at once."""
    cores = os.cpu_count() or 1
    return int(given.jobs) or (min(GPU_JOBS, cores) if given.gpu else cores)


def _run(waiting: Sequence[Trial], given: argparse.Namespace) -> list[Verdict]:
    """Run and print; those that take one large case of a GPU's memory come last, one at a time."""
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        os.environ["TRITON_CACHE_DIR"] = str(Path(folder) / "cache")
        runner = Runner(Path(folder), max(1, min(_jobs(given), len(waiting))), given.gpu)
        _warm(runner.trees[0], given.gpu)
        for large in (False, True):
            if large:
                runner.trees = runner.trees[:1]
            group = [t for t in waiting if bool(t.fault.gpu and t.fault.only) == large]
            try:
                for verdict in runner.run(group):
                    print(_line(verdict), flush=True)
                    verdicts.append(verdict)
            finally:
                runner.stop()
    return verdicts


def _line(verdict: Verdict) -> str:
    trial = verdict.trial
    who = verdict.killer if verdict.word != "wrong" else ""
    said = " ".join(verdict.said.split())[:300] if verdict.word in ("wrong", "killed") else ""
    head = f"{verdict.word:8} {verdict.seconds:5.1f} s  {trial.fault.id} ({trial.by})"
    return f"{head}  {who}" + (f"\n{'':19}{said}" if said else "")


if __name__ == "__main__":
    sys.exit(main())

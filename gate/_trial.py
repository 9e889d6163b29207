"""One planted fault against its tests, in a process forked after torch and Triton were imported.

Importing them takes longer than most faults live.  kernels, reference_impl and the tests are imported
in the child, from the copy of the tree that holds the fault.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from gate._faults import Fault

# Tests of every operator: of these only the fault's operators are run.
GENERIC = ("tests/test_ops.py", "tests/test_launches.py", "tests/test_inputs.py")
CHEAP = 64  # steps in Triton's interpreter; dearer cases come after all other tests
IDLE = 8  # times its seconds that a trial may take by the clock, on a machine that others use, too
IMPORTING = 120  # seconds until tests are collected; a fault in a module's body could hang there
TIMERS = (signal.SIGALRM, signal.SIGPROF)
VERDICT = "verdict.json"
LOG = "trial.log"


class Selection(NamedTuple):
    """Which tests run, and how long they may.

    arguments: pytest's.  operators: stems of generic tests that are kept.  only: what a test's name
    must contain.  small: leave out cases that Triton's interpreter does not take.  seconds: of the
    processor, after collection.
    """

    arguments: tuple[str, ...]
    operators: tuple[str, ...]
    only: str
    small: bool
    seconds: float


def price_cases() -> None:
    """Work out once, before the first fork, which cases the interpreter takes and what they cost:
    some draw a whole routing for it."""
    from benchmarks import cases

    for stem in cases.names():
        table = cases.load(stem).CASES
        for kind in {type(case) for case in table}:
            kind.interpreter_steps = functools.cache(kind.interpreter_steps)
        for case in table:
            case.interpreter_steps()
    cases.on_cpu = functools.cache(cases.on_cpu)
    for stem in cases.names():
        cases.on_cpu(stem)


def parity(fault: Fault, seconds: float) -> Selection:
    """The operator's cases; for a fault of a kernel also its other tests."""
    arguments: tuple[str, ...] = ("tests/test_ops.py",)
    if not fault.of_reference:
        arguments = ("tests/test_ops.py", *fault.tests, *GENERIC[1:])
    # What the cases for a CPU are blind to, larger ones may see.
    small = not (fault.only or fault.blind_on_cpu)
    return Selection(arguments, fault.operators, fault.only, small, seconds)


def own(fault: Fault, seconds: float) -> Selection:
    """The tests of the reference that do without a kernel."""
    return Selection(fault.reference_tests, fault.operators, fault.only, True, seconds)


def alone(test: str, operators: tuple[str, ...], seconds: float) -> Selection:
    """One test."""
    return Selection((test.partition("[")[0],), operators, test, False, seconds)


def start(tree: Path, selection: Selection) -> int:
    """Fork a process that runs the selection in ``tree`` and writes VERDICT there; returns its id."""
    (tree / VERDICT).unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        code = _run(tree, selection)
    finally:
        os._exit(code)


def _run(tree: Path, selection: Selection) -> int:
    log = os.open(tree / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    # Their default action ends the process even where no Python runs.
    for number in TIMERS:
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, IMPORTING)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    # Nothing that takes time in each of some hundred runs: plugins that no test here needs, assertions
    # rewritten, a garbage collector that goes through all of torch twice.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-x", "-q", "--tb=short", "--assert=plain", "--rootdir", str(tree)]
    options += ["-p", "no:cacheprovider", "-p", "no:unraisableexception"]
    return int(pytest.main([*options, *selection.arguments], plugins=[_Plugin(tree, selection)]))


class _Plugin:
    """Chooses and sorts the tests, starts the clock, and writes down who failed."""

    def __init__(self, tree: Path, selection: Selection) -> None:
        self.tree = tree
        self.selection = selection
        self.began = time.process_time()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        kept = [item for item in items if self._wanted(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        files = [argument.partition("::")[0] for argument in self.selection.arguments]
        # Cheap cases, then the other tests, which stay in their order, then dear cases.
        kept.sort(key=lambda item: (*_price(item), files.index(_file(item))))
        items[:] = kept

    def _wanted(self, item: pytest.Item) -> bool:
        if self.selection.only and self.selection.only not in item.nodeid:
            return False
        parameters = _parameters(item)
        case, stem = parameters.get("case"), parameters.get("stem")
        if case is not None and stem is not None and self.selection.small:
            from benchmarks import cases

            if item.name.startswith("test_parity") and case not in cases.on_cpu(stem):
                return False
        if _file(item) not in GENERIC:
            return True
        if stem is None:
            return item.nodeid.partition("[")[0] in self.selection.arguments
        return stem in self.selection.operators

    def pytest_collection_finish(self) -> None:
        self.began = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, IDLE * self.selection.seconds)
        signal.setitimer(signal.ITIMER_PROF, self.selection.seconds)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write("running", nodeid, "")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = getattr(crash, "message", "") or str(report.longrepr)
            self._write("failed", report.nodeid, said)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK:
            self._write("passed", "", "")

    def _write(self, outcome: str, test: str, said: str) -> None:
        row = {"outcome": outcome, "test": test, "said": said, "seconds": self._seconds()}
        # In one step, so that a process that dies leaves a whole one.
        fresh = self.tree / f"{VERDICT}.new"
        fresh.write_text(json.dumps(row), encoding="utf-8")
        fresh.replace(self.tree / VERDICT)

    def _seconds(self) -> float:
        return time.process_time() - self.began


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _parameters(item: pytest.Item) -> dict[str, Any]:
    callspec = getattr(item, "callspec", None)
    return callspec.params if callspec else {}


def _price(item: pytest.Item) -> tuple[int, int]:
    """(0 of a cheap case, 1 of another test, 2 of a dear case; its steps in Triton's interpreter)."""
    if not item.name.startswith("test_parity"):
        return 1, 0
    steps: int = _parameters(item)["case"].interpreter_steps()
    return (0 if steps <= CHEAP else 2), steps


class Outcome(NamedTuple):
    """How a run ended.

    word: failed (a test did), passed, timeout, died (by a signal), broken (nothing could be
    collected).  test: which one, where there is one.  said: its message, or what the log ends with.
    """

    word: str
    test: str
    said: str
    seconds: float


def outcome(tree: Path, status: int) -> Outcome:
    """What the process of :func:`start` left, by its status from ``os.wait``."""
    path = tree / VERDICT
    row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    test, said, seconds = row.get("test", ""), row.get("said", ""), row.get("seconds", 0.0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        word = "timeout" if number in TIMERS else "died"
        return Outcome(word if test else "broken", test, signal.strsignal(number) or "", seconds)
    if row.get("outcome") in ("failed", "passed"):
        return Outcome(row["outcome"], test, said, seconds)
    log = (tree / LOG).read_text(encoding="utf-8", errors="replace")
    return Outcome("broken", test, log[-2000:].strip(), seconds)

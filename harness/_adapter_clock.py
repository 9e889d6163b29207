"""The child of ``harness.adapter --time``: several backends on one case by the one clock, in turns.

A round of each backend follows a round of the one before it, so that a drift of the machine falls on
all of them; what is timed is poisoned, replayed and compared, as in a sweep.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import fingerprint, roofline, tasks, worker
from harness import _adapter, _backends, _desk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.cases import Case


class Gone(RuntimeError):
    """The GPU's context is lost: nothing more can be run in this process."""


class Stand(_desk.Desk):
    """A desk for backends, of which ours has the name that the sweep gives it."""

    def __init__(self, backends: Sequence[_backends.Backend], device: str) -> None:
        super().__init__(backends[0].operator, device)
        self.backends = {backend.name: backend for backend in backends}

    def implementation(self, name: str) -> Callable[[dict[str, Any]], Callable[[], Any]]:
        return self.backends[name].prepare

    def turns(
        self, case: Case, known: dict[str, str], begin: Callable[[str], None]
    ) -> list[_desk.Row]:
        """A row a backend.  known: why some have no numbers.  begin: called before each step.

        Raises Gone; then ``known`` says why, too.
        """
        copy = statistics.median(roofline.copy_us(case.cost().bytes))
        rows = [
            _desk.Row(case, name, copy_us=copy, problem=known.get(name, "") or self._refusal(name, case))
            for name in self.backends
        ]  # fmt: skip
        for turn in range(_desk.ROUNDS):
            for row in rows:
                if not row.problem:
                    begin(row.name)
                    self._take(row, turn, known)
        self.expected.clear()
        return rows

    def _refusal(self, name: str, case: Case) -> str:
        """Why this backend does not take the case, or nothing."""
        backend = self.backends[name]
        answer = True if backend.absent else backend.supports(case)
        return backend.absent or ("" if answer is True else f"{_adapter.UNSUPPORTED}: {answer}")

    def _take(self, row: _desk.Row, turn: int, known: dict[str, str]) -> None:
        """One round of one backend; a failure is its row's problem."""
        try:
            self.fill(row, turn=turn, rounds=1)
            if self.backends[row.name].judged_exactly and row.differing:
                row.problem = f"{row.differing:g} elements differ in bits"
        except (NotImplementedError, worker.WrongAnswer) as reason:
            row.problem = str(reason)
        except Exception as error:
            row.problem = known[row.name] = f"{type(error).__name__}: {error}"
            if worker.is_sticky(error):
                raise Gone from error


def timed(stem: str, part: str | None) -> list[Case]:
    """The timed cases that ``part`` fits; where it fits none of them, all that it fits."""
    able = _adapter.chosen(stem, part)
    return [case for case in able if case.bench] or able


def _begin(say: Callable[..., None], label: str, name: str) -> None:
    say(begin=[label, name])


def work(job: dict[str, Any], pipe: int) -> None:
    """Time every case but those of ``job["done"]``; a case's rows are a line to the file descriptor.

    job: ``backends``, pairs of a name and a table's title; ``operator``; ``part``; ``known``, by case
    and title why there are no numbers.
    """
    say = _adapter.speaker(pipe)
    _adapter.interpret()
    backends = []
    for given, title in job["backends"]:
        name = tasks.OURS if given == _backends.OURS else title
        backends.append(replace(_backends.find(given, job["operator"]), name=name))
    stand = Stand(backends, "cuda" if fingerprint.has_hopper() else "cpu")
    say(ready=True)
    for case in timed(job["operator"], job["part"]):
        label = case.label
        if label in job["done"]:
            continue
        _begin(say, label, "")
        known = job["known"].get(label, {})
        try:
            rows = stand.turns(case, known, partial(_begin, say, label))
        except Gone:
            say(case=label, known=known)
            say(again=True)
            return
        say(case=label, rows=[vars(row) | {"case": label} for row in rows])
    say(end=True)

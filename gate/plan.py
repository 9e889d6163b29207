"""Which process runs when: blocks A B B A, B A A B, ... of fresh processes, an operator in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks import cases, tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BASE, HEAD = "base", "head"
SIDES = (BASE, HEAD)
# What a process does: compile for sm_90; check in the interpreter, where there is no GPU; time.
CODEGEN, CHECK, TIME = "codegen", "check", "time"
POSITIONS = 4


class Turn(NamedTuple):
    """One process.  block: of the steps that are done once a commit, 0.  position: in its block."""

    step: str
    operator: str
    block: int
    position: int
    side: str

    @property
    def pair(self) -> int:
        """Number of the pair of neighbours to which this process belongs."""
        return (POSITIONS * self.block + self.position) // 2


def order(block: int) -> tuple[str, ...]:
    """Sides of a block's processes, in order.

    A drift that is linear in time falls on both sides alike in each block, whichever side comes
    first; blocks that begin with either side in turn do the same for one that is quadratic.
    """
    first, second = SIDES if block % 2 == 0 else SIDES[::-1]
    return first, second, second, first


def turns(operators: Sequence[str], blocks: int, *, hopper: bool) -> Iterator[Turn]:
    """All processes of a comparison, in order.

    Blocks are outermost, so that an interruption leaves every operator with as many.
    """
    for step in (CODEGEN,) if hopper else (CODEGEN, CHECK):
        for stem in operators:
            for position, side in enumerate(SIDES):
                yield Turn(step, stem, 0, position, side)
    for block in range(blocks):
        for stem in operators:
            for position, side in enumerate(order(block)):
                yield Turn(TIME, stem, block, position, side)


def steps(turn: Turn, labels: Sequence[str], *, hopper: bool) -> list[tasks.Task]:
    """The steps of a sweep that this process takes.  labels: the cases to look at, empty for all."""
    phase = "codegen" if turn.step == CODEGEN else "run"
    kinds = {CODEGEN: ("codegen",), CHECK: ("accuracy",), TIME: ("device", "cpu")}[turn.step]
    return [
        task._replace(round=turn.block)
        for task in tasks.tasks(turn.operator, phase, hopper=hopper)
        if task.round == 0
        and task.kind in kinds
        and task.implementation in (tasks.OURS, tasks.REFERENCE)
        and (not labels or task.case in labels)
    ]


def select(filters: Sequence[str]) -> dict[str, list[str]]:
    """Timed cases by operator: all, or those that the command line names.

    filters: an operator, then parts of labels, any of which a case must fit; then the next operator.
    Raises harness._problem.UsageError for what does not exist.
    """
    from harness import _problem

    known = cases.names()
    if not filters:
        return {stem: _labels(stem, ()) for stem in known if _labels(stem, ())}
    parts: dict[str, list[str]] = {}
    stem = ""
    for word in filters:
        if not stem or word in known:
            stem = _problem.operator(word)
            parts.setdefault(stem, [])
        else:
            parts[stem].append(word)
    chosen = {}
    for stem, wanted in parts.items():
        chosen[stem] = _labels(stem, wanted)
        if not chosen[stem]:
            raise _problem.UsageError(f"case: no timed case of {stem} fits {' or '.join(wanted)}")
    return chosen


def _labels(stem: str, parts: Sequence[str]) -> list[str]:
    from harness import _problem

    timed = [case.label for case in cases.load(stem).CASES if case.bench]
    if not parts:
        return timed
    fit = {case.label for part in parts for case in _problem.matching(stem, part)}
    return [label for label in timed if label in fit]


def wanted(chosen: Mapping[str, Sequence[str]], operator: str, case: str) -> bool:
    """Whether the comparison is about this case."""
    return case in chosen.get(operator, ())

"""Measures two commits in turn: what the log lacks, a fresh process at a time."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import rawlog, sweep
from benchmarks.fingerprint import fingerprint, has_hopper
from gate import log, plan
from harness.bench import BenchError, checkout, git

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gate.plan import Turn

FOLDER = Path(".gate")
# As the sweep's: the commit must win for what is measured, this tree for what measures.
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import benchmarks.cases, benchmarks.rawlog, benchmarks.parity, harness, gate.child
sys.path[0] = sys.argv[2]
from gate.child import main
main(sys.argv[2:])
"""


@dataclass(frozen=True)
class Comparison:
    """What is compared.  root: the repository.  base, head: full hashes.  chosen: labels by operator.
    blocks: of four processes each.  path: the log."""

    root: Path
    base: str
    head: str
    chosen: dict[str, list[str]]
    blocks: int
    path: Path

    def commit(self, side: str) -> str:
        """Hash of a side."""
        return self.base if side == plan.BASE else self.head


@dataclass(frozen=True)
class Side:
    """A checked-out commit.  date: ISO 8601.  reference: hash of its reference's code."""

    tree: Path
    commit: str
    date: str
    reference: str


def log_path(root: Path, base: str, head: str) -> Path:
    """Where the log of these commits on this machine lies, unless it is told to lie elsewhere."""
    facts = fingerprint()
    name = rawlog.file_name(head, facts["python"], facts["torch"], facts["triton"])
    return root / FOLDER / str(facts["machine"]) / f"{base[:12]}-{name}"


def measure(wanted: Comparison, tell: Callable[[str], None]) -> None:
    """Run the processes that the log lacks.

    Raises BenchError where git fails or another comparison is running here.  A commit that fails is
    no error: the log says so.
    """
    facts, measuring = fingerprint(), log.measuring()
    with _alone(wanted.root):
        sides = {side: _side(wanted, side) for side in plan.SIDES}
        held = log.alike(log.read(wanted.path, tell), facts, measuring)
        done = {process.turn for process in held}
        lacking = [turn for turn in _turns(wanted) if turn not in done]
        tell(f"{len(lacking)} processes to run, {len(done)} are in {wanted.path}")
        labels: dict[str, list[str]] = {}
        group = None
        for number, turn in enumerate(lacking, 1):
            if (turn.step, turn.operator, turn.block) != group:
                group = turn.step, turn.operator, turn.block
                # What failed once is left alone: no pair can come of it.
                held = log.alike(log.read(wanted.path, lambda _: None), facts, measuring)
                labels = _labels(wanted, held)
            which = labels[turn.operator]
            if not which or not plan.steps(turn, which, hopper=has_hopper()):
                continue
            place = f"block {turn.block + 1}, " if turn.step == plan.TIME else ""
            tell(f"{number}/{len(lacking)} {turn.operator}: {turn.step}, {place}{turn.side}")
            row: dict[str, Any] = {"machine": facts, "measuring": measuring}
            _run(wanted, turn, which, sides[turn.side], row, tell)


def _turns(wanted: Comparison) -> list[Turn]:
    return list(plan.turns(list(wanted.chosen), wanted.blocks, hopper=has_hopper()))


def _labels(wanted: Comparison, held: Sequence[log.Process]) -> dict[str, list[str]]:
    """By operator, the cases that did not fail yet."""
    lost = set()
    for process in held:
        stem = process.turn.operator
        if process.turn.step == plan.TIME:
            lost |= {(stem, row["case"]) for row in process.statuses}
            if process.outcome == log.DIED:
                at = [process.at[0]] if process.at else wanted.chosen.get(stem, [])
                lost |= {(stem, case) for case in at}
    return {
        stem: [case for case in cases if (stem, case) not in lost]
        for stem, cases in wanted.chosen.items()
    }


def _run(
    wanted: Comparison, turn: Turn, labels: list[str], side: Side, row: dict[str, Any],
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    """One process, and the row that says how it ended."""
    process = uuid.uuid4().hex[:12]
    given = json.dumps({"turn": list(turn), "labels": labels})
    command = [
        sys.executable, "-P", "-c", CHILD, str(log.HARNESS), str(side.tree), str(wanted.path),
        side.commit, process, given, str(os.getpid()),
    ]  # fmt: skip
    # Triton's cache stays, one a commit: what is compiled is the same in every process.
    cache = wanted.root / FOLDER / "triton" / side.commit[:12]
    phase = "codegen" if turn.step == plan.CODEGEN else "run"
    started = time.monotonic()
    at, reason = sweep.watch(command, sweep.environment(phase, str(cache.absolute())), tell)
    if reason is not None:
        tell(f"  died: {reason}")
    writer = log.Writer(wanted.path, commit=side.commit, process=process, turn=turn)
    writer.append(
        "process", **row, date=side.date, operator=turn.operator, reference=side.reference,
        outcome=log.ENDED if reason is None else log.DIED, reason=reason or "",
        at=at if reason is not None else None, seconds=round(time.monotonic() - started, 3),
    )  # fmt: skip


def _side(wanted: Comparison, side: str) -> Side:
    """Check a commit out, under a name as long as the other's: the length of a path can cost time."""
    commit = wanted.commit(side)
    tree = checkout(wanted.root, commit, FOLDER / "trees" / commit[:12]).absolute()
    date = git(wanted.root, "show", "-s", "--format=%cI", commit).strip()
    return Side(tree, commit, date, code(tree / "reference_impl"))


def code(package: Path) -> str:
    """Hash of a package's Python as the compiler sees it: without comments and layout."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        try:
            text = ast.dump(ast.parse(path.read_bytes()))
        except (SyntaxError, ValueError):
            text = path.read_bytes().hex()
        digest.update(f"{path.relative_to(package).as_posix()}\0{text}\0".encode())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep a second comparison from measuring beside this one."""
    (root / FOLDER).mkdir(exist_ok=True)
    with (root / FOLDER / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BenchError("another comparison is running in this repository") from None
        yield

"""Calls of asv: record what the raw logs hold, and publish the pages.

asv runs in a process of its own, and what it prints goes to ``.asv/asv.log``: it prints a table for
each benchmark, hundreds of lines that say nothing to someone who wants to know whether it worked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import bench_operators, cases

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness._logs import Log

OUTPUT = Path(".asv/asv.log")
PAGES = Path(".asv/html")
SUITE = "bench_operators"
# asv's exit status when it worked but a benchmark recorded no number.
BENCHMARK_FAILED = 2


class AsvError(RuntimeError):
    """asv itself failed; the message ends with its last lines."""


def selection(logs: Iterable[Log]) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """(operator, metric) -> {(case, implementation)} of these logs, failures included.

    asv starts a process for each combination of parameters, and most have no value on a given
    machine (no GPU, no such peer), so it is told which to ask for.
    """
    operators = cases.names()
    wanted: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for log in logs:
        table = bench_operators.tabulate(log.measured, log.statuses, log.commit)
        for operator, case, implementation, metric in table:
            if operator in operators:
                wanted.setdefault((operator, metric), set()).add((case, implementation))
    return wanted


def unplaced(wanted: dict[tuple[str, str], set[tuple[str, str]]]) -> int:
    """How many combinations asv's suite lacks: of cases and implementations of another day."""
    count = 0
    for (operator, metric), combinations in wanted.items():
        labels, names = getattr(getattr(bench_operators, operator), f"track_{metric}").params
        count += sum(case not in labels or name not in names for case, name in combinations)
    return count


def patterns(wanted: dict[tuple[str, str], set[tuple[str, str]]]) -> list[str]:
    """The selection as regular expressions for ``asv run --bench``."""
    expressions = []
    for (operator, metric), combinations in sorted(wanted.items()):
        spelled = "|".join(re.escape(f"{case!r}, {name!r}") for case, name in sorted(combinations))
        expressions.append(rf"^{SUITE}\.{operator}\.track_{metric}\((?:{spelled})\)$")
    return expressions


class Recorded(NamedTuple):
    """values: combinations asv was asked for, failures included, summed over the commits.
    whole: whether all of them were numbers.  unplaced: those asv has no place for."""

    values: int
    whole: bool
    unplaced: int


def record(root: Path, logs: Sequence[Log]) -> Recorded:
    """Let asv record what ``logs`` hold.  Raises AsvError when asv could not do it."""
    groups: dict[str, list[Log]] = {}
    for log in logs:
        if log.facts:
            groups.setdefault(json.dumps(log.facts, sort_keys=True), []).append(log)
    values, whole, strange = 0, True, 0
    # Oldest first: what is known of a machine now stays in its machine.json.
    for facts, group in sorted(groups.items(), key=lambda item: max(log.times for log in item[1])):
        wanted = selection(group)
        if not wanted:
            continue
        commits = "\n".join(log.commit for log in sorted(group, key=lambda log: log.age))
        arguments = ["run", "HASHFILE:-", "--no-pull"]
        for pattern in patterns(wanted):
            arguments += ["--bench", pattern]
        status = _call(root, arguments, {"FP8_BENCH_FACTS": facts}, commits)
        whole = whole and status != BENCHMARK_FAILED
        strange += unplaced(wanted)
        values += sum(len(found) for log in group for found in selection([log]).values())
    return Recorded(values, whole, strange)


def publish(root: Path) -> list[str]:
    """Write the pages to ``.asv/html``; what the reader must know.  Raises AsvError."""
    output = root / OUTPUT
    before = output.stat().st_size if output.exists() else 0
    _call(root, ["publish", "--no-pull"], {}, "")
    with output.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(before)
        said = [
            line.strip().removeprefix("notice: ") for line in lines if line.startswith("notice: ")
        ]
    return list(dict.fromkeys(said))


def _call(root: Path, arguments: list[str], environment: dict[str, str], text: str) -> int:
    """asv's exit status, 0 or BENCHMARK_FAILED; AsvError for any other."""
    output = root / OUTPUT
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as sink:
        done = subprocess.run(
            [sys.executable, "-m", "asv", *arguments], cwd=root, input=text.encode(), stdout=sink,
            stderr=subprocess.STDOUT, env=os.environ | environment, check=False,
        )  # fmt: skip
    if done.returncode not in (0, BENCHMARK_FAILED):
        last = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
        said = "\n  ".join(last)
        raise AsvError(
            f"asv {arguments[0]} ended with status {done.returncode} ({OUTPUT}):\n  {said}"
        )
    return done.returncode

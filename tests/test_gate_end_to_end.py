"""The gate on a repository of known commits: a slower one, and one of words and another swizzle."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gate import log, plan
from tests._miniature.build import environment, run
from tests._throwaway.build import build

pytest.importorskip("scipy", reason="the gate needs scipy")
pytest.importorskip("rich", reason="the gate needs rich")
PATIENCE_S = 120.0
BLOCKS = 2
pytestmark = [pytest.mark.cpu, pytest.mark.long]


class Repository(NamedTuple):
    root: Path
    commits: dict[str, str]

    def path(self, head: str) -> Path:
        return self.root / f"{head}.jsonl"

    def arguments(self, head: str, *more: str) -> list[str]:
        return [
            "compare", self.commits["first"], self.commits[head], *more,
            "--log", str(self.path(head)), "--json", str(self.root / f"{head}.json"),
        ]  # fmt: skip

    def compare(self, head: str, *more: str) -> subprocess.CompletedProcess[str]:
        return run(self.root, "gate", *self.arguments(head, *more))

    def rows(self, head: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Verdicts by case and metric."""
        told = json.loads((self.root / f"{head}.json").read_text())
        return {(row["case"], row["metric"]): row for row in told["rows"]}

    def processes(self, head: str) -> list[log.Process]:
        return log.read(self.path(head), lambda _: None)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("throwaway") / "project"
    return Repository(root, build(root))


@pytest.fixture(scope="module")
def slower(repository: Repository) -> tuple[Repository, bytes, subprocess.CompletedProcess[str]]:
    """The comparison with the slower commit, killed in the middle and run again.

    Returns the repository, the log as the kill left it, and how the second run ended.
    """
    more = ("pause", "--blocks", str(BLOCKS))
    child = subprocess.Popen(
        [sys.executable, "-m", "gate", *repository.arguments("slower", *more)], cwd=repository.root,
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while len(_timed(repository)) < 3 and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it ended by itself"
    left = repository.path("slower").read_bytes()
    return repository, left, repository.compare("slower", *more)


def _timed(repository: Repository) -> list[log.Process]:
    held = repository.processes("slower")
    return [process for process in held if process.turn.step == plan.TIME]


def test_a_case_that_an_earlier_comparison_left_out_is_measured(repository: Repository) -> None:
    """The log is the same; the cases that it has are not measured again."""
    again = Repository(
        repository.root, repository.commits | {"again": repository.commits["slower"]}
    )
    assert again.compare("again", "pause", "n=2", "--blocks", "1").returncode in (0, 11)
    assert again.compare("again", "pause", "--blocks", "1").returncode in (10, 11)
    rows = again.rows("again")
    assert [rows[f"n={n}", "cpu_us"]["pairs"] for n in (1, 2)] == [2, 2]
    timed = [one for one in again.processes("again") if one.turn.step == plan.TIME]
    assert [one.cases for one in timed] == [("n=2",)] * 4 + [("n=1",)] * 4
    assert all(row["case"] in one.cases for one in timed for row in one.samples)
    other = again.arguments("dies", "pause")
    other[other.index("--log") + 1] = str(again.path("again"))
    assert run(again.root, "gate", *other, "--no-measure").returncode == 12


Slower = tuple[Repository, bytes, subprocess.CompletedProcess[str]]


def test_a_slower_reference_is_a_regression(slower: Slower) -> None:
    repository, _, done = slower
    assert done.returncode == 10, done.stdout + done.stderr
    rows = repository.rows("slower")
    row = rows["n=1", "cpu_us"]
    assert (row["verdict"], row["pairs"], row["gates"]) == ("regressed", 2 * BLOCKS, True)
    assert 2 < row["change"] < 4
    assert rows["n=2", "cpu_us"]["verdict"] != "regressed"
    assert "regressed" in done.stdout


def test_kill_9_costs_the_process_at_hand_alone(slower: Slower) -> None:
    repository, left, _ = slower
    assert repository.path("slower").read_bytes().startswith(left.rsplit(b"\n", 1)[0])
    turns = [process.turn for process in repository.processes("slower")]
    assert len(turns) == len(set(turns)), "measured twice"
    kept = [json.loads(line) for line in left.splitlines() if line.endswith(b"}")]
    assert sum(row["kind"] == "process" for row in kept) >= 5
    order = [turn.side for turn in turns if turn.step == plan.TIME]
    assert order == [*plan.order(0), *plan.order(1)]


def test_each_process_is_a_fresh_one_of_its_own_commit(slower: Slower) -> None:
    repository, _, _ = slower
    sides = {plan.BASE: repository.commits["first"], plan.HEAD: repository.commits["slower"]}
    rows = [json.loads(line) for line in repository.path("slower").read_text().splitlines()]
    assert {row["commit"] for row in rows} == set(sides.values())
    for row in rows:
        assert row["commit"] == sides[row["side"]]
        assert row["schema"] > 1
    ended = [row["process"] for row in rows if row["kind"] == "process"]
    assert len(ended) == len(set(ended))


def test_a_rerun_measures_nothing(slower: Slower) -> None:
    repository, _, _ = slower
    before = repository.path("slower").read_bytes()
    done = repository.compare("slower", "pause", "--blocks", str(BLOCKS))
    assert done.returncode == 10
    assert "0 processes to run" in done.stdout
    assert repository.path("slower").read_bytes() == before


@pytest.mark.skipif(importlib.util.find_spec("nox") is None, reason="nox is not installed")
@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["pause"], 10),
        (["pause", "n=2", "--threshold", "0.001", "--allow-inconclusive", "0"], 11),
        (["tiles"], 12),
        (["nonsense"], 2),
    ],
)
def test_nox_keeps_the_exit_code(slower: Slower, more: list[str], code: int) -> None:
    repository, _, _ = slower
    arguments = repository.arguments("slower", *more, "--no-measure")[1:]
    done = run(repository.root, "nox", "--no-venv", "-s", "compare", "--", *arguments)
    assert done.returncode == code, done.stdout + done.stderr


def test_an_accident_is_no_verdict(slower: Slower) -> None:
    """Anything that is raised inside ends in a code that means nothing else."""
    repository, _, _ = slower
    arguments = repository.arguments("slower", "pause", "--no-measure")
    script = (
        "import sys, runpy, gate.verdict\n"
        "def judge(*arguments): raise RuntimeError('an accident')\n"
        "gate.verdict.judge = judge\n"
        "runpy.run_module('gate', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=repository.root, env=environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "an accident" in done.stderr
    unknown = run(repository.root, "gate", "compare", "no-such-commit", "HEAD")
    assert (unknown.returncode, "rev-parse" in unknown.stderr) == (1, True)
    assert run(repository.root, "gate", "compare", "HEAD").returncode == 2
    assert run(repository.root, "gate", "nonsense").returncode == 2
    assert run(repository.root, "gate").returncode == 0


def test_a_commit_that_dies_is_broken_and_costs_that_case_alone(repository: Repository) -> None:
    """The others of the same operator are measured, in the blocks after the one in which it died."""
    done = repository.compare("dies", "pause", "--blocks", str(BLOCKS))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "broken: pause n=1 reference, time: died: killed by SIGSEGV" in done.stdout
    rows = repository.rows("dies")
    assert rows["n=2", "cpu_us"]["pairs"] == 2
    assert ("n=1", "cpu_us") not in rows
    died = [one for one in repository.processes("dies") if one.outcome == log.DIED]
    assert {(one.turn.block, one.turn.side) for one in died} == {(0, plan.HEAD)}


@pytest.mark.long
def test_machine_code_decides_what_is_the_same_program(repository: Repository) -> None:
    """Other words around a kernel are; another swizzle is not, though it has the same opcodes in the
    same order."""
    done = repository.compare("tuned", "tiles", "--blocks", "0")
    assert done.returncode == 11, done.stdout + done.stderr
    rows = repository.rows("tuned")
    words, swizzle = rows["n=4096", "device_us"], rows["n=2048", "device_us"]
    assert (words["verdict"], words["note"]) == ("same", "the same program; not timed")
    assert swizzle["verdict"] == "inconclusive"
    assert "machine code of _tiles_kernel" in swizzle["note"]
    assert rows["n=2048", "instructions"]["verdict"] == "same"
    assert repository.compare("tuned", "tiles", "n=4096", "--no-measure").returncode == 0

"""What is committed in results/ can be believed: whole, of this history, summed up as it is."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import metrics, rawlog
from harness import _logs, doctor

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]


def git(*arguments: str) -> bytes:
    """Output of git in this repository; skips the test where it has nothing to say."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's results and README as committed: what was measured here since, or not yet
    reported, is nobody's fault."""
    root = tmp_path_factory.mktemp("committed")
    held = set(git("ls-tree", "--name-only", "HEAD").decode().split())
    archive = git("archive", "--format=tar", "HEAD", *sorted(held & {"README.md", "results"}))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        tar.extractall(root)  # noqa: S202 (the repository's own)
    if not list(rawlog.logs(root / "results")):
        pytest.skip("no raw log is committed in results/")
    return root


@cache
def history() -> frozenset[str]:
    """Every commit that HEAD descends from."""
    if git("rev-parse", "--is-shallow-repository").strip() == b"true":
        pytest.skip("a shallow clone does not hold the history")
    return frozenset(git("rev-list", "HEAD").decode().split())


def strangers(results: Path, known: frozenset[str]) -> list[str]:
    """Files under ``results`` that name a commit not ``known``, each with the commit."""
    return [
        f"{path.relative_to(results)}: {commit}"
        for path, commit in commits(results)
        if not any(full.startswith(commit) for full in known)
    ]


def commits(results: Path) -> Iterator[tuple[Path, str]]:
    """Files that hold measurements, raw or asv's, with every commit they name."""
    for path in rawlog.logs(results):
        rows = rawlog.read(path, lambda _: None)
        for commit in sorted({path.name.split("-")[0], *(row["commit"] for row in rows)}):
            yield path, commit
    for path in sorted(results.glob("*/*.json")):
        if path.name != "machine.json":
            yield path, str(json.loads(path.read_text(encoding="utf-8")).get("commit_hash"))


def problems(path: Path) -> list[str]:
    """What is wrong with one raw log."""
    found: list[str] = []
    rows = rawlog.read(path, found.append)
    name = _logs.NAME.fullmatch(path.name)
    if name is None:
        return [*found, f"{path}: not named like a raw log"]
    if not any(row["kind"] == "process" for row in rows):
        found.append(f"{path}: no process row")
    for row in rows:
        if row["commit"][:12] != name["commit"]:
            found.append(f"{path}: a row of commit {row['commit']}")
        if row["kind"] == "process":
            machine = row["machine"]
            named = (row["commit"], machine["python"], machine["torch"], machine["triton"])
            if rawlog.file_name(*named) != path.name:
                found.append(f"{path}: measured with {', '.join(named[1:])}")
        if row["kind"] == "sample" and row["operator"] != _logs.MACHINE:
            metric = metrics.METRICS.get(row["metric"])
            if metric is None or metric.unit != row["unit"]:
                found.append(f"{path}: metric {row['metric']!r} in {row['unit']!r}")
    return found


def test_every_measured_commit_is_in_the_history(committed: Path) -> None:
    """A measured commit is never amended, rebased or squashed: its numbers would be of nothing."""
    assert strangers(committed / "results", history()) == []


def test_every_raw_log_is_whole(committed: Path) -> None:
    found = [problem for path in rawlog.logs(committed / "results") for problem in problems(path)]
    assert found == []


def test_what_is_derived_is_up_to_date(committed: Path) -> None:
    if not doctor.has("pandas"):
        pytest.skip("the report needs pandas")
    from harness import report

    logs = _logs.load(committed / "results", lambda _: None)
    page, settled = report.browsed(committed, logs, ROOT)
    pages = {report.BROWSED: page} if settled else {}
    stale = set(report.stale(committed, report.derived(committed, logs) | pages))
    # A change of the tables themselves is made good by a report that is not committed yet.
    stale &= set(report.stale(ROOT, report.derived(ROOT, logs) | pages))
    assert not stale, "run: python -m harness.report"


@pytest.fixture
def planted(tmp_path: Path) -> rawlog.Writer:
    """A good log of one process and one sample."""
    commit = "0" * 40
    path = tmp_path / "box" / "raw" / rawlog.file_name(commit, "3.12", "2.11.0", "3.6.0")
    writer = rawlog.Writer(path, commit=commit, process="p")
    facts = {"python": "3.12", "torch": "2.11.0", "triton": "3.6.0"}
    writer.append("process", machine=facts, date="2026-08-22")
    plant(writer)
    return writer


def plant(writer: rawlog.Writer, metric: str = "device_us", unit: str = "us") -> None:
    """Append a sample of some operator."""
    row = {"operator": "x", "case": "m=1", "implementation": "kernels", "round": 0}
    writer.append("sample", **row, metric=metric, unit=unit, samples=[1.0])


def test_a_planted_stranger_is_found(planted: rawlog.Writer) -> None:
    results = planted.path.parents[2]
    assert strangers(results, frozenset({planted.commit})) == []
    name = f"box/raw/{planted.path.name}"
    assert strangers(results, frozenset({"1" * 40})) == [
        f"{name}: {'0' * 12}", f"{name}: {'0' * 40}",
    ]  # fmt: skip
    (results / "box" / "machine.json").write_text("{}")
    (results / "box" / "22222222-env.json").write_text(json.dumps({"commit_hash": "2" * 40}))
    assert strangers(results, frozenset({planted.commit})) == [f"box/22222222-env.json: {'2' * 40}"]


def test_planted_problems_are_found(planted: rawlog.Writer) -> None:
    path = planted.path
    assert problems(path) == []
    plant(planted, "speed")
    plant(planted, "device_us", "ms")
    plant(rawlog.Writer(path, commit="9" * 40, process="p"))
    facts = {"python": "3.11", "torch": "2.11.0", "triton": "3.6.0"}
    planted.append("process", machine=facts, date="2026-08-22")
    with path.open("ab") as file:
        file.write(b"{")
    found = problems(path)
    for words in ("'speed'", "in 'ms'", "a row of commit 999", "with 3.11", "not a whole JSON"):
        assert sum(words in problem for problem in found) == 1, (words, found)
    assert len(found) == 5

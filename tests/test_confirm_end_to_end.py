"""A night with the real gate, on a repository in which a commit is slower on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests._miniature.build import environment, run
from tests._throwaway.build import build

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("scipy", reason="the gate needs scipy")
pytest.importorskip("rich", reason="the gate needs rich")
pytestmark = [pytest.mark.cpu, pytest.mark.long]
MACHINE = "box-of-this-test"
# Raw logs of two commits, whole, and the second seems to take twice as long: in that repository, with
# its cases.  pause has no kernel, so its device time is of our making, and the gate has the host's.
SWEEP = """
import sys
from pathlib import Path
from benchmarks import cases, fingerprint, rawlog, tasks
from benchmarks.metrics import METRICS

facts = fingerprint.fingerprint()
for number, commit in enumerate(sys.argv[2:], 1):
    name = rawlog.file_name(commit, facts["python"], facts["torch"], facts["triton"])
    path = Path("results") / sys.argv[1] / "raw" / name
    log = rawlog.Writer(path, commit=commit, process="p")
    log.append("process", machine=facts, date="2026-08-22T00:00:00Z")

    def put(case, implementation, metric, value, stem, round=0):
        log.append("sample", operator=stem, case=case, implementation=implementation, metric=metric,
                   unit=METRICS[metric].unit, round=round, samples=[value])

    for stem in cases.names():
        for phase in ("codegen", "run"):
            for task in tasks.tasks(stem, phase, hopper=fingerprint.has_hopper()):
                put(task.case, task.implementation, task.last, 1.0, stem, task.round)
    put("n=1", "kernels", "device_us", 100.0 * number, "pause")
(Path("results") / sys.argv[1] / "baseline").write_text(sys.argv[2])
"""


def test_a_slower_commit_is_confirmed_and_gets_an_issue(tmp_path: Path) -> None:
    root = tmp_path / "project"
    commits = build(root)
    base, head = commits["first"], commits["slower"]
    variables = environment() | {"FP8_BENCH_MACHINE": MACHINE, "GITHUB_REPOSITORY": "owner/fp8"}
    command = [sys.executable, "-c", SWEEP, MACHINE, base, head]
    subprocess.run(command, cwd=root, env=variables, check=True)

    def nightly(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(
            root, "harness.nightly", *arguments, "--commit", head,
            FP8_BENCH_MACHINE=MACHINE, GITHUB_REPOSITORY="owner/fp8",
        )  # fmt: skip

    assert nightly("verdict").returncode == 10
    done = nightly("confirm", "--blocks", "2")
    assert done.returncode == 10, done.stdout + done.stderr
    assert nightly("advance").returncode == 10
    body = nightly("issue-body", "--issues", "issues.json")
    assert body.returncode == 0, body.stderr
    opened = [one for one in json.loads((root / "issues.json").read_text()) if one["new"]]
    assert [one["title"] for one in opened] == [f"pause: cpu_us regressed on {MACHINE}"]
    for text in (opened[0]["body"], body.stdout):
        lines = [line for line in text.splitlines() if "| n=1 | reference cpu_us" in line]
        assert len(lines) == 1, text
        assert "| regressed |" in lines[0]
        assert {base, head} <= set(text.replace(".", " ").replace("/", " ").split())
        assert "https://owner.github.io/fp8/" in text
    marks = json.loads((root / "results/verdicts.json").read_text())
    held = {(one["commit"], one["case"], one["metric"], one["verdict"]) for one in marks}
    assert held == {(head, "n=1", "cpu_us", "regressed")}
    log = root / "results" / MACHINE / "gate" / f"{base[:12]}-{head[:12]}.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert {row["case"] for row in rows if row["kind"] == "sample"} == {"n=1"}

"""The nightly job's steps, on a small repository, a bare remote and a gh that keeps what it is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import fingerprint, rawlog
from harness import _issues, _results_branch, nightly
from tests._nights import CASE, MACHINE, OPERATOR, STEADY, Project, git, scaled, whole


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    return Project(root)


@pytest.fixture
def slower(project: Project) -> Project:
    """The project, measured: HEAD takes half as long again as the baseline."""
    project.baseline(project.base)
    project.log(project.base).put("device_us", STEADY)
    project.log(project.head).put("device_us", scaled(1.5))
    return project


def test_the_first_night_has_no_baseline(project: Project) -> None:
    log = project.log(project.head)
    assert project.call("advance") == 12
    log.put("device_us", STEADY)
    assert project.call("verdict") == 0
    assert project.call("advance") == 0
    assert nightly.read_baseline(project.results, MACHINE) == project.head


def test_the_baseline_advances_on_a_clean_run_only(slower: Project) -> None:
    assert slower.call("advance") == 10
    assert nightly.read_baseline(slower.results, MACHINE) == slower.base
    assert slower.call("advance", "--accept") == 0
    assert nightly.read_baseline(slower.results, MACHINE) == slower.head


@pytest.mark.parametrize("content", ["", "main", "0" * 40])
def test_a_baseline_that_is_no_commit_is_broken(
    project: Project, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project.baseline(content)
    project.log(project.head).put("device_us", STEADY)
    assert project.call("new-commits") == 1
    assert content in capsys.readouterr().err


def commits(project: Project, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert nightly.main(["new-commits"]) == 0
    return capsys.readouterr().out.split()


def test_a_sweep_that_did_not_end_is_no_baseline(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(fingerprint.MACHINE_VARIABLE, MACHINE)
    log = project.log(project.head, **fingerprint.fingerprint()).put("registers", [8])
    assert project.call("advance") == 1
    assert project.call("verdict") == 1
    assert "did not come to its end" in capsys.readouterr().out
    whole(log)
    assert project.call("advance") == 0


def test_new_commits(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that lack anything in this environment; a log cut short lacks something."""
    monkeypatch.setenv(fingerprint.MACHINE_VARIABLE, MACHINE)
    here = fingerprint.fingerprint()
    assert commits(project, capsys) == [project.head]
    project.baseline(project.base)
    assert commits(project, capsys) == project.commits
    for commit in (project.base, project.middle):
        whole(project.log(commit, **here))
    assert commits(project, capsys) == [project.head]
    (path,) = rawlog.logs(project.results, commit=project.middle)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    assert commits(project, capsys) == [project.middle, project.head]


def test_a_baseline_of_another_history_is_broken(project: Project) -> None:
    git(project.root, "checkout", "--quiet", "--orphan", "other")
    git(project.root, "commit", "--quiet", "--allow-empty", "--message", "other")
    project.baseline(git(project.root, "rev-parse", "HEAD"))
    assert project.call("new-commits", "--commit", "main") == 1


def test_the_issue_holds_numbers_and_no_words_of_others(
    slower: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slower.call("issue-body") == 0
    text = capsys.readouterr().out
    row = f"| `{OPERATOR}` | `{CASE}` | device_us us | 100 (99.5 to 100.5) | 150 (149.25 to 150.75) | 1.500 |"
    assert row in text.splitlines()
    assert f"since the baseline: {slower.middle}, {slower.head}" in text
    assert "what follows is a suspicion" in text
    assert "@" not in text


def test_results_travel_by_their_branch(project: Project, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    git(project.root, "remote", "add", "origin", str(remote))
    assert project.call("restore") == 0
    project.log(project.base).put("device_us", STEADY)
    project.baseline(project.base)
    (project.results / "README.md").write_text("main's, and not the machines'")
    (project.results / "verdicts.json").write_text("[]")
    (project.results / "issues.json").write_text("this night's, and not kept")
    assert project.call("store") == 0
    first = git(remote, "rev-parse", "results")
    git(project.root, "fetch", "--quiet", "origin")
    assert project.call("store") == 0
    assert git(remote, "rev-parse", "results") == first, "nothing new was committed"
    project.log(project.head).put("device_us", STEADY)
    assert project.call("store") == 0
    assert git(remote, "rev-parse", "results^") == first

    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(remote), str(other), "--branch", "results")
    assert _results_branch.restore(other, other / "fresh", "results") == 0
    held = {str(path.relative_to(other / "fresh")) for path in (other / "fresh").rglob("*.*")}
    logs = {str(path.relative_to(project.results)) for path in rawlog.logs(project.results)}
    assert held == {*logs, "verdicts.json"}
    assert nightly.read_baseline(other / "fresh", MACHINE) == project.base
    assert git(project.root, "status", "--porcelain") == "?? results/", "no file was staged"


def test_a_push_in_between_is_not_overwritten(project: Project, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    git(project.root, "remote", "add", "origin", str(remote))
    git(project.root, "push", "--quiet", "origin", "main:results")
    git(project.root, "update-ref", "-d", "refs/remotes/origin/results")
    before = git(remote, "rev-parse", "results")
    project.baseline(project.base)
    assert project.call("store") == 1
    assert git(remote, "rev-parse", "results") == before


GH = """#!/bin/sh
printf '%s\\n' "$*" >> calls
case "$1 $2" in
  "issue list") cat open.json ;;
  "issue create"|"issue edit") cat >> told; echo https://localhost/9 ;;
esac
"""


@pytest.fixture
def gh(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gh that keeps what it is asked (``calls``) and told (``told``); what is open is in open.json."""
    program = project.root / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(GH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return project.root


def asked(gh: Path) -> list[str]:
    """Calls about issues, without what they are told."""
    calls = (gh / "calls").read_text().splitlines()
    return [call.removesuffix(" --body-file -") for call in calls if call.startswith("issue")]


LIST = "issue list --label nightly-regression --state open --limit 500 --json number,title"
OPENED = [
    {"number": 8, "title": "fp8_gemm: device_us regressed on box"},
    {"number": 7, "title": "fp8_gemm: device_us regressed on box"},
    {"number": 9, "title": "fp8_gemm: device_us regressed on box"},
    {"number": 3, "title": "fp8_gemm: device_us regressed on box2"},
]


@pytest.mark.parametrize(
    ("title", "new", "expected"),
    [
        ("fp8_gemm: device_us regressed on box", True, "issue edit 7"),
        ("fp8_gemm: device_us regressed on box", False, "issue edit 7"),
        (
            "wgmma: device_us regressed on box", True,
            "issue create --title wgmma: device_us regressed on box --label nightly-regression",
        ),
        ("wgmma: device_us regressed on box", False, None),
    ],
)  # fmt: skip
def test_a_regressions_issue_is_updated_or_opened(
    project: Project, gh: Path, title: str, new: bool, expected: str | None
) -> None:
    """By its whole title, the oldest of several; what did not regress opens none."""
    (gh / "open.json").write_text(json.dumps(OPENED))
    _issues.write(gh / "issues.json", [_issues.Issue(title, "the text", new)])
    assert project.call("issue", "--issues", "issues.json") == 0
    assert asked(gh) == [LIST, *([expected] if expected else [])]
    assert (gh / "told").exists() == bool(expected)
    if expected:
        assert (gh / "told").read_text() == "the text"


@pytest.mark.parametrize("content", [None, "{", "7", '[{"title": "no body"}]'])
def test_a_file_that_holds_no_issues_is_broken(
    project: Project, gh: Path, content: str | None
) -> None:
    if content is not None:
        (gh / "issues.json").write_text(content)
    assert project.call("issue", "--issues", "issues.json") == 1
    assert not (gh / "calls").exists()


def test_a_foreign_file_is_named_and_costs_nothing(
    slower: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = slower.results / MACHINE / "raw"
    (raw / "notes.jsonl").write_text(json.dumps({"not": "ours"}))
    assert slower.call("verdict") == 10
    assert "notes.jsonl" in capsys.readouterr().err

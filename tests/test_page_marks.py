"""Verdicts, notes and the history's changes beside the numbers: what is read, what is refused."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from harness import _history, _logs, _page_changes, _page_marks
from tests._tree import CASE, LAPTOP, Box, put

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"commit": "a" * 40, "verdict": "regressed", "operator": "fp8_gemm", "metric": "device_us"}
NOTE = {"commit": "b" * 7, "text": "another driver"}


def read(folder: Path, name: str, content: Any) -> tuple[list[dict[str, str]], list[str]]:
    """The marks of one file, and what was said about it."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    said: list[str] = []
    return _page_marks.load(folder, said.append), said


def test_without_files_there_are_none(tmp_path: Path) -> None:
    said: list[str] = []
    assert _page_marks.load(tmp_path, said.append) == []
    assert said == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_verdicts_and_notes_are_read(tmp_path: Path, wrapped: bool) -> None:
    held = [GOOD, NOTE]
    found, said = read(tmp_path, "verdicts", {"verdicts": held} if wrapped else held)
    assert said == []
    assert found == [GOOD | {"commit": "a" * 12}, NOTE]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ({"other": []}, "expected a list"),
        ([7], "expected an object, got int"),
        ([{"text": "no commit"}], "expected a commit"),
        ([{"commit": "HEAD", "text": "not a hash"}], "got 'HEAD'"),
        ([{"commit": "a" * 12}], "neither a verdict nor a text"),
        ([{"commit": "a" * 12, "verdict": "worse"}], "got 'worse'"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, content: Any, words: str) -> None:
    found, said = read(tmp_path, "verdicts", content)
    assert found == []
    assert len(said) == 1
    assert "verdicts.json" in said[0]
    assert words in said[0]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def measured(tmp_path: Path) -> list[str]:
    """Commits of which one spills more and the next as before; the last has more registers."""
    git(tmp_path, "init", "--quiet")
    commits = []
    for spills, registers in ((0, 90), (16, 90), (0, 96)):
        git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=m")
        commits.append(git(tmp_path, "rev-parse", "HEAD"))
        writer = Box(tmp_path, "laptop", LAPTOP).log(commits[-1])
        put(writer, "spills", [spills])
        put(writer, "registers", [registers])
    return commits


def changes(root: Path) -> tuple[list[tuple[str, ...]], list[str]]:
    """(metric, commit, word, text) of what is marked, and what was said."""
    said: list[str] = []
    logs = _logs.load(root / "results", said.append)
    annotations = root / "results" / "annotations.toml"
    found = _page_changes.marks(logs, root, _history.commits(root), annotations, said.append)
    assert all(mark[:3] == ("laptop", "fp8_gemm", CASE) for mark in found)
    return [mark[3:] for mark in found], said


def test_what_the_history_finds_is_marked(tmp_path: Path, measured: list[str]) -> None:
    first, second, third = measured
    found, said = changes(tmp_path)
    assert said == []
    assert sorted(found) == sorted([
        ("registers", third[:12], "regressed", f"90 to 96 registers, since {second[:8]}"),
        ("spills", second[:12], "recovered", f"0 to 16 B, since {first[:8]}\nbrought back by {third[:8]}"),
        ("spills", third[:12], "improved", f"16 to 0 B, since {second[:8]}"),
    ])  # fmt: skip
    annotation = f'[[accepted]]\ncommit = "{third}"\noperator = "fp8_gemm"\nreason = "wider"\n'
    (tmp_path / "results" / "annotations.toml").write_text(annotation)
    (accepted,) = [mark for mark in changes(tmp_path)[0] if mark[0] == "registers"]
    assert accepted[2:] == ("accepted", f"90 to 96 registers, since {second[:8]}\nwider")


def test_a_history_that_cannot_be_told_marks_nothing(tmp_path: Path, measured: list[str]) -> None:
    assert _page_changes.marks([], tmp_path, {}, tmp_path, pytest.fail) == []
    (tmp_path / "results" / "annotations.toml").write_text('[[accepted]]\ncommit = "HEAD"\n')
    found, said = changes(tmp_path)
    assert found == []
    assert "no change is marked" in said[0]
    git(tmp_path, "checkout", "--quiet", measured[0])
    (tmp_path / "results" / "annotations.toml").unlink()
    assert changes(tmp_path) == ([], [])

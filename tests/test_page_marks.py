"""Verdicts and notes beside the numbers: what is read, what is refused, and by which name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from harness import _page_marks

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
    read(tmp_path, "verdicts", {"verdicts": [GOOD]} if wrapped else [GOOD])
    found, said = read(tmp_path, "annotations", {"annotations": [NOTE]} if wrapped else [NOTE])
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

"""Collecting the processes of one commit for the self-test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rawlog, sweep, worker
from benchmarks.fingerprint import fingerprint
from gate import aa
from harness.bench import BenchError

COMMIT = "ab" * 20


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Instead of processes: what each ends with, None for well, taken from the front."""
    ends: list[str | None] = []

    def watch(command: list[str], variables: Any, tell: Any) -> tuple[None, str | None]:
        _, _, _, _, _, path, commit, process, number, chosen, _ = command
        reason = ends.pop(0) if ends else None
        if reason is None:
            (stem,) = json.loads(chosen)
            row = {
                "operator": stem, "case": "c", "implementation": "kernels", "metric": "device_us",
                "unit": "us", "round": int(number) + 1, "samples": [1.0],
            }  # fmt: skip
            writer = rawlog.Writer(Path(path), commit=commit, process=process)
            writer.append_all("sample", [row])
        return None, reason

    monkeypatch.setattr(sweep, "watch", watch)
    return ends


def collect(path: Path, processes: int, *, commit: str = COMMIT, minutes: float = 1.0) -> int:
    return aa.collect(path, commit, {"act_quant": ["c"]}, processes, minutes, lambda _: None)


def numbers(path: Path) -> list[int]:
    return [row["round"] for row in rawlog.read(path, pytest.fail) if row["kind"] == "sample"]


def test_collecting_goes_on_where_it_stopped(tmp_path: Path, fake: list[str | None]) -> None:
    path = tmp_path / "aa.jsonl"
    assert collect(path, 2) == 0
    assert collect(path, 5) == 0
    assert numbers(path) == [1, 2, 3, 4, 5]
    rows = rawlog.read(path, pytest.fail)
    assert sum(row["kind"] == "process" for row in rows) == 1
    assert collect(path, 5) == 0
    assert len(numbers(path)) == 5


def test_a_failed_process_costs_itself(tmp_path: Path, fake: list[str | None]) -> None:
    fake[:] = [None, "killed by SIGKILL", None, "exit code 1"]
    assert collect(tmp_path / "a", 4) == 0
    assert len(numbers(tmp_path / "a")) == 4
    fake[:] = [None, *["killed by SIGKILL"] * 3]
    assert collect(tmp_path / "b", 4) == 1
    assert len(numbers(tmp_path / "b")) == 1


def test_time_is_kept(tmp_path: Path, fake: list[str | None]) -> None:
    assert collect(tmp_path / "aa", 4, minutes=-1) == 11


def test_other_numbers_are_not_added_to(
    tmp_path: Path, fake: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "aa"
    collect(path, 1)
    with pytest.raises(BenchError, match="commit"):
        collect(path, 2, commit="cd" * 20)
    with pytest.raises(BenchError, match="other cases"):
        aa.collect(path, COMMIT, {"fp8_gemm": ["c"]}, 2, 1.0, lambda _: None)
    monkeypatch.setattr(aa, "fingerprint", lambda: fingerprint() | {"driver": "1"})
    with pytest.raises(BenchError, match="another machine"):
        collect(path, 2)


@pytest.mark.parametrize("hopper", [True, False])
def test_cases_are_small_and_large_ones(hopper: bool) -> None:
    chosen = aa.choose(aa.OPERATORS, 3, hopper=hopper)
    assert list(chosen) == list(aa.OPERATORS)
    assert all(1 <= len(labels) == len(set(labels)) <= 3 for labels in chosen.values())
    if hopper:
        assert all(len(labels) == 3 for labels in chosen.values())
    with pytest.raises(ValueError, match="operator"):
        aa.choose(["act_qant"], 3, hopper=hopper)


def test_a_child_writes_its_numbers_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "end_with", lambda _: None)
    monkeypatch.setattr(aa, "has_hopper", lambda: False)
    chosen = aa.choose(["act_quant"], 1, hopper=False)
    path = tmp_path / "aa.jsonl"
    aa.child([str(path), COMMIT, "p", "4", json.dumps(chosen), "1"])
    (row,) = rawlog.read(path, pytest.fail)
    assert (row["metric"], row["round"], row["process"]) == ("cpu_us", 5, "p")
    with pytest.raises(ValueError, match="no case"):
        aa.child([str(path), COMMIT, "q", "5", json.dumps({"act_quant": ["m=0"]}), "1"])
    assert len(rawlog.read(path, pytest.fail)) == 1

"""The raw log loses at most the line that a crash cut short, and says which."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rawlog

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
KEY = rawlog.Key("act_quant", "m=64,k=512", "kernels", "device_us")

APPENDER = """
import sys
from pathlib import Path
from benchmarks import rawlog
path, process, rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
writer = rawlog.Writer(path, commit="0123456789abcdef", process=process)
for index in range(rows):
    writer.append(
        "sample", operator="act_quant", case="m=1", implementation="kernels", metric="device_us",
        unit="us", round=index, samples=[float(index)] * 50,
    )
"""


def appender(path: Path, process: str, rows: int) -> subprocess.Popen[bytes]:
    """A process of its own that appends ``rows`` samples to the log."""
    return subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(path), process, str(rows)], cwd=ROOT
    )


def sample(writer: rawlog.Writer, values: list[float], index: int = 0, **more: Any) -> None:
    """Append a round of device times."""
    writer.append(
        "sample", operator=KEY.operator, case=KEY.case, implementation=KEY.implementation,
        metric=KEY.metric, unit="us", round=index, samples=values, **more,
    )  # fmt: skip


def status(writer: rawlog.Writer, word: str, **more: Any) -> None:
    """Append a status of the same operator, case and implementation."""
    row = {"phase": "run", "reason": "why"} | more
    writer.append(
        "status", operator=KEY.operator, case=KEY.case, implementation=KEY.implementation,
        status=word, **row,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "box" / "raw" / rawlog.file_name(COMMIT, "3.12", "2.11.0+cu130", "3.6.0")


@pytest.fixture
def writer(path: Path) -> rawlog.Writer:
    return rawlog.Writer(path, commit=COMMIT, process="one")


def silent(text: str) -> None:
    """A warning is a failure."""
    pytest.fail(f"unexpected warning: {text}")


def test_file_name_names_the_environment(path: Path) -> None:
    assert path.name == "0123456789ab-py3.12-torch2.11.0-triton3.6.0.jsonl"
    assert rawlog.file_name(COMMIT, "3.12", "a/b", "c d").count("/") == 0


def test_rows_come_back_as_written(writer: rawlog.Writer, path: Path) -> None:
    writer.append("process", machine={"gpu": "none"}, date="2026-08-22")
    sample(writer, [1.5, 2.5], throttled=True)
    status(writer, "died", reason="signal 9")
    rows = rawlog.read(path, silent)
    assert [row["kind"] for row in rows] == ["process", "sample", "status"]
    assert {row["commit"] for row in rows} == {COMMIT}
    assert {row["process"] for row in rows} == {"one"}
    assert rows[1]["samples"] == [1.5, 2.5]
    assert all(row["time"].endswith("+00:00") for row in rows)


def test_a_row_that_lacks_a_field_is_not_written(writer: rawlog.Writer, path: Path) -> None:
    with pytest.raises(ValueError, match=r"a status row needs .*status"):
        writer.append("status", operator="x", case="y", implementation="kernels", phase="run")
    assert not path.exists()


def test_rows_that_belong_together_are_written_together(
    writer: rawlog.Writer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = KEY._asdict() | {"unit": "us", "round": 0, "value": 1.0}
    with pytest.raises(ValueError, match="a sample row needs unit"):
        writer.append_all("sample", [row, {name: row[name] for name in row if name != "unit"}])
    assert not path.exists()
    written: list[bytes] = []
    monkeypatch.setattr(os, "write", lambda _, data: written.append(data))
    writer.append_all("sample", [row, row | {"round": 1}])
    writer.append_all("sample", [])
    assert [data.count(b"\n") for data in written] == [2]


@pytest.mark.parametrize("kept", [1, 40])
def test_a_cut_line_is_named_and_costs_itself_alone(
    writer: rawlog.Writer, path: Path, kept: int
) -> None:
    """Cut after one byte, and in the middle: the next row starts on a line of its own."""
    sample(writer, [1.0])
    whole = path.stat().st_size
    sample(writer, [2.0], index=1)
    os.truncate(path, whole + kept)
    sample(writer, [3.0], index=2)
    named: list[str] = []
    rows = rawlog.read(path, named.append)
    assert [row["samples"] for row in rows] == [[1.0], [3.0]]
    assert len(named) == 1
    assert f"{path}:2: skipped" in named[0]


def test_a_cut_that_leaves_the_newline_off_loses_nothing(writer: rawlog.Writer, path: Path) -> None:
    sample(writer, [1.0])
    os.truncate(path, path.stat().st_size - 1)
    sample(writer, [2.0], index=1)
    assert [row["samples"] for row in rawlog.read(path, silent)] == [[1.0], [2.0]]


def test_kill_9_while_writing(path: Path) -> None:
    """Every line but the last is whole, and the log can be appended to."""
    process = appender(path, "killed", 1_000_000)
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size > 5_000):
        assert time.monotonic() < deadline, "the child wrote nothing"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    named: list[str] = []
    before = rawlog.read(path, named.append)
    assert [row["round"] for row in before] == list(range(len(before)))
    assert len(named) <= 1
    sample(rawlog.Writer(path, commit=COMMIT, process="next"), [7.0], index=9)
    assert [row["process"] for row in rawlog.read(path, lambda _: None)][-1] == "next"
    assert len(rawlog.read(path, lambda _: None)) == len(before) + 1


def test_two_writers_lose_nothing(path: Path) -> None:
    writers = [appender(path, name, 200) for name in ("left", "right")]
    assert [process.wait(timeout=120) for process in writers] == [0, 0]
    rows = rawlog.read(path, silent)
    for name in ("left", "right"):
        assert [row["round"] for row in rows if row["process"] == name] == list(range(200))


def test_a_foreign_file_is_named_and_yields_nothing(tmp_path: Path) -> None:
    foreign = tmp_path / "notes.jsonl"
    foreign.write_bytes(b'{"hello": 1}\n[1, 2]\n\xff\xfe\x00\nnot json\n\n')
    named: list[str] = []
    assert rawlog.read(foreign, named.append) == []
    assert [text.split(":")[1] for text in named] == ["1", "2", "3", "4"]
    missing: list[str] = []
    assert rawlog.read(tmp_path / "absent.jsonl", missing.append) == []
    assert len(missing) == 1
    assert "not read" in missing[0]


def test_an_old_row_is_brought_up_to_today(path: Path) -> None:
    """And the file stays as it was written."""
    kernel = {"name": "k", "sass_code": "0123", "grid": [1]}
    row = {
        "schema": 1, "kind": "sample", "commit": "c", "process": "p", "time": "t", "operator": "op",
        "case": "m=1", "implementation": "kernels", "metric": "registers", "unit": "", "round": 0,
        "value": 3, "detail": {"kernels": [kernel]},
    }  # fmt: skip
    plain = {name: value for name, value in row.items() if name != "detail"}
    text = json.dumps(row) + "\n" + json.dumps(plain) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    named: list[str] = []
    read = rawlog.read(path, named.append)
    newer = {"kernels": [kernel | {"launch": ""}]}
    assert read == [
        row | {"schema": rawlog.SCHEMA, "detail": newer},
        plain | {"schema": rawlog.SCHEMA},
    ]
    assert named == []
    assert path.read_text() == text


@pytest.mark.parametrize("schema", [True, "1", None, 0, -1, 1.0])
def test_a_schema_that_is_none_is_named(path: Path, schema: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": schema, "kind": "sample"}) + "\n")
    named: list[str] = []
    assert rawlog.read(path, named.append) == []
    assert "schema" in named[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 99}, f"schema 99, expected {rawlog.SCHEMA}"),
        ({"kind": "rumour"}, "kind 'rumour'"),
        ({"metric": None}, "without metric"),
        ({"samples": []}, "without numbers"),
        ({"samples": None}, "without numbers"),
        ({"samples": ["fast"]}, "without numbers"),
        ({"samples": [True]}, "without numbers"),
        ({"samples": 3.0}, "without numbers"),
    ],
)
def test_a_wrong_row_is_named(
    writer: rawlog.Writer, path: Path, change: dict[str, Any], said: str
) -> None:
    """``None`` in the change leaves the field out."""
    sample(writer, [1.0])
    row = json.loads(path.read_text()) | change
    wrong = {name: value for name, value in row.items() if value is not None}
    path.write_text(json.dumps(wrong) + "\n")
    sample(writer, [2.0], index=1)
    named: list[str] = []
    assert [row["samples"] for row in rawlog.read(path, named.append)] == [[2.0]]
    assert len(named) == 1
    assert said in named[0]


def test_one_value_counts_as_one_sample(writer: rawlog.Writer, path: Path) -> None:
    row = {"operator": "a", "case": "b", "implementation": "c", "unit": "B", "round": 0}
    writer.append("sample", **row, metric="spills", value=0)
    (measured,) = rawlog.collect(rawlog.read(path, silent)).values()
    assert list(measured.samples) == [0]
    assert measured.median == 0


def test_rounds_are_pooled_and_the_newest_of_each_counts(writer: rawlog.Writer, path: Path) -> None:
    sample(writer, [10.0, 12.0], index=1, detail={"old": 1})
    sample(writer, [99.0], index=0, throttled=True)
    sample(writer, [1.0, 2.0, 3.0], index=0, detail={"old": 0})
    measured = rawlog.collect(rawlog.read(path, silent))
    assert set(measured) == {KEY}
    held = measured[KEY]
    assert held.samples == (1.0, 2.0, 3.0, 10.0, 12.0)
    assert (held.rounds, held.median, held.unit) == (2, 3.0, "us")
    assert not held.throttled, "the throttled round was measured again"
    sample(writer, [4.0], index=2, throttled=True)
    assert rawlog.collect(rawlog.read(path, silent))[KEY].throttled


def test_keys_are_kept_apart(writer: rawlog.Writer, path: Path) -> None:
    """Each part of the key alone tells two numbers apart."""
    for index, field in enumerate(KEY._fields):
        row = KEY._asdict() | {field: f"other {field}"}
        writer.append("sample", **row, unit="us", round=0, samples=[float(index)])
    sample(writer, [9.0])
    measured = rawlog.collect(rawlog.read(path, silent))
    assert {held.samples for held in measured.values()} == {(0.0,), (1.0,), (2.0,), (3.0,), (9.0,)}
    assert all(key == held.key for key, held in measured.items())


def test_a_later_sample_supersedes_a_status(writer: rawlog.Writer, path: Path) -> None:
    which = (KEY.operator, KEY.case, KEY.implementation, "run")
    status(writer, "died", reason="signal 11")
    assert rawlog.statuses(rawlog.read(path, silent)) == {which: ("died", "signal 11")}
    sample(writer, [1.0])
    assert rawlog.statuses(rawlog.read(path, silent)) == {}
    status(writer, "failed")
    assert rawlog.statuses(rawlog.read(path, silent)) == {which: ("failed", "why")}


def test_a_sample_of_one_phase_leaves_the_other_phases_status(
    writer: rawlog.Writer, path: Path
) -> None:
    status(writer, "failed", phase="codegen")
    sample(writer, [1.0])
    which = (KEY.operator, KEY.case, KEY.implementation, "codegen")
    assert rawlog.statuses(rawlog.read(path, silent)) == {which: ("failed", "why")}


@pytest.mark.parametrize(("word", "kept"), [("failed", False), ("died", True), ("n/a", True)])
def test_what_was_found_wrong_has_no_numbers(
    writer: rawlog.Writer, path: Path, word: str, kept: bool
) -> None:
    sample(writer, [1.0])
    writer.append("sample", **KEY._replace(metric="spills")._asdict(), unit="B", round=0, value=8)
    status(writer, word)
    metrics = {key.metric for key in rawlog.collect(rawlog.read(path, silent))}
    assert metrics == ({"device_us", "spills"} if kept else {"spills"})


def test_logs_are_found_by_machine_and_commit(tmp_path: Path) -> None:
    other = "f" * 40
    for machine in ("a", "b"):
        for commit in (COMMIT, other):
            name = rawlog.file_name(commit, "3.12", "2.13.0", "3.7.1")
            path = tmp_path / machine / "raw" / name
            sample(rawlog.Writer(path, commit=commit, process="p"), [1.0])
    (tmp_path / "a" / "machine.json").write_text("{}")
    assert len(list(rawlog.logs(tmp_path))) == 4
    (found,) = rawlog.logs(tmp_path, "b", other)
    assert found.parts[-3] == "b"
    assert found.name.startswith("ffffffffffff-")

"""summary.csv says what the raw logs say, and --check tells when it, or a page, does not."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import pytest

from benchmarks import rawlog
from tests._tree import CASE, H200, NEW, OLD, SMALL, TIMES, Box, grow, put, rows

pandas = pytest.importorskip("pandas", reason="the report needs pandas")

from harness import _logs, report  # noqa: E402  (after the skip above)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tree; nothing is drawn, which takes a second."""
    monkeypatch.setattr(report, "draw", lambda *_: "not drawn")
    return grow(tmp_path)


def run(root: Path, *arguments: str) -> int:
    """The command on this tree."""
    return report.main(["--root", str(root), *arguments])


def test_the_columns_are_exactly_these(root: Path) -> None:
    run(root)
    header = (root / "results" / "summary.csv").read_text().splitlines()[0]
    assert header == (
        "machine,gpu,driver,torch,triton,commit,date,operator,case,implementation,metric,value,unit,"
        "q25,q75,samples,throttled"
    )
    read = pandas.read_csv(root / "results" / "summary.csv", keep_default_na=False)
    assert list(read.columns) == list(report.COLUMNS)
    assert pandas.api.types.is_numeric_dtype(read["value"])
    assert read["throttled"].dtype == bool


def test_the_summary_is_what_statistics_gives(root: Path) -> None:
    run(root)
    pooled = [value for values in TIMES for value in values]
    low, middle, high = statistics.quantiles(pooled, n=4, method="inclusive")
    assert middle == statistics.median(pooled)
    (row,) = rows(root, commit=NEW[:12], case=CASE, implementation="kernels", metric="device_us")
    assert [float(row[name]) for name in ("q25", "value", "q75")] == [low, middle, high]
    assert (row["samples"], row["unit"], row["throttled"]) == ("7", "us", "False")
    assert (row["machine"], row["gpu"], row["driver"]) == ("nvidia-h200", "NVIDIA H200", "580.159")
    assert (row["torch"], row["triton"], row["date"]) == ("2.11.0", "3.6.0", "2026-08-22T10:00:00Z")
    (throttled,) = rows(root, throttled="True")
    assert (throttled["case"], throttled["implementation"]) == (SMALL, "cublaslt")
    (spills,) = rows(root, machine="laptop")
    assert (spills["value"], spills["unit"], spills["gpu"], spills["samples"]) == (
        "16",
        "B",
        "none",
        "1",
    )


def test_every_key_has_one_row_in_a_fixed_order(root: Path) -> None:
    run(root)
    logs = _logs.load(root / "results", lambda _: None)
    assert len(rows(root)) == sum(len(log.measured) for log in logs)
    first = (root / "results" / "summary.csv").read_bytes()
    run(root)
    assert (root / "results" / "summary.csv").read_bytes() == first
    order = [(row["machine"], row["date"], row["operator"], row["case"]) for row in rows(root)]
    assert order == sorted(order)


def test_what_cannot_be_used_is_named_and_costs_itself_alone(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = root / "results" / "nvidia-h200" / "raw"
    (raw / "cccccccccccc-py3.12-torch2.11.0-triton3.6.0.jsonl").write_text('{"schema": 7}\n')
    stray = next(raw.glob("a*.jsonl"))
    put(rawlog.Writer(stray, commit=NEW, process="q"), "device_us", [1.0])
    put(rawlog.Writer(stray, commit=OLD, process="q"), "speed", [1.0])
    run(root)
    said = capsys.readouterr().err.splitlines()
    for words in (
        "notes.jsonl",
        "not a whole JSON object",
        "cccccccccccc",
        "a row of commit bbbb",
        "'speed'",
    ):
        assert sum(words in line for line in said) == 1, (words, said)
    assert len(said) == 5
    (row,) = rows(root, commit=OLD[:12], machine="nvidia-h200")
    assert float(row["value"]) == 800.0


def test_machine_facts_are_the_newest_process_rows(root: Path) -> None:
    writer = Box(root, "nvidia-h200", H200 | {"driver": "590.1"}).log(NEW)
    put(writer, "peak_bytes", [0])
    run(root)
    assert {row["driver"] for row in rows(root, commit=NEW[:12])} == {"590.1"}
    assert {row["driver"] for row in rows(root, machine="nvidia-h200", commit=OLD[:12])} == {
        "580.159"
    }


def test_a_log_without_its_process_row_keeps_its_numbers(root: Path) -> None:
    name = rawlog.file_name(NEW, "3.11", "2.11.0", "3.6.0")
    path = root / "results" / "lost" / "raw" / name
    put(rawlog.Writer(path, commit=NEW, process="p"), "spills", [0])
    run(root)
    (row,) = rows(root, machine="lost")
    assert (row["gpu"], row["date"], row["value"]) == ("unknown", "unknown", "0")


def test_check_tells_a_stale_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--check") == 1
    assert not (root / "results" / "summary.csv").exists(), "--check writes nothing"
    assert run(root) == 0
    assert run(root, "--check") == 0
    capsys.readouterr()
    for name in ("README.md", "results/README.md", "results/summary.csv"):
        whole = (root / name).read_text()
        (root / name).write_text(whole.replace("nvidia-h200", "nvidia-h201", 1))
        assert run(root, "--check") == 1
        stale = [
            line.split(":")[0]
            for line in capsys.readouterr().err.splitlines()
            if "python -m" in line
        ]
        assert stale == [name]
        (root / name).write_text(whole)


def test_text_outside_the_marks_is_nobodys_business(root: Path) -> None:
    run(root)
    page = root / "README.md"
    page.write_text(page.read_text() + "A new paragraph.\n")
    assert run(root, "--check") == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- table: fp8_gem -->\n<!-- end table -->", "no table fp8_gem"),
        ("<!-- table: launch -->\n", "without its"),
        ("<!-- end table -->\n", "without its"),
        ("<!-- table: launch -->\n<!-- table: codegen -->\n<!-- end table -->", "without its"),
    ],
)
def test_a_mark_that_cannot_be_filled_is_refused(root: Path, text: str, said: str) -> None:
    (root / "README.md").write_text(text)
    with pytest.raises(SystemExit, match=said):
        run(root)


@pytest.mark.parametrize(
    "samples", [[5.0], [2.0, 1.0], [3.0, 1.0, 2.0], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]]
)
def test_quantiles(samples: list[float]) -> None:
    wanted = statistics.quantiles(samples, n=4, method="inclusive") if samples[1:] else samples * 3
    assert [_logs.quantile(samples, part) for part in (0.25, 0.5, 0.75)] == pytest.approx(wanted)


def test_quantiles_of_what_is_not_finite() -> None:
    assert _logs.quantile([math.inf, math.inf], 0.25) == math.inf
    assert math.isnan(_logs.quantile([1.0, math.nan, 2.0], 0.5))
    assert [report.number(value) for value in (math.inf, math.nan)] == ["inf", "nan"]

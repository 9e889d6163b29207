"""harness.bottleneck: what it asks ncu for, what it makes of the answer, and its page."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cases, fingerprint
from harness import bottleneck, doctor

UNITS = {"us": "nsecond", "memory": "%", "warps": "warp"}
VALUES = {
    "us": "12,300",
    "memory": "61.5",
    "l2": "30",
    "issue": "92",
    "warps": "31.6",
    "programs": "64",
}


def table(**values: str) -> str:
    """What ncu prints for one kernel, with lines of its own before."""
    columns = {bottleneck.METRICS[name]: value for name, value in (VALUES | values).items()}
    columns |= {bottleneck.STALLS.format("wait"): "3", bottleneck.STALLS.format("barrier"): "1.5"}
    columns |= {bottleneck.STALLS.format("gmma"): "n/a", bottleneck.STALLS.format("drain"): "0.5"}
    units = [UNITS.get(name, "") for name in VALUES] + [""] * 4
    rows = (
        ["ID", "Kernel Name", *columns],
        ["", "", *units],
        ["0", "_a_kernel(int, x<y>)", *columns.values()],
    )
    quoted = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)
    return f"==PROF== Connected to process 1\na line of the child\n{quoted}\n"


def fake(folder: Path, script: str) -> str:
    """An ncu that is a script."""
    path = folder / "ncu"
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_row_has_the_numbers_in_their_units() -> None:
    (row,) = bottleneck.read(table())
    assert row["kernel"] == "_a_kernel"
    assert row["us"] == pytest.approx(12.3)
    assert row["memory"] == 61.5
    assert "instructions" not in row  # not measured
    assert row["stalls"] == {"wait": 3.0, "barrier": 1.5, "drain": 0.5}


def test_the_line_names_the_two_longest_waits() -> None:
    (row,) = bottleneck.read(table())
    cells = bottleneck.line({"operator": "act_quant", "case": "m=1", **row})
    # Of 3 + 1.5 + 0.5 cycles of waiting and the one that issues.
    assert cells[-1] == "the instruction before 50 %, a barrier 25 %"
    assert cells[3:8] == ["12.3", "62 %", "30 %", "92 %", "32 of 64"]


@pytest.mark.parametrize("text", ["", "==ERROR== no permission to use performance counters\n"])
def test_an_answer_without_a_table_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="no permission" if text else "nothing was printed"):
        bottleneck.read(text)


def test_ncu_runs_the_child_at_the_clocks_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    path = fake(
        tmp_path,
        f"open({str(said)!r}, 'w').write(repr((sys.argv[1:], os.environ.get('TRITON_INTERPRET'))))\n"
        f"print({table()!r})",
    )
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert bottleneck.find() == path
    (row,) = bottleneck.measure(path, "act_quant", "m=1")
    assert (row["operator"], row["case"]) == ("act_quant", "m=1")
    arguments, interpret = eval(said.read_text())  # noqa: S307 (a repr that this test wrote)
    assert interpret is None
    assert arguments[-3:] == ["--child", "act_quant", "m=1"]
    assert arguments[arguments.index("--clock-control") + 1] == "none"
    assert arguments[arguments.index("--profile-from-start") + 1] == "off"


def test_a_child_that_fails_is_told_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fake(tmp_path, f"print({table()!r}); sys.exit('weight_quant' in sys.argv)")
    out = tmp_path / "out.json"
    monkeypatch.setattr(bottleneck, "find", lambda: path)
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    monkeypatch.setattr(doctor, "require", lambda packages, of: None)
    asked = ["weight_quant:64,320", "act_quant:1,128", "--commit", "HEAD", "--out", str(out)]
    assert bottleneck.main(asked) == 1
    captured = capsys.readouterr()
    assert re.search(r"weight_quant \S+: exit code 1", captured.err)
    held = json.loads(out.read_text())
    assert [row["operator"] for row in held["rows"]] == ["act_quant"]
    assert len(held["commit"]) == 40


def test_the_page_has_the_newest_file_of_each_machine(tmp_path: Path) -> None:
    def keep(machine: str, commit: str, date: str, **values: str) -> Path:
        rows: list[dict[str, Any]] = [
            {"operator": "act_quant", "case": "m=1", **row}
            for row in bottleneck.read(table(**values))
        ]
        path = tmp_path / machine / "ncu" / f"{commit}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        held = {"commit": commit, "date": date, "machine": f"{machine}, a driver", "rows": rows}
        path.write_text(json.dumps(held))
        return path

    files = [
        keep("h200", "b" * 40, "2026-02-01", memory="77"), keep("h200", "a" * 40, "2026-01-01"),
        keep("h100", "a" * 40, "2026-01-01", memory="55"),
    ]  # fmt: skip
    page = bottleneck.PAGE.text(files)
    assert "## h200, bbbbbbbbbbbb" in page
    assert "## h100, aaaaaaaaaaaa" in page
    assert "aaaaaaaaaaaa" in page
    assert "| 77 % |" in page
    assert "| 55 % |" in page
    assert "| 62 % |" not in page


def test_the_committed_page_is_of_the_committed_numbers() -> None:
    root = Path(bottleneck.__file__).parents[1]
    found = bottleneck.PAGE.text(bottleneck.PAGE.files())
    assert (root / bottleneck.PAGE.path).read_text() == found


def test_without_a_case_the_largest_is_taken() -> None:
    timed = [case for case in cases.load("act_quant").CASES if case.bench]
    label = bottleneck.largest("act_quant")
    assert max(case.cost().bytes for case in timed) == next(
        case.cost().bytes for case in timed if case.label == label
    )


def test_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bottleneck.main(["wgma"]) == 2
    assert "did you mean wgmma?" in capsys.readouterr().err
    assert bottleneck.main(["act_quant:no-such-case"]) == 2
    monkeypatch.setattr(bottleneck, "find", lambda: "ncu")
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: False)
    assert bottleneck.main([]) == 3
    assert "needs a Hopper GPU" in capsys.readouterr().err
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    monkeypatch.setattr(doctor, "require", lambda packages, of: None)
    seen: list[tuple[str, str]] = []

    def examine(ncu: str, chosen: list[tuple[str, str]]) -> tuple[list[dict[str, Any]], int]:
        seen.extend(chosen)
        return [], 0

    monkeypatch.setattr(bottleneck, "examine", examine)
    assert bottleneck.main(["fp8_gemm:1,576,7168", "act_quant"]) == 0
    assert seen == [("fp8_gemm", "1,576,7168"), ("act_quant", bottleneck.largest("act_quant"))]

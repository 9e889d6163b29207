"""Another Triton's code is collected as it is, and what got worse comes first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import cases, rawlog
from harness import _logs, _problem, _upgrade, doctor, upgrade

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMIT, OTHER = "a" * 40, "b" * 40
KERNEL: dict[str, Any] = {
    "name": "k", "grid": [8], "warps": 4, "registers": 100, "spills": 0, "shared": 1000, "wgmma": 4,
    "shapes": {"m64n128k32.f32.e4m3.e4m3": 4}, "instructions": 1000, "sass_code": "1",
}  # fmt: skip
Row = tuple[str, dict[str, Any], str]


def write(folder: Path, version: str, rows: Sequence[Row], **more: Any) -> Path:
    """A collected file: (label, what differs from KERNEL, error) of each case of fp8_gemm."""
    held = {
        "schema": _upgrade.SCHEMA, "commit": COMMIT, "changed": [], "torch": "2.13.0", "triton": version,
        "cases": [
            ["fp8_gemm", label, [] if error else [KERNEL | changed], error]
            for label, changed, error in rows
        ],
    }  # fmt: skip
    path = folder / f"{version}.json"
    path.write_text(json.dumps(held | more), encoding="utf-8")
    return path


def run(folder: Path, *files: Path, arguments: Sequence[str] = ()) -> int:
    names = [str(path) for path in files]
    return upgrade.main(["compare", *names, "--results", str(folder / "results"), *arguments])


GOOD: list[Row] = [(f"m={number}", {}, "") for number in range(6)]
NEW: list[Row] = [
    ("m=0", {"sass_code": "2", "instructions": 1100}, ""),
    ("m=1", {"sass_code": "2", "wgmma": 8, "shapes": {"m64n64k32.f32.e4m3.e4m3": 8}}, ""),
    ("m=2", {}, ""),
    ("m=3", {"sass_code": "2", "spills": 16}, ""),
    ("m=4", {"sass_code": "2", "registers": 168}, ""),
    ("m=5", {}, "CompilationError: at 3:1 | no"),
]


def test_what_is_worst_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path, "3.9.0", NEW), write(tmp_path, "3.6.0", GOOD)
    out = tmp_path / "out.json"
    assert run(tmp_path, *files, arguments=["--json", str(out)]) == 1
    (changes,) = [held["changes"] for held in json.loads(out.read_text())["upgrades"]]
    assert [change["case"] for change in changes] == ["m=5", "m=3", "m=1", "m=4", "m=0", "m=2"]
    assert [change["kind"] for change in changes] == ["figures"] * 5 + ["same"]
    text = capsys.readouterr().out
    assert "## 3.6.0 to 3.9.0" in text
    table = [line for line in text.splitlines() if line.startswith("| `fp8_gemm`")]
    assert "does not compile: CompilationError: at 3:1 \\| no" in table[0]
    assert "**0 to 16**" in table[1]
    assert "4 m64n128k32 to 8 m64n64k32" in table[2]
    assert "**100 to 168** | 0 | 1,000 | 1,000 | 4 | **4 to 3**" in table[3]
    assert "**1,000 to 1,100**" in table[4]
    assert len(table) == 5
    assert "| 3.9.0 | 6 | 1 | 0 | 5 | 1 | 1 |" in text


def test_spills_that_went_away_are_no_failure(tmp_path: Path) -> None:
    files = write(tmp_path, "3.6.0", NEW[:5]), write(tmp_path, "3.10.0", GOOD[:5])
    assert run(tmp_path, *files) == 0


def test_the_order_is_by_version_and_not_by_text(tmp_path: Path) -> None:
    files = write(tmp_path, "3.10.0", NEW), write(tmp_path, "3.9.0", GOOD)
    ordered = _upgrade.together([_upgrade.read(path) for path in files])
    assert [file.triton for file in ordered] == ["3.9.0", "3.10.0"]


def test_cases_that_changed_alike_share_a_row_and_other_code_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alike: list[Row] = [(f"m={n}", {"sass_code": "2", "registers": 110}, "") for n in range(5)]
    files = (
        write(tmp_path, "3.6.0", GOOD),
        write(tmp_path, "3.9.0", [*alike, ("m=5", {"sass_code": "2"}, "")]),
    )
    assert run(tmp_path, *files) == 0
    text = capsys.readouterr().out
    assert text.count("| `fp8_gemm`") == 1
    assert "and 4 more" in text
    assert "| 3.9.0 | 6 | 0 | 1 | 5 | 0 | 0 |" in text


def test_a_grid_of_its_own_is_another_program(tmp_path: Path) -> None:
    files = (
        write(tmp_path, "3.6.0", GOOD[:1]),
        write(tmp_path, "3.9.0", [("m=0", {"grid": [9]}, "")]),
    )
    old, new = (_upgrade.read(path) for path in files)
    (change,) = _upgrade.compare(old, new, [])
    assert change.kind == "code"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"commit": OTHER}, "one commit"),
        ({"triton": "3.6.0"}, "each Triton once"),
        ({"changed": ["kernels/x.py"]}, "changed between"),
        ({"schema": 0}, "schema"),
        ({"cases": [["fp8_gemm"]]}, "not a collected file"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], words: str
) -> None:
    files = write(tmp_path, "3.6.0", GOOD), write(tmp_path, "3.9.0", NEW, **more)
    assert run(tmp_path, *files) == 2
    assert words in capsys.readouterr().err
    assert run(tmp_path, files[0]) == 2
    assert run(tmp_path, files[0], tmp_path / "none.json") == 2


def log(root: Path, commit: str, triton: str, time: float, *, sass: str = "1") -> None:
    """A raw log of one case under one Triton."""
    name = rawlog.file_name(commit, "3.12", "2.11.0", triton)
    path = root / "results" / "box" / "raw" / name
    writer = rawlog.Writer(path, commit=commit, process="p")
    writer.append("process", machine={"triton": triton}, date="2026-08-22T00:00:00Z")
    row = {"operator": "fp8_gemm", "case": "m=0", "implementation": "kernels", "round": 0}
    writer.append("sample", **row, metric="device_us", unit="us", samples=[time])
    detail = {"kernels": [KERNEL | {"sass_code": sass}]}
    writer.append(
        "sample", **row, metric="registers", unit="registers", samples=[100], detail=detail
    )


def times(root: Path) -> list[list[Any]]:
    files = write(root, "3.6.0", GOOD[:1]), write(root, "3.9.0", NEW[:1])
    old, new = (_upgrade.read(path) for path in files)
    logs = _logs.load(root / "results", lambda _: None)
    return [list(time) for time in _upgrade.compare(old, new, logs)[0].times]


def test_device_times_are_of_this_commit_or_of_its_program(tmp_path: Path) -> None:
    assert times(tmp_path) == []
    log(tmp_path, OTHER, "3.6.0", 10.0)
    log(tmp_path, OTHER, "3.9.0", 12.0, sass="3")
    assert times(tmp_path) == [], "sass 3 is not what 3.9.0 makes of this commit"
    log(tmp_path, "c" * 40, "3.9.0", 11.0, sass="2")
    # Its instructions are hashed into sass_code; the label alone would join unlike programs.
    assert times(tmp_path) == [["box", 10.0, 11.0, ("b" * 12, "c" * 12)]]
    log(tmp_path, COMMIT, "3.9.0", 13.0, sass="9")
    assert times(tmp_path) == [["box", 10.0, 13.0, ("b" * 12, "a" * 12)]]


@pytest.mark.parametrize(
    ("registers", "warps", "shared", "fit"),
    [
        (64, 4, 0, 8),
        (255, 8, 0, 1),
        (33, 4, 0, 12),
        (16, 1, 0, 32),
        (32, 4, 0, 16),
        (32, 4, 112640, 2),
    ],
)
def test_blocks_of_an_sm(registers: int, warps: int, shared: int, fit: int) -> None:
    """As CUDA's occupancy calculator has it for compute capability 9.0."""
    assert (
        _upgrade.blocks(KERNEL | {"registers": registers, "warps": warps, "shared": shared}) == fit
    )


def collect(out: Path, *operators: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process in which nothing is interpreted."""
    command = [sys.executable, "-m", "harness.upgrade", "collect", "--out", str(out), *operators]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=_problem.ROOT, check=False,
        env=_problem.without_interpreter(),
    )  # fmt: skip


@pytest.mark.long
def test_every_timed_case_is_collected(tmp_path: Path) -> None:
    out = tmp_path / "new" / "file.json"
    done = collect(out, "weight_dequant")
    assert done.returncode == 0, done.stderr[-2000:]
    held = _upgrade.read(out)
    assert held.triton == doctor.version("triton").split("+")[0]
    timed = [case.label for case in cases.load("weight_dequant").CASES if case.bench]
    assert list(held.cases) == [("weight_dequant", label) for label in timed]
    for code in held.cases.values():
        assert code.error == ""
        assert code.registers > 0
        assert code.instructions > 0
        assert code.spills == 0


def test_a_failure_leaves_no_older_file(tmp_path: Path) -> None:
    out = tmp_path / "file.json"
    out.write_text("old", encoding="utf-8")
    done = collect(out, "weight_dequnt")
    assert done.returncode == 2
    assert "did you mean weight_dequant" in done.stderr
    assert not out.exists()


def test_the_committed_page_is_of_a_commit_of_this_history() -> None:
    text = (_problem.ROOT / "docs" / "triton-upgrades.md").read_text(encoding="utf-8")
    commit = text.split("of commit ")[1].split()[0].strip(",")
    assert len(commit) == 12
    shallow = ["git", "-C", str(_problem.ROOT), "rev-parse", "--is-shallow-repository"]
    if subprocess.run(shallow, capture_output=True, check=False).stdout.strip() != b"false":
        pytest.skip("a shallow clone does not hold the history")
    ancestor = ["git", "-C", str(_problem.ROOT), "merge-base", "--is-ancestor", commit, "HEAD"]
    assert subprocess.run(ancestor, check=False).returncode == 0

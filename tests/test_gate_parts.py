"""Parts of the gate that run without a comparison: hashes of programs, the lock, the reports."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import codegen
from gate import child, report, runner, stats
from gate.rows import Case, Row
from gate.verdict import Result
from harness.bench import BenchError
from kernels._device import Launch, blueprint
from tests._miniature.build import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("scipy", reason="the gate needs scipy")
pytest.importorskip("rich", reason="the gate needs rich")
ABOUT = report.About("a" * 40, "b" * 40, "a box", 5, "log")


def launched(**change: Any) -> str:
    x = torch.empty(4, 8, device="meta")
    known: dict[str, Any] = {
        "kernel": None, "grid": (3,), "args": (x, 7, True, 0.5, None),
        "options": {"GROUP_M": 8, "num_warps": 4, "kind": torch.float32, "step": math.sqrt},
    }  # fmt: skip
    return codegen._launched(Launch(**(known | change)))


def test_a_launch_is_known_by_all_it_is_given() -> None:
    x = torch.empty(4, 8, device="meta")
    tiles = blueprint(x, (4, 8))
    same = {"GROUP_M": 8, "num_warps": 4, "kind": torch.float32, "step": math.sqrt}
    others: list[dict[str, Any]] = [
        {}, {"grid": (4,)}, {"args": (x, 8, True, 0.5, None)}, {"args": (x, 7, 1, 0.5, None)},
        {"args": (x, 7.0, True, 0.5, None)}, {"args": (x, 7, True, 0.5, x)},
        {"args": (x.half(), 7, True, 0.5, None)}, {"args": (x.t(), 7, True, 0.5, None)},
        {"args": (x[:3], 7, True, 0.5, None)}, {"args": (tiles, 7, True, 0.5, None)},
        {"args": (blueprint(x, (2, 8)), 7, True, 0.5, None)},
        {"options": same | {"GROUP_M": 16}}, {"options": same | {"num_warps": 8}},
        {"options": same | {"kind": torch.float16}}, {"options": same | {"step": math.exp}},
        {"options": same | {"num_stages": 3}},
    ]  # fmt: skip
    hashes = [launched(**other) for other in others]
    assert len(set(hashes)) == len(hashes)
    assert launched(options=dict(reversed(same.items()))) == hashes[0]


def test_a_launch_is_the_same_in_every_process() -> None:
    script = "from tests.test_gate_parts import launched; print(launched())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == launched()


def test_what_is_asked_of_torch_is_heard() -> None:
    def calls(work: Any) -> list[str]:
        heard: list[str] = []
        with child._listen(heard):
            work()
        return heard

    plain = calls(lambda: torch.empty(4, device="meta"))
    assert plain == calls(lambda: torch.empty(4, device="meta"))
    for other in (
        lambda: torch.zeros(4, device="meta"),
        lambda: torch.empty(5, device="meta"),
        lambda: torch.empty(4, device="meta").zero_(),
        lambda: torch.empty(4, device="meta", dtype=torch.half),
    ):
        assert calls(other) != plain


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("def f(x):\n    # why\n    return (x * 2)\n", True), ("def f(x): return x * 2\n", True),
        ("def f(x):\n    return x * 3\n", False), ("def f(y):\n    return y * 2\n", False),
        ("def f(x:\n", False),
    ],
)  # fmt: skip
def test_a_reference_is_known_by_its_syntax(tmp_path: Path, text: str, same: bool) -> None:
    hashes = []
    for name, source in (("one", "def f(x):\n    return x * 2\n"), ("two", text)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f.py").write_text(source)
        hashes.append(runner.code(tmp_path / name))
    assert (hashes[0] == hashes[1]) is same
    (tmp_path / "one" / "f.py").rename(tmp_path / "one" / "g.py")
    assert runner.code(tmp_path / "one") != hashes[0]


def test_two_comparisons_do_not_measure_at_once(tmp_path: Path) -> None:
    with (
        runner._alone(tmp_path),
        pytest.raises(BenchError, match="another comparison is running"),
        runner._alone(tmp_path),
    ):
        pytest.fail("it began")
    with runner._alone(tmp_path):
        pass  # the first has ended


def a_result() -> Result:
    base = [100.0, 100.1, 99.9, 100.2, 99.8, 100.0]
    which = Case("op", "a=1|b", "kernels")
    slower = stats.decide(base, [1.05 * value for value in base])
    equal = stats.decide(base, base)
    rows = [
        Row(which, "spills", stats.SAME, 0, 0),
        Row(which, "registers", "changed", 32, 64),
        Row(which, "device_us", stats.SAME, 100, 100, equal, noise=True, note="the same program"),
        Row(which, "device_us", stats.REGRESSED, 100, 105, slower, note="because"),
        Row(which, "max_error", stats.REGRESSED, 0.1, math.nan),
    ]
    return Result(stats.DEFAULT, 0.2, rows, ["op: died: | of\nsomething"], ["x: new: y"])


def test_an_issue_holds_what_is_not_the_same() -> None:
    text = report.issue(a_result(), ABOUT)
    assert text.splitlines()[0] == f"**broken: {'b' * 12} against {'a' * 12}**"
    table = [line for line in text.splitlines() if line.startswith("| op |")]
    assert len(table) == 3
    assert table[0].startswith("| op | a=1\\|b | device_us us | 100 | 105 | +5.00 % | +4.")
    assert "| regressed | because |" in table[0]
    assert "| (changed) |" in table[2]
    assert "nan" in table[1]
    assert "### Broken\n\n    op: died: | of something\n" in text
    assert "noise floor: between 1 pairs of the same program" in text


def test_json_is_json() -> None:
    told = json.loads(report.data(a_result(), ABOUT))
    assert (told["code"], told["word"], told["schema"]) == (1, "broken", 1)
    by_metric = {(row["metric"], row["verdict"]): row for row in told["rows"]}
    assert by_metric["max_error", "regressed"]["head"] is None
    row = by_metric["device_us", "regressed"]
    assert row["interval"][0] < row["change"] < row["interval"][1]
    assert [row["gates"] for row in told["rows"]] == [True, False, True, True, True]


def test_the_terminal_shows_the_worst_first() -> None:
    from rich.console import Console

    out = io.StringIO()
    report.table(a_result(), ABOUT, Console(file=out, width=160))
    text = out.getvalue()
    lines = text[text.index("operator") :]
    assert lines.index("regressed") < lines.index("(changed)") < lines.index("the same program")
    assert "spills" not in text
    assert "broken: op: died: | of" in text
    assert "not compared: x: new: y" in text


@pytest.mark.parametrize(
    ("change", "text"), [(0.0, "+0.00 %"), (-0.0312, "-3.12 %"), (1.0, "+100.00 %"), (2.5, "x 3.5")]
)
def test_changes_are_spelled_with_their_sign(change: float, text: str) -> None:
    assert report.signed(change) == text

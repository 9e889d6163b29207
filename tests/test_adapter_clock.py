"""Backends on the clock: in turns, checked as in a sweep, and none of them ends the others' times."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases, measure, peers, roofline, tasks
from harness import _adapter_clock, _backends, _desk, _probes, adapter
from harness._adapter_report import Result
from harness._probes import Column, Row
from tests.test_timing import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

LABELS = [f"m={m},k=256,x=bf16,pow2=False,floor=None,data=normal" for m in (1, 31)]
CASE = cases.find("act_quant", LABELS[0])


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(measure, "device_us", Clock().device_us)
    monkeypatch.setattr(measure, "launch_us", lambda call: [3.0])
    monkeypatch.setattr(roofline, "copy_us", lambda nbytes: [5.5])
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def backend(name: str, change: Callable[[Any], Any], **more: Any) -> _backends.Backend:
    function = cases.public("reference_impl", "act_quant")

    def prepare(arguments: dict[str, Any]) -> Callable[[], Any]:
        return lambda: change(function(**arguments))

    return _backends.Backend(name, "act_quant", prepare, **more)


def same(got: Any) -> Any:
    return got


def last_bits(got: Any) -> Any:
    got[1].mul_(1 + 2.0**-22)
    return got


def doubled(got: Any) -> Any:
    got[1].mul_(2)
    return got


def illegal(got: Any) -> Any:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def raising(got: Any) -> Any:
    raise ValueError("no such tile")


OURS = backend(tasks.OURS, same, exact=True)


def turns(
    device: str, *others: _backends.Backend, known: dict[str, str] | None = None
) -> tuple[list[_desk.Row], list[str]]:
    begun: list[str] = []
    stand = _adapter_clock.Stand([OURS, *others], device)
    return stand.turns(CASE, {} if known is None else known, begun.append), begun


def test_a_round_of_each_in_turn(device: str) -> None:
    (ours, other), begun = turns(device, backend("other", same))
    assert begun == [tasks.OURS, "other"] * _desk.ROUNDS
    assert ours.samples == other.samples == list(Clock.samples) * _desk.ROUNDS
    assert (ours.problem, other.problem, other.launch, other.copy_us) == ("", "", [3.0], 5.5)


@pytest.mark.parametrize(
    ("other", "said", "times"),
    [
        (backend("other", last_bits), "", 3),
        (backend("other", last_bits, exact=True), "elements differ in bits", 1),
        (backend("other", doubled), "scale", 1),
        (backend("other", raising), "ValueError: no such tile", 1),
        (backend("other", same, supports=lambda case: "no tails"), "not supported: no tails", 0),
        (backend("other", same, absent="needs a pony"), "needs a pony", 0),
    ],
)
def test_what_is_wrong_has_no_further_turn(
    other: _backends.Backend, said: str, times: int, device: str
) -> None:
    (ours, row), begun = turns(device, other)
    assert not ours.problem
    assert said in row.problem
    assert bool(row.problem) == bool(said)
    assert begun.count("other") == times


def test_what_was_wrong_before_is_not_timed(device: str) -> None:
    (_, row), begun = turns(device, backend("other", same), known={"other": "stale memory"})
    assert row.problem == "stale memory"
    assert "other" not in begun


def lines(monkeypatch: pytest.MonkeyPatch, other: _backends.Backend) -> list[dict[str, Any]]:
    """What the child says."""
    found = {"ours": OURS, "other": other}
    monkeypatch.setattr(_backends, "find", lambda name, operator: found[name])
    reading, writing = os.pipe()
    job = {
        "backends": [["ours", "ours"], ["other", "other"]], "operator": "act_quant",
        "part": LABELS[1], "known": {}, "done": [],
    }  # fmt: skip
    _adapter_clock.work(job, writing)
    os.close(writing)
    with os.fdopen(reading) as stream:
        return [json.loads(line) for line in stream]


def test_a_lost_context_asks_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    said = lines(monkeypatch, backend("other", illegal))
    assert said[-2]["case"] == LABELS[1]
    assert said[-2]["known"]["other"].startswith("RuntimeError: CUDA error: an illegal")
    assert said[-1] == {"again": True}


def test_what_the_child_says_becomes_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    said = lines(monkeypatch, backend("other", doubled))
    assert said[-1] == {"end": True}
    (table,) = [line["rows"] for line in said if "rows" in line]
    result = Result("act_quant", [], table)
    ours, other = result.clock().rows
    assert list(ours[1:3]) == ["ours", "11.00"]
    assert list(other[1:4]) == ["other", "-", ""]
    assert any(
        words.startswith(f"other: {LABELS[1]}: no time: scale") for words in result.remarks()
    )
    assert "| ours | 11.00 | [10.00 12.00] |" in result.markdown()


PATCHES = """
import os, sys
import torch
sys.path.insert(0, {root!r})
from benchmarks import measure, roofline
from reference_impl.act_quant import act_quant as right
from tests.test_timing import Clock

measure.device_us = Clock().device_us
measure.launch_us = lambda call: [3.0]
roofline.copy_us = lambda nbytes: [5.5]
torch.cuda.synchronize = lambda: None
NAME, OPERATOR = "mine", "act_quant"

def act_quant(x, **more):
    if x.shape[0] == 1:
        os._exit(7)
    return right(x, **more)
"""


@pytest.mark.long
@pytest.mark.cpu
def test_a_crash_on_the_clock_costs_its_own_time_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    root = str(Path(__file__).resolve().parents[1])
    path.write_text(textwrap.dedent(PATCHES.format(root=root)), encoding="utf-8")
    job = {
        "backends": [("ours", "ours"), (str(path), "mine")], "operator": "act_quant",
        "part": LABELS[0].removeprefix("m="), "known": {},
    }  # fmt: skip
    rows = {(row["case"], row["name"]): row for row in _probes.clocked(job, 30.0)}
    assert rows[LABELS[0], "mine"]["problem"] == "crashes: exit code 7"
    assert not rows[LABELS[0], "mine"]["samples"]
    for key in ((LABELS[0], tasks.OURS), (LABELS[1], "mine"), (LABELS[1], tasks.OURS)):
        assert rows[key]["samples"] == list(Clock.samples) * _desk.ROUNDS


def test_ours_and_the_installed_peers_are_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[dict[str, Any]] = []
    monkeypatch.setattr(_probes, "clocked", lambda job, seconds: jobs.extend([job]))
    monkeypatch.setattr(peers, "here", lambda operator: ["vllm", "torchao"])
    columns = [
        Column("a.py", "mine", "act_quant", rows=[Row("x", "right"), Row("y", "wrong")]),
        Column("torchao", "torchao", "act_quant", absent="needs a Hopper GPU"),
        Column("ours", "ours", "act_quant", rows=[Row("x", "raises")]),
    ]
    adapter.times(columns, "act_quant", None, 1.0)
    assert jobs[0]["backends"] == [("ours", "ours"), ("a.py", "mine"), ("vllm", "vllm")]
    assert jobs[0]["known"] == {"y": {"mine": "wrong"}, "x": {tasks.OURS: "raises"}}


def test_right_without_a_time_is_no_success() -> None:
    columns = [Column("ours", "ours", "act_quant", rows=[Row("x", "right")])]
    times = [{"name": tasks.OURS, "case": "x", "problem": ""}]
    assert adapter._exit_code(columns, times, None) == 0
    times[0]["problem"] = "raises"
    assert adapter._exit_code(columns, times, None) == 1


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    path, held = tmp_path / "mine.py", tmp_path / "held.json"
    path.write_text(
        "from kernels.act_quant import act_quant\nNAME, OPERATOR = 'mine', 'act_quant'\n"
    )
    part = "m=64,k=512,x=bf16,pow2=False,floor=None,data=normal"
    arguments = [str(path), "ours", "--case", part, "--time", "--json", str(held)]
    assert adapter.main(arguments) == 0
    times = {row["name"]: row for row in json.loads(held.read_text())["times"]}
    assert {tasks.OURS, "mine"} <= set(times)
    assert all(times[name]["samples"] for name in (tasks.OURS, "mine"))

"""The nightly verdict: regressed, broken, measured nothing and ok are never taken for one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests._nights import CASE, OPERATOR, STEADY, Project, scaled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    return Project(root)


@pytest.fixture
def pair(project: Project) -> Callable[..., int]:
    """The verdict's code on device times (or another cost) of the baseline and of HEAD."""

    def judged(before: list[float], now: list[float], metric: str = "device_us") -> int:
        project.baseline(project.base)
        project.log(project.base).program("old").put(metric, before)
        project.log(project.head).program("new").put(metric, now)
        return project.call("verdict")

    return judged


@pytest.mark.parametrize(
    ("factor", "code"),
    [(1.0, 0), (1.025, 0), (1.05, 10), (0.9, 0)],
    ids=["same", "2%", "5%", "-10%"],
)
def test_a_slower_kernel_is_a_regression(
    pair: Callable[..., int], factor: float, code: int
) -> None:
    assert pair(STEADY, scaled(factor)) == code


def test_boxes_that_overlap_prove_nothing(pair: Callable[..., int]) -> None:
    assert pair([90.0, 100.0, 115.0, 125.0], [95.0, 112.0, 120.0, 130.0]) == 0


@pytest.mark.parametrize(
    ("metric", "before", "now", "code"),
    [
        ("differing_elements", 0.0, 0.0, 0),
        ("differing_elements", 0.0, 1.0, 10),
        ("differing_elements", 1.0, 0.0, 0),
        ("max_error", 0.1, float("nan"), 10),
        ("max_error", float("nan"), float("nan"), 0),
        ("max_error", 0.1, float("inf"), 10),
        ("peak_bytes", 1024.0, 1025.0, 10),
    ],
)
def test_exact_costs_have_no_noise(
    pair: Callable[..., int], metric: str, before: float, now: float, code: int
) -> None:
    assert pair([before], [now], metric) == code


@pytest.mark.parametrize(
    ("code", "warps", "expected"), [("old", 8, 0), ("new", 8, 10), ("old", 4, 10)]
)
def test_the_same_program_cannot_be_slower(
    project: Project, code: str, warps: int, expected: int
) -> None:
    project.baseline(project.base)
    project.log(project.base).program("old").put("device_us", STEADY)
    project.log(project.head).program(code, warps).put("device_us", scaled(2.0))
    assert project.call("verdict") == expected


def test_the_same_program_can_be_wrong_or_slow_to_launch(project: Project) -> None:
    """Only the time on the device follows from the machine code."""
    project.baseline(project.base)
    project.log(project.base).program("old").put("launch_us", STEADY)
    project.log(project.head).program("old").put("launch_us", scaled(2.0))
    assert project.call("verdict") == 10


def test_throttled_times_are_left_out(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.baseline(project.base)
    project.log(project.base).put("device_us", STEADY).put("launch_us", STEADY)
    slow = project.log(project.head).put("device_us", scaled(2.0), throttled=True)
    slow.put("launch_us", STEADY)
    assert project.call("verdict") == 0
    assert "2 costs compared, 0 regressed, 0 improved, 1 throttled" in capsys.readouterr().out


@pytest.mark.parametrize("status", ["failed", "died"])
def test_broken_is_not_regressed(project: Project, status: str) -> None:
    project.baseline(project.base)
    project.log(project.base).put("device_us", STEADY)
    project.log(project.head).put("peak_bytes", [0]).status(status)
    assert project.call("verdict") == 1


def test_a_slower_peer_is_not_our_regression(project: Project) -> None:
    project.baseline(project.base)
    for commit, factor in ((project.base, 1.0), (project.head, 2.0)):
        log = project.log(commit).put("device_us", STEADY)
        log.put("device_us", scaled(factor), implementation="cublaslt")
    assert project.call("verdict") == 0


def test_a_peer_that_broke_is_not_our_failure(project: Project) -> None:
    project.baseline(project.base)
    project.log(project.base).put("device_us", STEADY)
    project.log(project.head).put("device_us", STEADY).status("died", implementation="cublaslt")
    assert project.call("verdict") == 0


def test_what_the_sweep_did_not_come_to_is_broken(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.baseline(project.base)
    project.log(project.base).put("device_us", STEADY).put("registers", [8])
    head = project.log(project.head).put("registers", [8])
    assert project.call("verdict") == 1
    assert f"broken: {OPERATOR} {CASE} kernels, run: not measured" in capsys.readouterr().out
    head.status("n/a")
    assert project.call("verdict") == 12
    assert f"no longer there: {OPERATOR} {CASE}" in capsys.readouterr().out


def test_a_case_that_the_table_no_longer_has_is_not_missed(project: Project) -> None:
    project.baseline(project.base)
    base = project.log(project.base).put("device_us", STEADY)
    base.put("device_us", STEADY, case="m=3")
    project.log(project.head).put("device_us", STEADY)
    assert project.call("verdict") == 0


def test_measured_nothing(project: Project) -> None:
    """Neither HEAD, nor the baseline in HEAD's environment: that is not a pass."""
    project.baseline(project.base)
    assert project.call("verdict") == 12
    project.log(project.head).put("device_us", STEADY)
    assert project.call("verdict") == 12
    project.log(project.base, driver="570.0").put("device_us", STEADY)
    assert project.call("verdict") == 12
    project.log(project.base, triton="3.7.1").put("device_us", STEADY)
    assert project.call("verdict") == 12
    project.log(project.base).put("device_us", STEADY)
    assert project.call("verdict") == 0

"""From logs to exit codes: what gates, what vetoes, what is broken, what does not count."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import cases
from gate import compare, log, plan
from gate.plan import BASE, HEAD
from tests._comparisons import KERNEL, Comparison, sample
from tests._nights import CASE, OPERATOR, Project

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("scipy", reason="the gate needs scipy")
pytest.importorskip("rich", reason="the gate needs rich")
QUIET = [100.0, 100.2, 99.9, 100.1, 99.8, 100.0, 100.3, 99.9]
WILD = [100.0, 104.0, 97.0, 101.0, 95.0, 99.0, 106.0, 98.0]
OTHER = [case.label for case in cases.load(OPERATOR).CASES if case.bench][1]


def times(factor: float, of: list[float] = QUIET) -> list[float]:
    """What the other side measured."""
    return [factor * (200 - time) for time in of]


def clocked(before: float, after: float, **more: Any) -> dict[str, Any]:
    clocks = {"before": {"sm_mhz": before}, "after": {"sm_mhz": after}}
    return {"clocks": clocks} | more


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def compared(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    monkeypatch.chdir(project.root)
    return Comparison(project, tmp_path)


@pytest.mark.parametrize(
    ("factor", "code", "verdict"),
    [(1.0, 0, "same"), (1.005, 0, "same"), (1.04, 10, "regressed"), (0.95, 0, "improved")],
)
def test_times_decide_the_code(
    compared: Comparison, factor: float, code: int, verdict: str
) -> None:
    compared.timed(QUIET, times(factor))
    assert compared.call() == code
    row = compared.rows()["device_us"]
    assert row["verdict"] == verdict
    assert row["pairs"] == 8
    assert row["change"] == pytest.approx(factor - 1, abs=2e-3)


def test_a_process_is_one_number(compared: Comparison) -> None:
    """Samples inside a process do not count as more evidence, and the median is what counts."""
    intervals = []
    for repeat in (1, 1000):
        again = Comparison(compared.project, compared.folder)
        again.path, again.repeat = again.path.with_name(f"{repeat}.jsonl"), repeat
        row = again.timed(WILD, times(1.04, WILD)).rows()["device_us"]
        assert (row["pairs"], row["base"]) == (8, pytest.approx(99.5))
        intervals.append(row["interval"])
    assert intervals[0] == intervals[1]


def test_what_stays_open_has_a_code_of_its_own(compared: Comparison) -> None:
    compared.timed(WILD, times(1.0, WILD))
    row = compared.rows()["device_us"]
    assert row["verdict"] == "inconclusive"
    assert row["more_blocks"] > 0
    assert f"about {row['more_blocks']} more blocks" in row["note"]
    assert compared.call() == 11
    assert compared.call("--allow-inconclusive", "1") == 0
    assert compared.call("--threshold", "20") == 0
    assert compared.call("--threshold", "20%") == 0


def test_a_share_of_open_ones_is_allowed(compared: Comparison) -> None:
    """One of two is too many by default, and not where half is allowed."""
    compared.timed(QUIET, times(1.0))
    compared.timed(WILD, times(1.0, WILD), case=OTHER, step=plan.CHECK)
    assert compared.call(OTHER) == 11
    assert compared.call(OTHER, "--allow-inconclusive", "0.5") == 0
    assert compared.call() == 0


def test_nothing_measured_is_no_success(compared: Comparison) -> None:
    assert compared.call() == 12
    compared.process(BASE, [sample("device_us", samples=[1.0])])
    assert compared.call() == 12
    compared.process(HEAD, [sample("launch_us", samples=[1.0])], position=1)
    assert compared.call() == 12


def test_the_same_program_is_the_same_whatever_the_clock_says(compared: Comparison) -> None:
    compared.compiled({}, {}).timed(QUIET, times(1.1))
    row = compared.rows()["device_us"]
    assert (row["verdict"], row["same_program"]) == ("same", True)
    assert "the clock says regressed" in row["note"]
    told = json.loads((compared.folder / "out.json").read_text())
    assert told["noise_floor"] == [pytest.approx(row["change"])]
    assert compared.call() == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sass_code": "other"}, "machine code of k"), ({"grid": [5]}, "launch of k"),
        ({"warps": 4}, "launch of k"), ({"shared": 0}, "launch of k"),
        ({"launch": "otherwise"}, "launch of k"),
    ],
)  # fmt: skip
def test_another_program_is_not_vetoed(
    compared: Comparison, change: dict[str, Any], named: str
) -> None:
    compared.compiled({}, change)
    row = compared.rows()["device_us"]
    assert (row["verdict"], row["note"]) == ("inconclusive", f"not timed; differs: {named}")
    assert compared.call() == 11
    compared.timed(QUIET, times(1.1))
    assert compared.call() == 10


def test_other_calls_of_torch_are_another_program(compared: Comparison) -> None:
    compared.compiled({}, {}, ("torch", "torch, and a fill")).timed(QUIET, times(1.1))
    assert compared.call() == 10


@pytest.mark.parametrize("unknown", [{"launch": ""}, {"launch": None}])
def test_a_program_that_is_not_known_vetoes_nothing(
    compared: Comparison, unknown: dict[str, Any]
) -> None:
    compared.compiled(unknown, unknown).timed(QUIET, times(1.1))
    assert compared.call() == 10


def test_equal_code_without_a_clock_is_enough(compared: Comparison) -> None:
    compared.compiled({}, {})
    assert compared.rows()["device_us"]["verdict"] == "same"
    assert compared.call() == 0


def test_the_reference_is_vetoed_by_its_own_code(compared: Comparison) -> None:
    more = ({"implementation": "reference"},) * 2
    compared.timed(QUIET, times(1.1), metric="cpu_us", more=more, reference="code")
    assert compared.rows()["cpu_us"]["same_program"] is True
    assert compared.call() == 0
    changed = Comparison(compared.project, compared.folder)
    changed.path = changed.path.with_name("changed.jsonl")
    changed.timed(QUIET, times(1.1), metric="cpu_us", more=more)
    assert changed.call() == 10


def test_time_and_cycles_must_agree(compared: Comparison) -> None:
    """Head is slower because its clock was lower, by as much."""
    more = (clocked(1980, 1980), clocked(1800, 1800))
    compared.timed(QUIET, times(1.1), more=more)
    row = compared.rows()["device_us"]
    assert row["verdict"] == "inconclusive"
    assert "regressed in time, same in clock cycles" in row["note"]
    assert row["cycles"] == pytest.approx(0, abs=3e-3)
    assert compared.call() == 11


def test_a_regression_in_both_is_one(compared: Comparison) -> None:
    compared.timed(QUIET, times(1.1), more=(clocked(1980, 1970),) * 2)
    row = compared.rows()["device_us"]
    assert row["verdict"] == "regressed"
    assert "cycles not known" not in row["note"]


def test_a_missing_clock_is_said(compared: Comparison) -> None:
    compared.timed(QUIET, times(1.1), more=(clocked(1980, 1980), {}))
    row = compared.rows()["device_us"]
    assert (row["verdict"], row["cycles"]) == ("regressed", None)
    assert "clock cycles not known" in row["note"]


def test_throttling_of_one_side_decides_nothing(compared: Comparison) -> None:
    compared.timed(QUIET, times(1.1), more=({}, {"throttled": True}))
    row = compared.rows()["device_us"]
    assert (row["verdict"], row["pairs"]) == ("inconclusive", None)
    assert "8 pairs left out" in row["note"]


def test_throttling_of_both_sides_is_said(compared: Comparison) -> None:
    """Large products run at the power cap for ever: both sides alike."""
    compared.timed(QUIET, times(1.1), more=({"throttled": True},) * 2)
    row = compared.rows()["device_us"]
    assert row["verdict"] == "regressed"
    assert row["note"].endswith("throttled")


@pytest.mark.parametrize(
    ("metric", "base", "head", "code"),
    [
        ("differing_elements", 0, 0, 0), ("differing_elements", 0, 1, 10),
        ("differing_elements", 5, 4, 0), ("spills", 0, 4, 10), ("spills", 8, 4, 0),
        ("peak_bytes", 1 << 30, (1 << 30) + 1, 10), ("rms_error", 0.1, 0.1005, 0),
        ("rms_error", 0.1, 0.102, 10), ("max_error", 0.1, float("nan"), 10),
        ("max_error", float("nan"), 0.1, 0), ("max_error", float("nan"), float("nan"), 0),
        ("max_error", 0.1, float("inf"), 10), ("max_error", float("inf"), float("inf"), 0),
        ("registers", 32, 255, 12), ("instructions", 100, 900, 12), ("wgmma", 4, 0, 12),
        ("shared_bytes", 0, 1024, 12),
    ],
)  # fmt: skip
def test_what_needs_no_clock(
    compared: Comparison, metric: str, base: float, head: float, code: int
) -> None:
    """12: shown, and not gating."""
    compared.once(metric, base, head)
    assert compared.call() == code
    row = compared.rows()[metric]
    assert row["gates"] == (code != 12)
    if code == 12:
        assert row["verdict"] == "changed"
    elif code == 10:
        assert row["verdict"] == "regressed"


def test_launch_overhead_is_shown_and_does_not_gate(compared: Comparison) -> None:
    compared.timed(QUIET, times(1.5), metric="launch_us")
    row = compared.rows()["launch_us"]
    assert (row["verdict"], row["gates"]) == ("regressed", False)
    assert compared.call() == 12


@pytest.mark.parametrize("status", ["failed", "died"])
def test_a_failure_at_head_is_broken_and_hides_no_verdict(
    compared: Comparison, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compared.timed(QUIET, times(1.1))
    compared.process(HEAD, [{"phase": "run", "status": status, "reason": "it | hurts"}], block=9)
    assert compared.call("--markdown", str(compared.folder / "issue.md")) == 1
    assert f"{status}: it | hurts" in capsys.readouterr().out
    text = (compared.folder / "issue.md").read_text()
    assert "### Broken" in text
    assert "regressed |" in text


def test_a_failure_at_base_alone_is_not_held_against_head(
    compared: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    compared.once("differing_elements", 0, 0)
    compared.process(BASE, [{"phase": "run", "status": "failed", "reason": "was wrong"}])
    assert compared.call() == 0
    assert "base only: failed: was wrong" in capsys.readouterr().out


@pytest.mark.parametrize("side", plan.SIDES)
def test_a_process_that_died_is_broken(compared: Comparison, side: str) -> None:
    """Before its first case whichever side it was: then the machine may be at fault."""
    compared.once("differing_elements", 0, 0)
    compared.process(side, outcome=log.DIED, reason="killed by SIGSEGV")
    assert compared.call() == 1


@pytest.mark.parametrize(("side", "code"), [(HEAD, 1), (BASE, 0)])
def test_a_process_that_died_at_a_case_is_that_cases_failure(
    compared: Comparison, side: str, code: int
) -> None:
    compared.once("differing_elements", 0, 0)
    compared.process(side, outcome=log.DIED, reason="SIGSEGV", at=[CASE, "kernels"])
    assert compared.call() == code


@pytest.mark.parametrize(("side", "word"), [(BASE, "new"), (HEAD, "gone")])
def test_what_only_one_commit_has_is_named(
    compared: Comparison, side: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compared.once("spills", 0, 0)
    compared.process(side, [{"phase": "run", "status": "n/a", "reason": "no such operator"}])
    assert compared.call() == 0
    assert f"{word}: no such operator" in capsys.readouterr().out


def test_a_process_that_was_cut_off_does_not_count(compared: Comparison) -> None:
    compared.timed(QUIET, times(1.0))
    whole = compared.rows()
    for position in (1, 2):
        compared.process(HEAD, [sample("device_us", samples=[5.0])], position=position, ended=False)
    with compared.path.open("ab") as file:
        file.write(b'{"schema":2,"kind":"samp')
    assert compared.call() == 0
    assert compared.rows() == whole


def test_numbers_of_another_machine_or_clock_are_not_mixed(compared: Comparison) -> None:
    compared.timed(QUIET, times(1.5))
    compared.facts["driver"] = "600"
    compared.timed(QUIET, times(1.0))
    assert compared.call() == 0
    compared.measuring = "another clock"
    compared.timed(QUIET[:4], times(1.5)[:4])
    row = compared.rows()["device_us"]
    assert (row["verdict"], row["pairs"]) == ("regressed", 4)


def test_a_log_of_other_commits_is_not_this_comparison(compared: Comparison) -> None:
    compared.timed(QUIET, times(1.5))
    swapped = compared.project.head, compared.project.middle
    assert compare.main([*swapped, OPERATOR, "--no-measure", "--log", str(compared.path)]) == 12


def test_kernels_are_compared_with_all_they_are_launched_with() -> None:
    """So that a field that comes later is looked at, too."""
    from benchmarks.codegen import Compiled

    of_code = {
        "name",
        "registers",
        "spills",
        "wgmma",
        "shapes",
        "instructions",
        "sass_ops",
        "misled",
        "seconds",
    }
    assert set(Compiled.__dataclass_fields__) - of_code == set(KERNEL) - {"name"}

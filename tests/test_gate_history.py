"""The history's verdict, on a small repository with raw logs of our making."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from scipy import stats

from benchmarks import rawlog
from benchmarks.metrics import METRICS
from gate import _annotations, _series, changepoints, history
from gate.changepoints import Noise
from tests._nights import CASE, FACTS, MACHINE, OPERATOR, Log, git

if TYPE_CHECKING:
    from pathlib import Path

PEER = "cublaslt"


class History:
    """A repository of ``size`` commits; ``put`` writes a metric of all of them."""

    def __init__(self, root: Path, size: int) -> None:
        self.root, self.results = root, root / "results"
        git(root, "init", "--quiet", "--initial-branch", "main")
        self.commits = []
        for index in range(size):
            git(root, "commit", "--quiet", "--allow-empty", "--message", str(index))
            self.commits.append(git(root, "rev-parse", "HEAD"))

    def log(self, commit: str, **facts: str) -> Log:
        known = FACTS | facts
        named = rawlog.file_name(commit, known["python"], known["torch"], known["triton"])
        path = self.results / known["machine"] / "raw" / named
        writer = rawlog.Writer(path, commit=commit, process="process")
        if not path.exists():
            # All of one date: the order must come from the graph.
            writer.append("process", machine=known, date="2026-08-22T00:00:00Z")
        return Log(writer)

    def put(self, metric: str, values: list[float], *, jitter: float = 0.002, **more: Any) -> None:
        """One value a commit; times in three rounds of four samples."""
        dice = random.Random(repr((metric, more)))
        for commit, value in zip(self.commits, values, strict=True):
            if metric not in _series.TIMES:
                self.log(commit).put(metric, [value], **more)
                continue
            for index in range(3):
                samples = [value * (1 + dice.gauss(0, jitter)) for _ in range(4)]
                self.log(commit).put(metric, samples, round=index, **more)

    def quiet(self, sd: float = 0.003) -> None:
        """Peers that nobody changed: what the machine's noise is."""
        dice = random.Random(7)
        for index in range(12):
            values = [50 * (1 + dice.gauss(0, sd)) for _ in self.commits]
            self.put("device_us", values, case=f"m={index}", implementation=PEER)

    def look(self) -> list[tuple[str, str, int, int | None]]:
        """(status, metric, number of the commit, of the one that mended it), all but improvements."""
        _, found = history.look(
            self.results, list(METRICS), self.results / "annotations.toml", pytest.fail
        )
        order = {commit[:12]: index for index, commit in enumerate(self.commits)}
        return [
            (
                change.status, change.series.key.metric, order[change.commit.commit],
                order.get(change.mended),
            )
            for change in found if change.status != "improved"
        ]  # fmt: skip


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(size: int) -> History:
        monkeypatch.chdir(tmp_path)
        return History(tmp_path, size)

    return made


def accept(held: History, **fields: str) -> None:
    wanted = {"commit": held.commits[2], "operator": OPERATOR, "reason": "on purpose"} | fields
    lines = [f'{name} = "{value}"' for name, value in wanted.items()]
    (held.results / "annotations.toml").write_text("\n".join(["[[accepted]]", *lines]) + "\n")


def test_a_regression_of_time_is_open_and_named(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    held = make(5)
    held.quiet()
    held.put("device_us", [100, 100.2, 99.9, 105.1, 104.8])
    assert held.look() == [("open", "device_us", 3, None)]
    assert history.main([]) == 10
    out = capsys.readouterr().out
    assert held.commits[3][:8] in out
    assert held.commits[2][:8] in out


def test_noise_is_no_change(make: Any) -> None:
    held = make(6)
    held.quiet()
    held.put("device_us", [100, 100.4, 99.7, 100.3, 99.8, 100.5])
    assert held.look() == []
    assert history.main([]) == 0


def test_a_noisy_machine_needs_a_larger_step(make: Any) -> None:
    held = make(5)
    held.quiet(sd=0.03)
    held.put("device_us", [100, 100.2, 99.9, 105.1, 104.8])
    assert held.look() == []


def test_a_recovered_regression_names_both_commits(make: Any) -> None:
    held = make(6)
    held.quiet()
    held.put("device_us", [100, 100, 120, 120, 100, 100])
    held.put("spills", [0, 0, 8, 8, 8, 0])
    assert held.look() == [
        ("recovered", "spills", 2, 5),
        ("recovered", "device_us", 2, 4),
    ]
    assert history.main([]) == 0


def test_half_a_recovery_leaves_it_open(make: Any) -> None:
    held = make(6)
    held.quiet()
    held.put("device_us", [100, 100, 120, 120, 110, 110])
    assert held.look() == [("open", "device_us", 2, None)]


def test_direction_is_the_metrics(make: Any) -> None:
    held = make(3)
    held.put("tflops", [900, 900, 800])
    held.put("registers", [168, 168, 160])
    held.put("wgmma", [8, 8, 4])
    assert held.look() == [("open", "tflops", 2, None), ("changed", "wgmma", 2, None)]


@pytest.mark.parametrize("metric", ["differing_elements", "spills", "peak_bytes"])
def test_an_exact_metric_needs_no_statistics(make: Any, metric: str) -> None:
    held = make(3)
    held.put(metric, [1000, 1000, 1001])
    assert held.look() == [("open", metric, 2, None)]


def test_an_error_that_becomes_nan_is_worse(make: Any) -> None:
    held = make(3)
    held.put("max_error", [0.1, 0.1, float("nan")])
    assert held.look() == [("open", "max_error", 2, None)]


def test_equal_machine_code_is_noise(make: Any) -> None:
    held = make(4)
    held.quiet()
    for commit in held.commits:
        held.log(commit).program("a")
    held.put("device_us", [100, 100, 120, 120])
    assert held.look() == [("noise", "device_us", 2, None)]
    assert history.main([]) == 0


def test_equal_machine_code_says_nothing_of_the_host(make: Any) -> None:
    held = make(4)
    for commit in held.commits:
        held.log(commit).program("a")
    for index in range(12):
        held.put("launch_us", [50, 50.1, 49.9, 50], case=f"m={index}", implementation=PEER)
    held.put("launch_us", [10, 10, 15, 15])
    assert held.look() == [("open", "launch_us", 2, None)]


def test_noise_mends_nothing(make: Any) -> None:
    held = make(6)
    held.quiet()
    for index, commit in enumerate(held.commits):
        held.log(commit).program("a" if index < 2 else "b")
    held.put("device_us", [100, 100, 120, 120, 100, 100])
    assert held.look() == [("open", "device_us", 2, None), ("noise", "device_us", 4, None)]


def test_more_registers_and_a_longer_throttled_time_stay_open(make: Any) -> None:
    held = make(3)
    held.quiet()
    held.put("registers", [168, 168, 200])
    held.put("device_us", [100, 100, 105], throttled=True)
    assert held.look() == [("open", "registers", 2, None)]


def test_another_launch_of_equal_code_is_no_veto(make: Any) -> None:
    held = make(4)
    held.quiet()
    for index, commit in enumerate(held.commits):
        held.log(commit).program("a", warps=8 if index < 2 else 4)
    held.put("device_us", [100, 100, 120, 120])
    assert held.look() == [("open", "device_us", 2, None)]


def test_more_registers_in_no_more_time_are_harmless(make: Any) -> None:
    held = make(4)
    held.quiet()
    held.put("registers", [168, 168, 200, 200])
    assert held.look() == [("open", "registers", 2, None)]
    held.put("device_us", [100, 100, 100, 100])
    assert held.look() == [("harmless", "registers", 2, None)]


def test_more_registers_and_more_time_stay_open(make: Any) -> None:
    held = make(4)
    held.quiet()
    held.put("registers", [168, 168, 200, 200])
    held.put("device_us", [100, 100, 110, 110])
    assert {row[:3] for row in held.look()} == {("open", "registers", 2), ("open", "device_us", 2)}


def test_unequal_machines_are_never_joined(make: Any) -> None:
    held = make(4)
    for index, commit in enumerate(held.commits):
        driver = "580.159" if index < 2 else "590.1"
        held.log(commit, driver=driver).put("spills", [0 if index < 2 else 8])
    assert held.look() == []
    assert history.main([]) == 0


def test_nothing_to_look_at(make: Any) -> None:
    held = make(2)
    assert history.main([]) == 12
    held.log(held.commits[0]).put("spills", [0])
    assert history.main([]) == 12


def test_order_is_the_commit_graphs_not_the_files(make: Any) -> None:
    held = make(8)
    held.put("spills", [0, 0, 0, 4, 4, 4, 4, 4])
    assert held.look() == [("open", "spills", 3, None)]


def test_a_commit_that_is_gone_is_named(make: Any) -> None:
    held = make(2)
    held.put("spills", [0, 0])
    held.log("ab" * 20).put("spills", [8])
    said: list[str] = []
    history.look(held.results, ["spills"], held.results / "none", said.append)
    assert len(said) == 1
    assert "abababababab" in said[0]


def test_throttled_numbers_decide_nothing(make: Any) -> None:
    held = make(4)
    held.quiet()
    held.put("device_us", [100, 100, 100, 130], throttled=True)
    assert held.look() == []


def test_an_accepted_change_is_not_open(make: Any) -> None:
    held = make(4)
    held.put("spills", [0, 0, 8, 8])
    accept(held, case="*", metric="spills", machine=MACHINE)
    assert held.look() == [("accepted", "spills", 2, None)]
    assert history.main([]) == 0


@pytest.mark.parametrize(
    "fields", [{"metric": "registers"}, {"case": "m=1"}, {"machine": "another"}, {"operator": "w*"}]
)
def test_an_annotation_of_something_else_accepts_nothing(make: Any, fields: dict[str, str]) -> None:
    held = make(4)
    held.put("spills", [0, 0, 8, 8])
    accept(held, **fields)
    assert history.main([]) == 10


def test_an_annotation_of_another_commit_accepts_nothing(make: Any) -> None:
    held = make(4)
    held.put("spills", [0, 0, 8, 8])
    for index, code in ((1, 10), (3, 10), (2, 0)):
        accept(held, commit=held.commits[index])
        assert history.main([]) == code


def test_a_commit_between_two_measured_ones_may_be_named(make: Any) -> None:
    held = make(4)
    for index, value in ((0, 0), (3, 8)):
        held.log(held.commits[index]).put("spills", [value])
    accept(held)
    assert history.main([]) == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"commit": "0123456789"}, "commit"),
        ({"commit": "0"}, "commit"),
        ({"operator": "fp8_gem"}, "operator"),
        ({"metric": "spils"}, "metric"),
        ({"reason": " "}, "reason"),
        ({"why": "x"}, "why"),
    ],
)
def test_a_wrong_annotation_is_an_error(
    make: Any, capsys: pytest.CaptureFixture[str], fields: dict[str, str], said: str
) -> None:
    held = make(4)
    held.put("spills", [0, 0, 8, 8])
    accept(held, **fields)
    assert history.main([]) == 1
    assert said in capsys.readouterr().err
    with pytest.raises(_annotations.AnnotationError, match="number 1"):
        held.look()


def test_json_and_markdown_say_the_same(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    held = make(4)
    held.put("spills", [0, 0, 8, 8])
    assert history.main(["--json"]) == 10
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["code"]) == ("regressed", 10)
    (change,) = told["changes"]
    assert (change["case"], change["before"], change["after"]) == (CASE, 0, 8)
    assert held.commits[2].startswith(change["commit"])
    assert history.main(["--markdown"]) == 10
    assert f"| open | {MACHINE} | {OPERATOR} |" in capsys.readouterr().out


# The detector alone.


def noisy(levels: list[tuple[int, float]], sd: float, seed: int) -> list[float]:
    dice = random.Random(seed)
    return [level + dice.gauss(0, sd) for count, level in levels for _ in range(count)]


def test_steps_are_found_where_they_are() -> None:
    values = noisy([(20, 0.0), (15, 0.05), (20, 0.02)], 0.005, 1)
    steps = changepoints.find(values)
    assert [step.place for step in steps] == [20, 35]
    assert steps[0].after - steps[0].before == pytest.approx(0.05, abs=0.005)


def test_a_short_series_needs_to_be_told_its_noise() -> None:
    values = [0.0, 0.001, 0.05]
    assert changepoints.find(values) == []
    assert [s.place for s in changepoints.find(values, noise=Noise(0.003, 10))] == [2]
    assert changepoints.find(values, noise=Noise(0.03, 10)) == []


def test_p_is_students_times_the_places_looked_at() -> None:
    values = [0.0, 0.01, -0.01, 0.0, 0.1, 0.11, 0.09, 0.1]
    (step,) = changepoints.find(values, alpha=0.05)
    raw = stats.ttest_ind(values[:4], values[4:]).pvalue
    assert step.p == pytest.approx(5 * raw, rel=1e-6)


def test_a_point_that_scatters_weighs_less() -> None:
    values, noise = [0.0, 0.001, 0.05], Noise(0.003, 10)
    assert changepoints.find(values, variances=[0, 0, 0.03**2], noise=noise) == []


def test_equal_numbers_have_no_change() -> None:
    assert changepoints.find([0.1 + 0.2] * 30) == []
    assert changepoints.find([]) == []
    assert changepoints.find([1.0]) == []


@pytest.mark.parametrize("values", [[1.0, float("nan")], [1.0, float("inf")]])
def test_numbers_that_are_not_finite_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        changepoints.find(values)

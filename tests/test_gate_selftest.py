"""The self-test's own arithmetic: detectors, simulated series and processes, the page."""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING, Any

import numpy
import pytest

from benchmarks import rawlog
from gate import (
    _curves,
    _processes,
    _rivals,
    _simulate,
    _tuned,
    plan,
    selftest,
    stats,
)
from gate._shares import Share
from gate._simulate import Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMIT = "ab" * 20
PLAIN = Row(_simulate.INDEPENDENT, 30, 15)


# Shares.


def test_intervals_are_wilsons() -> None:
    assert Share(0, 10).interval == pytest.approx((0, 0.2775), abs=1e-4)
    assert Share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert Share(1, 2) + Share(3, 4) == Share(4, 6)
    assert Share(0, 0).interval == (0, 1)
    assert str(Share(5, 100)) == "5.0 (2.2-11)"


# Series.


@pytest.mark.parametrize("kind", [*_simulate.KINDS, *_simulate.OTHERS])
def test_a_series_is_its_seeds(kind: str) -> None:
    row = Row(kind, 200, 200)
    one, again = (_simulate.series(1, row, 0.0, 3) for _ in range(2))
    assert (one == again).all()
    for seed, draw in ((2, 3), (1, 4)):
        assert (one != _simulate.series(seed, row, 0.0, draw)).any()
    assert _simulate.PUBLISHED != _simulate.TUNING


def test_the_step_and_the_noise_are_as_large_as_they_are_said_to_be() -> None:
    row = Row(_simulate.INDEPENDENT, 4000, 4000)
    costs = _simulate.series(1, row, 0.05, 0)
    assert numpy.log(costs[4000:]).mean() - numpy.log(costs[:4000]).mean() == pytest.approx(
        numpy.log(1.05), abs=0.001
    )
    assert numpy.log(costs[:4000]).std() == pytest.approx(_simulate.SD, rel=0.05)


def test_noise_is_as_large_as_its_row_says_and_of_a_known_kind() -> None:
    row = Row(_simulate.INDEPENDENT, 4000, 0, 0.04)
    assert numpy.log(_simulate.series(1, row, 0.0, 0)).std() == pytest.approx(0.04, rel=0.05)
    with pytest.raises(ValueError, match="got 'pink'"):
        _simulate.noise(numpy.random.default_rng(1), "pink", 3)


@pytest.mark.parametrize(("kind", "rho"), [(_simulate.INDEPENDENT, 0.0), ("AR(0.8)", 0.8)])
def test_neighbours_resemble_each_other(kind: str, rho: float) -> None:
    noise = _simulate.noise(numpy.random.default_rng(1), kind, 20000)
    assert numpy.corrcoef(noise[1:], noise[:-1])[0, 1] == pytest.approx(rho, abs=0.03)
    assert noise.std() == pytest.approx(_simulate.SD, rel=0.1)


# The others.


def energy(left: numpy.ndarray, right: numpy.ndarray) -> float:
    """Of E-divisive, word for word: 2 E|X-Y| - E|X-X'| - E|Y-Y'|, times mn/(m+n)."""
    n, m = len(left), len(right)
    between = numpy.mean([abs(a - b) for a in left for b in right])
    inside = [
        numpy.mean([abs(a - b) for a, b in itertools.combinations(side, 2)]) if len(side) > 1 else 0
        for side in (left, right)
    ]
    return float((2 * between - sum(inside)) * n * m / (n + m))


@pytest.mark.parametrize("seed", range(3))
def test_e_divisive_is_its_definition(seed: int) -> None:
    y = numpy.random.default_rng(seed).standard_normal(11)
    best = max(
        (energy(y[2:place], y[place:end]), place)
        for place in range(3, 11)
        for end in range(place + 1, 12)
    )
    found = _rivals._divided(y, 2, 11, {})
    assert found[0] == pytest.approx(best[0])
    assert found[1] == best[1]


def test_everybody_finds_what_is_plain() -> None:
    costs = _simulate.series(5, PLAIN, 0.2, 0)
    assert all(places == [30] for places in _curves.alarms(costs, PLAIN).values())
    still = _simulate.series(5, PLAIN, 0.0, 0)
    assert not any(_curves.alarms(still, PLAIN).values())


def test_strength_is_the_largest_p_without_an_alarm() -> None:
    """The one before it has an alarm: a setting on the alarm's side has more of them than is said."""
    costs = _simulate.series(5, PLAIN, 0.03, 1)
    strength = _rivals.otava_strength(costs)
    assert strength > 3
    assert not _rivals.otava(costs, 10**-strength)
    assert _rivals.otava(costs, 10 ** -(strength - 0.1))


def test_every_row_has_its_settings() -> None:
    assert set(_tuned.SETTINGS) == set(_simulate.ROWS)
    strictest = math.ceil(max(p for _, p in _tuned.SETTINGS.values()))
    assert pytest.approx(10**-strictest) == _rivals.OTAVA_STRICT_P


def test_an_alarm_elsewhere_is_not_the_steps() -> None:
    assert _curves.alarmed([10, 31], PLAIN, 0.05)
    assert not _curves.alarmed([10, 33], PLAIN, 0.05)
    assert _curves.alarmed([10], PLAIN, 0.0)
    assert not _curves.alarmed([], PLAIN, 0.0)


def test_curves_count_and_say_who_finds_more() -> None:
    found = _curves.curves(3, 4, [PLAIN], [0.2], lambda _: None)
    assert found[PLAIN, 0.2] == dict.fromkeys(_curves.DETECTORS, Share(3, 3))
    assert found[PLAIN, 0.0][_curves.OURS].of == 4
    assert _curves.beaten(found, [0.2], _curves.DUELS) == (0, [])
    found[PLAIN, 0.2] = dict.fromkeys(_curves.DETECTORS, Share(90, 100))
    found[PLAIN, 0.2][_curves.OURS] = Share(50, 100)
    more, told = _curves.beaten(found, [0.2], _curves.DUELS)
    assert more == len(told) == 2
    assert "a step of 20 %" in told[0]


def test_better_and_worse_need_intervals_that_are_apart() -> None:
    held = {"mine": Share(50, 100), "low": Share(10, 100), "high": Share(55, 100)}
    assert _curves.judged(held, [("mine", "low")]) == "better"
    assert _curves.judged(held, [("mine", "low"), ("mine", "high")]) == "equal"
    assert _curves.judged(held | {"mine": Share(20, 100)}, [("mine", "high")]) == "**worse**"


# Processes.


def test_a_slowdown_is_found_and_nothing_else() -> None:
    model = _processes.Model("quiet", between=0.002, cases=20)
    result = _processes.measure(model, 5, runs=10, seed=1, slowed_runs=5)
    assert result.cases == Share(0, 200)
    assert result.runs == Share(0, 10)
    assert result.found[0.05] == Share(10, 10)
    assert result.found[0.01].value < 0.5


def test_the_slowdown_is_heads() -> None:
    model = _processes.Model("quiet", between=0.002, cases=10)
    for seed in range(6):  # either commit may begin
        dice = numpy.random.default_rng(seed)
        verdicts = _processes._verdicts(model, 5, dice, 0.1, 3)
        assert verdicts[:3] == [stats.REGRESSED] * 3
        assert stats.IMPROVED not in verdicts


def test_false_alarms_of_an_order_that_does_not_alternate_would_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted: what is slow in the middle of a block falls on one side, if blocks are all alike."""
    monkeypatch.setattr(plan, "order", lambda block: ("base", "head", "head", "base"))

    class Lopsided(_processes.Model):
        def draw(self, dice: numpy.random.Generator, processes: int) -> numpy.ndarray:
            costs = super().draw(dice, processes)
            costs[1::4] *= 1.1
            costs[2::4] *= 1.1
            return costs

    result = _processes.measure(Lopsided("lopsided", cases=10), 5, runs=4, seed=1, slowed_runs=1)
    assert result.runs == Share(4, 4)
    assert selftest.broken_promises({}, [result])


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    """A raw log of processes that were made up; each slower than the one before."""

    def make(processes: int, *, cases: int = 12, commits: tuple[str, ...] = (COMMIT,)) -> Path:
        path = tmp_path / "aa.jsonl"
        dice = random.Random(1)
        for number in range(processes):
            commit = commits[number % len(commits)]
            writer = rawlog.Writer(path, commit=commit, process=f"p{number}")
            common = 1 + dice.gauss(0, 0.002) + 1e-6 * number
            rows = [
                {
                    "operator": "fp8_gemm", "case": f"m={case}", "implementation": "kernels",
                    "metric": "device_us", "unit": "us", "round": number + 1,
                    "samples": [50 * common * (1 + dice.gauss(0, 0.003)) for _ in range(12)],
                }
                for case in range(cases)
            ]  # fmt: skip
            writer.append_all("sample", rows)
        return path

    return make


def test_measured_processes_are_drawn_whole_and_with_their_neighbours(log: Any) -> None:
    source = _processes.read(log(44), pytest.fail)
    assert source.costs.shape == (44, 12)
    drawn = source.draw(numpy.random.default_rng(1), 20)
    places = [int(numpy.flatnonzero((source.costs == row).all(axis=1))[0]) for row in drawn]
    for block in range(5):
        first, *rest = places[4 * block : 4 * block + 4]
        assert rest == [(first + i) % 44 for i in (1, 2, 3)]
    assert len(set(places)) > 8


def test_measured_processes_drive_the_verdict(log: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = _processes.measure(_processes.read(log(44), pytest.fail), 5, 10, 1, 5)
    assert result.cases == Share(0, 120)
    assert result.found[0.05] == Share(5, 5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"processes": 39}, "expected 40 processes or more, got 39"),
        ({"processes": 40, "commits": (COMMIT, "cd" * 20)}, "expected one commit"),
        ({"processes": 40, "cases": 0}, "got 0"),
    ],
)
def test_processes_that_prove_nothing_are_refused(
    log: Any, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        _processes.read(log(**arguments), lambda _: None)


def test_a_case_that_one_process_lacks_is_left_out(log: Any) -> None:
    path = log(40)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert _processes.read(path, pytest.fail).costs.shape == (40, 11)


def test_the_page_and_the_picture(
    log: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_simulate, "ROWS", tuple(Row(kind, 10, 5) for kind in _simulate.KINDS))
    monkeypatch.setattr(_simulate, "STEPS", (0.02, 0.03, 0.05, 0.1))
    monkeypatch.setattr(_processes, "MODELS", _processes.MODELS[:1])
    monkeypatch.setattr(_processes, "BLOCKS", (8,))
    monkeypatch.setattr(selftest, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(selftest, "PICTURE", tmp_path / "picture.svg")
    given = ["--draws", "1", "--noise", "1", "--runs", "1", "--quiet", "--aa", str(log(40))]
    assert selftest.main([*given, "--write"]) == 0
    text = (tmp_path / "page.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert "40 measured processes, 12 cases" in text
    assert "which times 12 cases of 1 operators (`fp8_gemm`)" in text
    assert "| 8 | 32 | 0.0 | " in text
    for row in ("| 2 % | 10 % | 30+5 |", "| 4 % | 3 % | 10+2 |", "| random walk | 100 |"):
        assert row in text
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")


def test_a_promise_that_is_clearly_broken_is_told() -> None:
    clean = dict.fromkeys(_curves.DETECTORS, Share(1, 100))
    assert selftest.broken_promises({(PLAIN, 0.0): clean}, []) == []
    loud = clean | {_curves.OURS: Share(9, 100)}
    (told,) = selftest.broken_promises({(PLAIN, 0.0): loud}, [])
    assert "30+15" in told


def test_part_of_it_is_not_written() -> None:
    with pytest.raises(SystemExit):
        selftest.main(["--only", "series", "--write"])

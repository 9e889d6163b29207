"""The verdict's arithmetic: what it says, how often it is wrong, how often it sees what is there."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gate import plan, stats
from gate.stats import IMPROVED, INCONCLUSIVE, REGRESSED, SAME, Observation, Rule, decide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLOCKS = 5
PAIRS = stats.PAIRS_A_BLOCK * BLOCKS
# Scatter of a process, in percent, that leaves a mean of ten pairs no doubt.
STEADY = [0.1, -0.2, 0.3, 0.0, -0.1, 0.2, -0.3, 0.1, 0.0, -0.1]


def sides(change: float, scatter: Sequence[float] = STEADY) -> tuple[list[float], list[float]]:
    """Processes of base and head, the latter slower by ``change``."""
    base = [100 + part for part in scatter]
    return base, [(100 - part) * (1 + change) for part in scatter]


def noise(kind: str, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Logarithms of times of ``count`` processes in the order in which they run."""
    white = 0.005 * random.standard_normal(count)
    if kind == "drift":
        return white + 0.002 * np.arange(count)
    if kind == "walk":
        return np.cumsum(white)
    if kind == "outliers":
        return np.where(random.random(count) < 0.03, white + 0.1, white)
    if kind == "tails":
        return 0.005 * random.standard_t(3, count) / math.sqrt(3)
    if kind == "levels":
        return 0.2 * white + 0.01 * (random.random(count) < 0.5)
    for index in range(1, count if kind == "memory" else 0):
        white[index] = 0.7 * white[index - 1] + math.sqrt(1 - 0.7**2) * white[index]
    return white


def simulated(kind: str, change: float, number: int, blocks: int = BLOCKS) -> list[stats.Decision]:
    """Comparisons under a noise, each judged alone."""
    random = np.random.default_rng(7)
    order = np.array([side == plan.HEAD for block in range(blocks) for side in plan.order(block)])
    decisions = []
    for _ in range(number):
        times = np.exp(noise(kind, order.size, random) + math.log1p(change) * order)
        decisions.append(decide(times[~order].tolist(), times[order].tolist()))
    return decisions


def share(decisions: Sequence[stats.Decision], verdict: str) -> float:
    return Counter(decision.verdict for decision in decisions)[verdict] / len(decisions)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (0.0, SAME), (0.005, SAME), (-0.005, SAME), (0.02, REGRESSED), (0.05, REGRESSED),
        (1.0, REGRESSED), (-0.03, IMPROVED), (-0.5, IMPROVED),
    ],
)  # fmt: skip
def test_a_clear_change_has_its_verdict(change: float, verdict: str) -> None:
    decision = decide(*sides(change))
    assert decision.verdict == verdict
    low, high = decision.interval
    assert low < change < high
    assert decision.change == pytest.approx(change, abs=1e-3)
    assert decision.more_blocks is None


def test_noise_leaves_it_open_and_says_how_much_is_lacking() -> None:
    decision = decide(*sides(0.012, [6 * part for part in STEADY]))
    assert decision.verdict == INCONCLUSIVE
    assert decision.more_blocks is not None
    assert decision.more_blocks > 0


def test_the_named_number_of_blocks_is_enough_and_not_far_too_much() -> None:
    """Half of the repetitions are above what was expected of them, half below."""
    random = np.random.default_rng(1)
    settled, wanted = [], []
    for _ in range(150):
        x = np.exp(0.012 * random.standard_normal((2, PAIRS)))
        first = decide(x[0].tolist(), x[1].tolist())
        if first.verdict == INCONCLUSIVE and first.more_blocks:
            more = np.exp(0.012 * random.standard_normal((2, 2 * first.more_blocks)))
            again = decide([*x[0], *more[0]], [*x[1], *more[1]])
            settled.append(again.verdict != INCONCLUSIVE)
            wanted.append(first.more_blocks)
    assert len(settled) > 30
    assert np.mean(settled) > 0.5
    assert np.median(wanted) < 10


def test_one_process_that_was_disturbed_decides_nothing() -> None:
    base, head = sides(0.0)
    for place in range(PAIRS):
        disturbed = [1.5 * time if index == place else time for index, time in enumerate(head)]
        assert decide(base, disturbed).verdict == SAME
        assert decide(base, [0.0 + time for time in disturbed]).change < 0.005
    base, head = sides(0.04)
    assert decide(base, [1.5 * head[0], *head[1:]]).verdict == REGRESSED
    assert decide([1.5 * base[0], *base[1:]], head).verdict == REGRESSED


@pytest.mark.parametrize(
    "kind", ["white", "drift", "walk", "outliers", "tails", "levels", "memory"]
)
def test_false_alarms_are_rare_whatever_the_noise(kind: str) -> None:
    """The p-value itself is held to its level, a stricter thing than the verdict."""
    decisions = simulated(kind, 0.0, 1500)
    significant = np.mean([decision.q <= stats.DEFAULT.alpha for decision in decisions])
    assert significant < 0.08
    assert share(decisions, REGRESSED) < 0.02
    if kind == "white":
        assert significant > 0.03


@pytest.mark.parametrize(("change", "least"), [(0.02, 0.7), (0.03, 0.97), (0.05, 1.0)])
def test_what_matters_is_seen(change: float, least: float) -> None:
    """At half a percent between processes."""
    decisions = simulated("white", change, 400)
    assert share(decisions, REGRESSED) >= least
    assert share(decisions, SAME) < 0.04
    assert share(decisions, IMPROVED) == 0


def test_a_drift_costs_little() -> None:
    """Ten times a process's scatter over the whole comparison, and no false alarm of either sign."""
    assert share(simulated("drift", 0.03, 400), REGRESSED) > 0.9
    assert share(simulated("drift", 0.0, 400), SAME) > 0.9


def test_many_cases_do_not_make_false_alarms() -> None:
    """400 cases without a change, ten with one: found, and hardly anything beside them."""
    random = np.random.default_rng(3)
    cases = []
    for number in range(410):
        x = np.exp(0.008 * random.standard_normal((2, PAIRS)))
        cases.append(Observation(x[0].tolist(), (x[1] * (1.06 if number < 10 else 1)).tolist()))
    alone = [decide(*case[:2]) for case in cases]
    together = stats.decide_all(cases)
    assert sum(decision.q <= 0.05 for decision in alone[10:]) > 10
    assert sum(decision.q <= 0.05 for decision in together[10:]) <= 2
    assert [decision.verdict for decision in together[:10]].count(REGRESSED) >= 9
    for one, other in zip(alone, together, strict=True):
        assert other.time == one.time
        assert other.q >= one.q


def test_both_clocks_must_agree() -> None:
    """A clock that fell makes time longer and leaves cycles as they were."""
    base, head = sides(0.05)
    same = sides(0.0)[1]
    agree = decide(base, head, base_cycles=base, head_cycles=head)
    assert agree.verdict == REGRESSED
    fell = decide(base, head, base_cycles=base, head_cycles=same)
    assert (fell.verdict, fell.more_blocks) == (INCONCLUSIVE, None)
    assert "regressed in time, same in clock cycles" in fell.reason
    assert decide(base, same, base_cycles=base, head_cycles=head).verdict == INCONCLUSIVE
    unsure = sides(0.05, [30 * part for part in STEADY])
    assert decide(base, head, base_cycles=unsure[0], head_cycles=unsure[1]).verdict == INCONCLUSIVE
    assert decide(base, same, base_cycles=base, head_cycles=unsure[0]).verdict == SAME


def test_the_sides_are_treated_alike() -> None:
    random = np.random.default_rng(5)
    swapped = {REGRESSED: IMPROVED, IMPROVED: REGRESSED}
    for change in (0.0, 0.015, 0.03):
        x = np.exp(0.004 * random.standard_normal((2, PAIRS)))
        base, head = x[0].tolist(), (x[1] * (1 + change)).tolist()
        one, other = decide(base, head), decide(head, base)
        assert other.verdict == swapped.get(one.verdict, one.verdict)
        assert one.time is not None
        assert other.time is not None
        assert other.time.mean == pytest.approx(-one.time.mean)
        scaled = decide([1e-6 * time for time in base], [1e-6 * time for time in head])
        assert scaled.change == pytest.approx(one.change)


def test_equal_numbers_are_equal_and_no_division_by_zero() -> None:
    assert decide([5.0] * PAIRS, [5.0] * PAIRS).verdict == SAME
    assert decide([5.0] * PAIRS, [5.5] * PAIRS).verdict == REGRESSED


@pytest.mark.parametrize("pairs", range(stats.LEAST_PAIRS))
def test_too_few_processes_decide_nothing(pairs: int) -> None:
    decision = decide([1.0] * pairs, [2.0] * pairs)
    assert decision.verdict == INCONCLUSIVE
    assert decision.more_blocks == math.ceil((stats.LEAST_PAIRS - pairs) / 2)
    assert f"{pairs if pairs > 1 else 0} pairs" in decision.reason
    assert math.isnan(decision.change) == (pairs < 2)


def test_two_blocks_see_what_is_large() -> None:
    base, head = sides(0.05)
    assert decide(base[:4], head[:4]).verdict == REGRESSED


def test_the_threshold_is_the_rules() -> None:
    assert decide(*sides(0.03), Rule(threshold=0.1)).verdict == SAME
    assert decide(*sides(0.006), Rule(threshold=0.005)).verdict == REGRESSED


@pytest.mark.parametrize(
    ("base", "head", "named"),
    [
        ([1.0, 2.0], [1.0], "head"), ([1.0], [1.0, 2.0], "head"), ([0.0, 1.0], [1.0, 1.0], "base"),
        ([1.0, 1.0], [1.0, math.nan], "head"), ([math.inf, 1.0], [1.0, 1.0], "base"),
        ([1.0, 1.0], [1.0, -1.0], "head"),
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(base: list[float], head: list[float], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}: expected"):
        decide(base, head)


@pytest.mark.parametrize(
    "setting",
    [
        {"threshold": 0.0}, {"threshold": 1.0}, {"threshold": math.nan}, {"fraction": 1.0},
        {"fraction": -0.1}, {"alpha": 0.0}, {"alpha": 0.5}, {"resolution": 0.0},
    ],
)  # fmt: skip
def test_settings_that_could_not_decide_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(setting))}: expected"):
        Rule(**setting)


def test_ten_thousand_verdicts_take_less_than_a_minute() -> None:
    """Else nobody would simulate it."""
    base, head = sides(0.01)
    started = time.process_time()
    for _ in range(500):
        decide(base, head)
    assert time.process_time() - started < 3

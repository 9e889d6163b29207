"""The detector of steps in long series: what it finds, and that its likelihoods are what they are said to be."""

from __future__ import annotations

import math

import numpy
import pytest
import scipy.optimize
import scipy.stats

from gate import _likelihood, _tuned, changepoints
from gate._likelihood import Model


def quiet(size: int, seed: int = 1, sd: float = 0.01) -> numpy.ndarray:
    noise: numpy.ndarray = sd * numpy.random.default_rng(seed).standard_normal(size)
    return noise


def test_a_step_is_no_line_and_a_line_no_step() -> None:
    y = quiet(40)
    y[25:] += 0.05
    found = _likelihood.best(y)
    assert found.place == 25
    assert found.gain > 8
    assert found.rise == pytest.approx(0.05, abs=0.01)
    assert _likelihood.best(quiet(40) + numpy.linspace(0, 0.05, 40)).gain < 2


def test_outliers_and_slow_waves_are_no_step() -> None:
    y = quiet(40)
    y[[5, 20, 33]] += 0.2
    assert changepoints.find(y) == []
    wave = numpy.cumsum(quiet(40, sd=0.01))
    assert changepoints.find(wave) == []


def test_a_slow_bend_is_no_step() -> None:
    """Of a long series; without the bend, or without a resemblance near 1, the model makes steps of it."""
    bend = 0.05 * numpy.linspace(0, 1, 150) ** 2
    assert changepoints.find(quiet(150) + bend) == []
    straight = _likelihood.ANY._replace(drift=_likelihood.ANY.drift[:2])
    assert changepoints.Long(quiet(150) + bend, straight).find(changepoints.THRESHOLD)


def test_gain_does_not_depend_on_unit_or_level() -> None:
    y = quiet(30)
    y[20:] += 0.04
    gain = _likelihood.best(y).gain
    assert _likelihood.best(1e6 + 1e3 * y).gain == pytest.approx(gain, rel=1e-5)
    assert _likelihood.best(-y).gain == pytest.approx(gain, rel=1e-9)


def normal(y: numpy.ndarray, rho: float, shapes: list[numpy.ndarray], sds: list[float]) -> float:
    """Log-likelihood but for a constant, from the covariance: shapes of normal sizes, a free level."""
    n = len(y)
    covariance = rho ** abs(numpy.subtract.outer(numpy.arange(n), numpy.arange(n)))
    for shape, sd in zip((numpy.ones(n), *shapes), (1e4, *sds), strict=True):
        covariance += sd * sd * numpy.outer(shape, shape)
    rest = y @ numpy.linalg.solve(covariance, y)
    return float(-numpy.linalg.slogdet(covariance)[1] / 2 - (n - 1) / 2 * numpy.log(rest))


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_the_likelihood_of_normal_noise_is_that_of_its_covariance(rho: float) -> None:
    y, line = quiet(15), numpy.linspace(-1, 1, 15)
    step = (numpy.arange(15) >= 9).astype(float)
    shapes = [line, (3 * line**2 - 1) / 2, step]
    model = Model(((rho, 1.0),), (((0.8, 0.4), 1.0),), _tuned.NORMAL)
    likely, _ = _likelihood._averaged(y, numpy.stack([step, 0 * step]), model)
    expected = normal(y, rho, shapes, [0.8, 0.4, _likelihood.STEP_SDS])
    expected -= normal(y, rho, shapes[:2], [0.8, 0.4])
    assert likely[0] - likely[1] == pytest.approx(expected, abs=1e-4)


def test_the_likelihood_of_a_tail_is_students() -> None:
    """Laplace's method: the density at the best level and size, and how sharp the level is there."""
    y = 0.01 * numpy.random.default_rng(3).standard_t(2, 25)

    def density(at: numpy.ndarray) -> float:
        return float(scipy.stats.t.logpdf((y - at[0]) / numpy.exp(at[1]), 2).sum() - 24 * at[1])

    at = scipy.optimize.minimize(lambda at: -density(at), [0.0, -4.6], method="Nelder-Mead").x
    weights = 3 / (2 + ((y - at[0]) / numpy.exp(at[1])) ** 2)
    expected = density(at) + 12.5 * numpy.log(2 * numpy.pi) - numpy.log(weights.sum()) / 2
    model = Model(_tuned.ALONE, _tuned.STILL, ((2.0, 1.0),))
    likely, _ = _likelihood._averaged(y, numpy.zeros((1, 25)), model)
    assert likely[0] == pytest.approx(expected, abs=0.5)  # it has not converged entirely


def test_a_gain_is_of_one_direction() -> None:
    """Up and down again: what the way down gains says nothing for the way up."""
    y = quiet(24, seed=5)
    y[8:16] += 0.05
    shapes = (numpy.arange(24) >= numpy.arange(2, 24)[:, None]).astype(float)
    shapes[-1] = 0
    likely, rises = _likelihood._averaged(y, shapes[[*range(21), -1]], _likelihood.ANY)
    gains = numpy.exp(likely[:-1] - likely[-1])
    best = _likelihood.best(y)
    way = (rises[:-1] > 0) == (best.rise > 0)
    assert gains[~way].sum() > 0.01 * gains[way].sum()
    assert best.gain == pytest.approx(numpy.log(gains[way].sum() / 21**_likelihood.PLACES))


def test_what_is_unknown_is_averaged_by_its_shares() -> None:
    y = quiet(20, seed=2)
    shapes = (numpy.arange(20) >= numpy.array([12, 15])[:, None]).astype(float)
    total = 0.0
    for rho, rho_share in _likelihood.ANY.resemblance:
        for drift, drift_share in _likelihood.ANY.drift:
            for tail, tail_share in _likelihood.ANY.tails:
                share = rho_share * drift_share * tail_share
                one = Model(((rho, share),), ((drift, 1.0),), ((tail, 1.0),))
                total = total + numpy.exp(_likelihood._averaged(y, shapes, one)[0])
    assert _likelihood._averaged(y, shapes, _likelihood.ANY)[0] == pytest.approx(numpy.log(total))


def test_outliers_do_not_hide_a_step() -> None:
    y = quiet(40, seed=3)
    y[25:] += 0.04
    y[[4, 12, 18, 30, 36]] += 0.12
    assert [step.place for step in changepoints.find(y)] == [25]
    y[4:23:6] += 0.2
    assert _likelihood.best(y).rise == pytest.approx(0.04, abs=0.01)
    plain = _likelihood.ANY._replace(tails=_tuned.NORMAL)
    assert changepoints.Long(y, plain).find(changepoints.THRESHOLD) == []


def test_a_part_of_a_series_has_to_gain_more() -> None:
    y = quiet(45, seed=3)
    y[20:30] += 0.08
    series = changepoints.Long(y)
    found = series.scan(0, 45)
    assert found is not None
    inside = [one.gain for one in series.looked.values() if one.place == found.place]
    parts = [low for low, high in changepoints.stretches(45) if 10 <= high - low < 45]
    cost = _likelihood.PLACES * math.log(len(parts))
    assert found.gain == pytest.approx(max(inside) - cost)


def test_too_few_numbers_are_refused_and_equal_ones_are_no_step() -> None:
    with pytest.raises(ValueError, match="expected 10"):
        _likelihood.best(numpy.zeros(9))
    assert changepoints.find([3.0] * 40) == []


@pytest.mark.parametrize("levels", [(20, 10, 15), (15, 15, 15), (30, 6, 30)])
def test_what_came_and_went_is_found_in_a_long_series(levels: tuple[int, int, int]) -> None:
    y = quiet(sum(levels), seed=3)
    y[levels[0] : levels[0] + levels[1]] += 0.08
    assert [step.place for step in changepoints.find(y)] == [levels[0], levels[0] + levels[1]]


def test_two_points_at_the_end_are_enough_when_they_are_clear() -> None:
    y = quiet(20, seed=2)
    y[18:] += 0.1
    assert [step.place for step in changepoints.find(y)] == [18]

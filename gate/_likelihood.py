"""A step against a straight line, for series that are long enough to tell their own noise.

Two models of a stretch are compared by their largest likelihoods: two levels, and a straight line.
Either has two parameters for what is measured and the same noise around it: successive points
resemble each other (an autoregression of order 1), and some points are far out (Student's t).  So
neither a slow drift, nor neighbours that went the same way, nor an outlier passes for a step, unless
a step explains them better still.

The difference of the two log-likelihoods, a step's *gain*, is not distributed as in a textbook,
because place, resemblance and tail are all chosen by the data.  What noise alone reaches was
simulated: it hardly depends on the length (``python -m gate.selftest --tune``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy

# Resemblance of neighbours, and degrees of freedom of the tail with what each costs: a heavy tail
# has to earn its place, or two high points at the end would always be outliers.
RESEMBLANCE = (0.0, 0.3, 0.6, 0.9)
TAILS = ((None, 0.0), (8.0, 1.0), (3.0, 2.0))
ROUNDS = 4  # of reweighting
# Fewer points cannot tell a step from their noise without being told the noise.
LEAST = 10


class Split(NamedTuple):
    """The best step of a stretch.  place: of the first point behind it.  gain: in log-likelihood over
    the best line.  rise: the level behind it less the level before."""

    place: int
    gain: float
    rise: float


def best(y: numpy.ndarray) -> Split:
    """The best step of the numbers ``y`` [n], which must be at least LEAST."""
    import numpy

    n = len(y)
    if n < LEAST:
        raise ValueError(f"y: expected {LEAST} numbers or more, got {n}")
    y = y - numpy.median(y)
    scale = numpy.abs(y).max()
    if scale == 0 or not numpy.any(numpy.abs(y - y[0]) > 1e-12 * scale):
        return Split(n // 2, -numpy.inf, 0.0)
    y = y / scale
    places = numpy.arange(2, n - 1)
    steps = (numpy.arange(n)[None, :] >= places[:, None]).astype(float)
    gained, rises = _fit(y, steps)
    line, _ = _fit(y, numpy.linspace(-1.0, 1.0, n)[None, :])
    chosen = int(numpy.argmax(gained))
    gain = float(gained[chosen] - line[0])
    return Split(int(places[chosen]), gain, float(rises[chosen]) * float(scale))


def _fit(y: numpy.ndarray, shapes: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Largest log-likelihood of ``level + rise * shape`` for each of ``shapes`` [p, n], and the rise.

    The noise's resemblance and tail are the likeliest of those listed, its size is free.
    """
    import numpy
    from scipy import special

    n = len(y)
    rho = numpy.array(RESEMBLANCE)[:, None, None]
    data = _whitened(y[None, None, :], rho)[:, 0]
    one = _whitened(numpy.ones((1, 1, n)), rho)[:, 0]
    pair, known = numpy.stack([one, data], axis=2), numpy.stack([one * one, one * data], axis=2)
    shape = _whitened(shapes[None, :, :], rho)
    most = numpy.full(len(shapes), -numpy.inf)
    rises = numpy.zeros(len(shapes))
    # Of a Gaussian, every constant left out; an exact fit must not divide by zero.
    jacobian = 0.5 * numpy.log(1 - rho[:, :, 0] ** 2)
    for freedom, cost in TAILS:
        weights = numpy.ones((len(rho), len(shapes), n))
        for _ in range(1 if freedom is None else ROUNDS):
            rise, rest = _solved(known, pair, shape, weights)
            squares = rest * rest
            size = numpy.einsum("rpn,rpn->rp", weights, squares) / n
            squares /= numpy.maximum(size, 1e-20)[:, :, None]
            if freedom is not None:
                weights = (freedom + 1) / (freedom + squares)
        likely = jacobian - n / 2 * numpy.log(numpy.maximum(size, 1e-20)) - cost
        if freedom is None:
            likely -= n / 2
        else:
            tail = numpy.log1p(squares / freedom).sum(axis=2)
            constant = special.gammaln((freedom + 1) / 2) - special.gammaln(freedom / 2)
            likely += n * (constant - 0.5 * numpy.log(freedom / 2)) - (freedom + 1) / 2 * tail
        which = likely.argmax(axis=0)
        at = which, numpy.arange(len(shapes))
        better = likely[at] > most
        most = numpy.where(better, likely[at], most)
        rises = numpy.where(better, rise[at], rises)
    return most, rises


def _whitened(x: numpy.ndarray, rho: numpy.ndarray) -> numpy.ndarray:
    """What remains of ``x`` [.., n] of its neighbours' resemblance ``rho``."""
    import numpy

    first = x[..., :1] * numpy.sqrt(1 - rho**2)
    return numpy.concatenate([first, x[..., 1:] - rho * x[..., :-1]], axis=-1)


def _solved(
    known: numpy.ndarray, pair: numpy.ndarray, shape: numpy.ndarray, weights: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Weighted least squares of level and rise: the rise, and what it leaves.

    pair [r, n, 2]: the level's shape and the data.  known [r, n, 2]: both, times the level's shape.
    """
    import numpy

    weighted = weights * shape
    aa, ay = numpy.moveaxis(weights @ known, 2, 0)
    ab, by = numpy.moveaxis(weighted @ pair, 2, 0)
    bb = numpy.einsum("rpn,rpn->rp", weighted, shape)
    below = aa * bb - ab * ab
    level, rise = (bb * ay - ab * by) / below, (aa * by - ab * ay) / below
    rest = pair[:, None, :, 1] - level[:, :, None] * pair[:, None, :, 0]
    rest -= rise[:, :, None] * shape
    return rise, rest

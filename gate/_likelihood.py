"""How much likelier a series is with a step than without one, whatever its noise is like.

Nobody knows the noise of a real series: its neighbours may resemble each other (an autoregression of
order 1), it may drift in a line or a bend, and some of its points may be far out (Student's t).  So a
series is looked at with every combination of these, with a step at each place and without one, and what
is unknown is averaged over, not chosen: with the likeliest noise alone, a step would be fitted twice, by
its own height and by the noise that suits it.  The logarithm of the ratio of the two averages, a Bayes
factor, is a step's *gain*.  What noise alone reaches was simulated (``python -m gate selftest --tune``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy

# Fewer points cannot tell a step from their noise without being told the noise.
LEAST = 10
# Everything is in standard deviations of the noise, which is free, as the level is.  A step is a normal
# number of so many.  Tuned beside 3 (finds fewer steps of 3 % amid noise of 1 %) and 8 (as good).
STEP_SDS = 5.0
# The sum over the places of a step is divided by their number to this power.  With 1, the same step is
# found less easily in a longer series, with 0, noise is taken for a step there more often.
PLACES = 0.75
ROUNDS = 4  # of reweighting


class Model(NamedTuple):
    """What noise may be like: every combination of the three, each value with its share beforehand.

    resemblance: of neighbours.  drift: from the middle to an end, of a line and of a bend, each a normal
    number of so many standard deviations.  tails: degrees of freedom.  Shares need not add up to 1.
    """

    resemblance: tuple[tuple[float, float], ...]
    drift: tuple[tuple[tuple[float, float], float], ...]
    tails: tuple[tuple[float, float], ...]


# Of a real series.  Tuned for the share of steps found where no row has more than 1 % false alarms, on 400
# series without and 300 with a step a row, beside six resemblances, three drifts and five tails.  The
# resemblance of 0.97 and the bend are for kinds that are not in those rows: without the one, a random
# walk, and without the other, a slow curve is taken for steps if the series is long.
ANY = Model(
    resemblance=((0.0, 1.0), (0.5, 1.0), (0.85, 1.0), (0.97, 0.3)),
    drift=(((0.0, 0.0), 2.0), ((1.0, 0.0), 2.0), ((4.0, 2.0), 1.0)),
    tails=((math.inf, 2.0), (2.0, 1.0)),
)


class Split(NamedTuple):
    """The best step of a stretch.  place: of the first point behind it.  gain: see above.  rise: the
    level behind it less the level before."""

    place: int
    gain: float
    rise: float


def best(y: numpy.ndarray, model: Model = ANY) -> Split:
    """The best step of the numbers ``y`` [n], which must be at least LEAST."""
    import numpy
    from scipy import special

    n = len(y)
    if n < LEAST:
        raise ValueError(f"y: expected {LEAST} numbers or more, got {n}")
    y = y - numpy.median(y)
    scale = numpy.abs(y).max()
    if scale == 0 or not numpy.any(numpy.abs(y - y[0]) > 1e-12 * scale):
        return Split(n // 2, -numpy.inf, 0.0)
    places = numpy.arange(2, n - 1)
    shapes = numpy.zeros((len(places) + 1, n))  # the last is no step
    shapes[:-1] = numpy.arange(n) >= places[:, None]
    likely, rises = _averaged(y / scale, shapes, model)
    gains, rises = likely[:-1] - likely[-1], rises[:-1]
    chosen = int(numpy.argmax(gains))
    gain = special.logsumexp(gains[(rises > 0) == (rises[chosen] > 0)])
    gain -= PLACES * math.log(len(places))
    return Split(int(places[chosen]), float(gain), float(rises[chosen] * scale))


def _averaged(
    y: numpy.ndarray, shapes: numpy.ndarray, model: Model
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Log-likelihood of ``y`` [n] with a step of each of ``shapes`` [p, n], averaged over the model's
    noise, the level, the drift and the step; and the rise with the noise that suits it best."""
    import numpy
    from scipy import special

    n = len(y)
    shares = numpy.array([share for _, share in model.drift])
    # Of level, line, bend and step, as precisions.  Without drift: one that leaves none.
    known = numpy.array([[math.inf, *sds, STEP_SDS] for sds, _ in model.drift])
    known = 1 / numpy.maximum(known, 1e-3) ** 2
    line = numpy.linspace(-1, 1, n)
    plain = numpy.stack([numpy.ones(n), line, 1.5 * line * line - 0.5, y])
    found = []
    for rho, share in model.resemblance:
        fixed, steps = _whitened(plain, rho), _whitened(shapes, rho)
        for freedom, tail_share in model.tails:
            likely, rise = _fit(fixed, steps, known, freedom)
            likely += numpy.log(share * tail_share * shares)[:, None]
            found.append((likely - (n - 1) / 2 * math.log(1 - rho * rho), rise))
    likely, rises = (numpy.concatenate(parts) for parts in zip(*found, strict=True))
    which = likely.argmax(axis=0), numpy.arange(len(shapes))
    total: numpy.ndarray = special.logsumexp(likely, axis=0)
    return total, rises[which]


def _fit(
    fixed: numpy.ndarray, steps: numpy.ndarray, known: numpy.ndarray, freedom: float
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Log-likelihood [c, p] with level, drift and step averaged over, and the rise [c, p].

    fixed [4, n]: shapes of level, line and bend, and the data; steps [p, n]; all whitened.  known [c, 4]:
    what is known of the sizes of the shapes and of the step beforehand, as precisions.  Exact for normal
    noise (Rasmussen and Williams, Gaussian Processes, 2006, 2.7) but for a constant, as is what the size
    of the noise contributes; with tails, by Laplace's method around the weighted fit.
    """
    import numpy
    from scipy import special

    n, (c, p) = fixed.shape[1], (len(known), len(steps))
    products = numpy.stack([a * b for a in fixed[:3] for b in fixed], axis=1)
    weights = numpy.ones((c, p, n))
    inner, right = numpy.empty((c, p, 4, 4)), numpy.empty((c, p, 4))
    for _ in range(1 if math.isinf(freedom) else ROUNDS):
        own = (weights @ products).reshape(c, p, 3, 4)
        weighted = weights * steps
        cross = weighted @ fixed.T
        inner[..., :3, :3], right[..., :3] = own[..., :3], own[..., 3]
        inner[..., 3, :3] = inner[..., :3, 3] = cross[..., :3]
        inner[..., 3, 3], right[..., 3] = numpy.einsum("cpn,pn->cp", weighted, steps), cross[..., 3]
        inner += known[:, None, :, None] * numpy.eye(4)
        beta = numpy.linalg.solve(inner, right[..., None])[..., 0]
        rest = fixed[3] - beta[..., :3] @ fixed[:3]
        rest -= beta[..., 3:] * steps
        rest *= rest
        paid = (known[:, None] * beta * beta).sum(axis=2)
        size = (numpy.einsum("cpn,cpn->cp", weights, rest) + paid) / (n - 1)
        size = numpy.maximum(size, 1e-20)  # an exact fit must not divide by zero
        rest /= size[..., None]
        weights = (freedom + 1) / (freedom + rest) if math.isfinite(freedom) else weights
    likely = numpy.log(known[:, 1:]).sum(axis=1)[:, None] / 2 - numpy.linalg.slogdet(inner)[1] / 2
    likely -= (n - 1) / 2 * numpy.log(size) + paid / size / 2
    if math.isinf(freedom):
        return likely - rest.sum(axis=2) / 2, beta[..., 3]
    constant = special.gammaln((freedom + 1) / 2) - special.gammaln(freedom / 2)
    likely += n * (constant - math.log(freedom / 2) / 2)
    return likely - (freedom + 1) / 2 * numpy.log1p(rest / freedom).sum(axis=2), beta[..., 3]


def _whitened(x: numpy.ndarray, rho: float) -> numpy.ndarray:
    """What remains of ``x`` [.., n] of its neighbours' resemblance, with the same deviation as before."""
    white = x.copy()
    white[..., 1:] = (x[..., 1:] - rho * x[..., :-1]) / math.sqrt(1 - rho * rho)
    return white

"""What ``python -m gate selftest --tune`` found: for every row, the settings with 1 % false alarms.

From 800 series of noise a row, of seeds that no published number uses.  Only the self-test reads
this, to compare detectors of which each knows beforehand how noisy the series will be.
"""

from __future__ import annotations

import math

from gate import _likelihood
from gate._likelihood import Model
from gate._simulate import DRIFT, INDEPENDENT, OUTLIERS, RESEMBLING, Row

ALONE, STILL, NORMAL = ((0.0, 1.0),), (((0.0, 0.0), 1.0),), ((math.inf, 1.0),)
# Kind of noise -> what noise may be like, for a detector that knows the kind.
MODELS = {
    INDEPENDENT: Model(ALONE, STILL, NORMAL),
    **{kind: Model(((rho, 1.0),), STILL, NORMAL) for kind, rho in RESEMBLING.items()},
    DRIFT: Model(ALONE, (((1.0, 0.0), 1.0),), NORMAL),
    OUTLIERS: Model(ALONE, STILL, _likelihood.ANY.tails),
}

# Row -> (least gain of ours, -log10 of Otava's p).
SETTINGS = {
    Row("independent", 10, 2): (2.32, 3.0),
    Row("independent", 10, 5): (1.89, 2.9),
    Row("independent", 10, 15): (1.65, 2.9),
    Row("independent", 30, 5): (1.81, 3.0),
    Row("independent", 30, 15): (2.82, 3.3),
    Row("AR(0.5)", 10, 2): (2.18, 4.4),
    Row("AR(0.5)", 10, 5): (1.98, 4.3),
    Row("AR(0.5)", 10, 15): (2.26, 5.3),
    Row("AR(0.5)", 30, 5): (2.04, 5.7),
    Row("AR(0.5)", 30, 15): (2.27, 6.1),
    Row("AR(0.8)", 10, 2): (1.99, 5.4),
    Row("AR(0.8)", 10, 5): (1.59, 6.3),
    Row("AR(0.8)", 10, 15): (1.89, 9.8),
    Row("AR(0.8)", 30, 5): (1.55, 11.5),
    Row("AR(0.8)", 30, 15): (1.52, 11.3),
    Row("drift", 10, 2): (2.47, 4.4),
    Row("drift", 10, 5): (1.73, 4.8),
    Row("drift", 10, 15): (1.95, 5.5),
    Row("drift", 30, 5): (2.28, 6.7),
    Row("drift", 30, 15): (2.22, 7.7),
    Row("outliers", 10, 2): (2.17, 6.5),
    Row("outliers", 10, 5): (2.57, 7.1),
    Row("outliers", 10, 15): (3.09, 7.2),
    Row("outliers", 30, 5): (2.41, 6.7),
    Row("outliers", 30, 15): (3.75, 7.3),
}

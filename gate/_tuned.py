"""What ``python -m gate.selftest --tune`` found: for every row, the settings with 1 % false alarms.

From 400 series of noise a row, of seeds that no published number uses.  Only the self-test reads
this, to compare detectors of which each knows beforehand how noisy the series will be.
"""

from __future__ import annotations

from gate._simulate import Row

# Row -> (least gain of ours, -log10 of Otava's p).
SETTINGS = {
    Row("independent", 10, 2): (3.46, 3.0),
    Row("independent", 10, 5): (3.34, 2.5),
    Row("independent", 10, 15): (3.27, 2.5),
    Row("independent", 30, 5): (3.74, 3.0),
    Row("independent", 30, 15): (4.22, 3.0),
    Row("AR(0.5)", 10, 2): (5.94, 4.0),
    Row("AR(0.5)", 10, 5): (5.32, 4.0),
    Row("AR(0.5)", 10, 15): (4.71, 4.0),
    Row("AR(0.5)", 30, 5): (5.11, 6.0),
    Row("AR(0.5)", 30, 15): (6.07, 6.0),
    Row("AR(0.8)", 10, 2): (4.87, 5.0),
    Row("AR(0.8)", 10, 5): (6.02, 6.0),
    Row("AR(0.8)", 10, 15): (6.51, 9.0),
    Row("AR(0.8)", 30, 5): (7.12, 10.0),
    Row("AR(0.8)", 30, 15): (6.43, 11.0),
    Row("drift", 10, 2): (4.70, 4.0),
    Row("drift", 10, 5): (4.47, 4.0),
    Row("drift", 10, 15): (4.54, 5.0),
    Row("drift", 30, 5): (3.98, 6.0),
    Row("drift", 30, 15): (4.77, 7.0),
    Row("outliers", 10, 2): (4.37, 6.0),
    Row("outliers", 10, 5): (3.38, 7.0),
    Row("outliers", 10, 15): (6.56, 4.0),
    Row("outliers", 30, 5): (4.32, 6.0),
    Row("outliers", 30, 15): (6.08, 6.0),
}

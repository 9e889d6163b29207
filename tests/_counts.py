"""Numbers of rows of some experts, as a kernel may find them: usual ones, and ones that make no sense."""

from __future__ import annotations

LIMIT = 2**31 - 1
COUNTS = (
    [1],
    [0],
    [128, 129, 127],
    [0, 0, 5],
    [5, 0, 0],
    [0, 3, 0, 0, 256],
    [0, 0, 0],
    [1] * 9,
    [9, -300, 7],
    [-(2**31), 3, LIMIT],
    [2, LIMIT, 4],
    [LIMIT, LIMIT, 5],
    [2**30] * 4,
)

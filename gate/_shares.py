"""Shares of simulated runs, with what their number leaves open."""

from __future__ import annotations

import math
from typing import NamedTuple

# Two-sided, 95 %.
Z = 1.959964


class Share(NamedTuple):
    """``hits`` of ``of`` runs."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """The share; NaN of no runs."""
        return self.hits / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval (J. Am. Stat. Assoc. 22, 1927); all of 0 to 1 of no runs."""
        if not self.of:
            return 0.0, 1.0
        p, n = self.value, self.of
        middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __add__(self, other: object) -> Share:
        """Both taken together."""
        if not isinstance(other, Share):
            return NotImplemented
        return Share(self.hits + other.hits, self.of + other.of)

    def __str__(self) -> str:
        """``93 (91-95)``, in per cent; a decimal below 10."""
        return f"{_percent(self.value)} ({_percent(self.interval[0])}-{_percent(self.interval[1])})"


def _percent(share: float) -> str:
    if math.isnan(share):
        return "-"
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"

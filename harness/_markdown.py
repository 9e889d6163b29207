"""How numbers and tables are spelled in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Stands where there is no number.
NONE = "-"
# Behind a number that was measured while the GPU throttled.
THROTTLED = "†"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A table; the first ``left`` columns are text, the others numbers, aligned to the right.

    A mark for throttling in any cell is explained below the table.
    """
    rule = ["---" if column < left else "---:" for column in range(len(header))]
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
    if any(THROTTLED in text for cells in rows for text in cells):
        lines += ["", f"{THROTTLED} The GPU throttled while this was measured."]
    return "\n".join(lines)


def micro(value: float) -> str:
    """Microseconds: a tenth above 100, where a hundredth is noise."""
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def rate(value: float) -> str:
    """A throughput, to three or four digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def percent(value: float) -> str:
    """A fraction as a percentage."""
    return f"{value:.0%}".replace("%", " %")


def count(value: float) -> str:
    """A whole number, in groups of three digits."""
    return f"{value:,.0f}"

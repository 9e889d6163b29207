"""A comparison's verdicts for a terminal, for an issue, and for a program."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gate import stats
from gate.rows import CHANGED, noise_floor
from harness._markdown import NONE, markdown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from gate.rows import Row
    from gate.verdict import Result

SCHEMA = 1
ORDER = (stats.REGRESSED, stats.INCONCLUSIVE, stats.IMPROVED, CHANGED, stats.SAME)
COLOURS = {
    stats.REGRESSED: "red", stats.INCONCLUSIVE: "yellow", stats.IMPROVED: "green", CHANGED: "cyan",
}  # fmt: skip
HEADER = ("operator", "case", "cost", "base", "head", "change", "interval", "verdict", "why")
LEFT = 3  # columns of text; the numbers after them are aligned to the right
MOST = 60  # rows of an issue's table


@dataclass(frozen=True)
class About:
    """What was compared.  base, head: full hashes.  machine: a line."""

    base: str
    head: str
    machine: str
    blocks: int
    log: str


def shown(rows: Iterable[Row]) -> list[Row]:
    """The rows worth a line, worst first: what is no clock's and did not change is not."""
    kept = [row for row in rows if row.verdict != stats.SAME or row.decision or row.note]
    return sorted(kept, key=_rank)


def _rank(row: Row) -> tuple[int, bool, float, tuple[str, ...]]:
    change = row.decision.change if row.decision else math.nan
    worst = 0.0 if math.isnan(change) else -change
    return ORDER.index(row.verdict), not row.gates, worst, (*row.which, row.metric)


def cells(row: Row) -> list[str]:
    """A row of the tables."""
    which = row.which
    decision = row.decision
    change, interval = NONE, NONE
    if decision and decision.time:
        low, high = decision.interval
        change, interval = signed(decision.change), f"{signed(low)} to {signed(high)}"
    elif row.base and math.isfinite(row.base) and math.isfinite(row.head):
        change = signed(row.head / row.base - 1)
    name = f"{row.metric} {row.unit}".strip()
    if which.implementation != "kernels":
        name = f"{which.implementation} {name}"
    verdict = row.verdict if row.gates else f"({row.verdict})"
    sides = [
        NONE if math.isnan(value) and not row.decision else f"{value:.5g}"
        for value in (row.base, row.head)
    ]
    return [which.operator, which.case, name, *sides, change, interval, verdict, row.note]


def signed(value: float) -> str:
    """A relative change as a percentage; what has more than doubled, as a factor."""
    if value > 1:
        return f"x {1 + value:.3g}"
    return f"{value:+.2%}".replace("%", " %")


def summary(result: Result, about: About) -> list[str]:
    """The lines above the tables."""
    counts = ", ".join(
        f"{len(result.gating(verdict))} {verdict}"
        for verdict in (stats.REGRESSED, stats.IMPROVED, stats.SAME, stats.INCONCLUSIVE)
    )
    lines = [
        f"{result.word}: {about.head[:12]} against {about.base[:12]}",
        f"{about.machine}; {about.blocks} blocks of 4 processes; threshold {result.rule.threshold:.1%}",
        f"{len(result.gating())} costs judged: {counts}",
    ]
    floor = noise_floor(result.rows)
    if floor:
        lines.append(
            f"noise floor: between {len(floor)} pairs of the same program the change was "
            f"{statistics.median(floor):.2%} in the median, {floor[-1]:.2%} at most"
        )
    if result.open_share > result.allowed:
        lines.append(
            f"{result.open_share:.0%} of the times are inconclusive, {result.allowed:.0%} are allowed"
        )
    return lines


def table(result: Result, about: About, console: Console) -> None:
    """All of it on a terminal."""
    from rich.table import Table

    for line in summary(result, about):
        console.print(line, markup=False)
    drawn = Table()
    for index, name in enumerate(HEADER):
        right = LEFT <= index < len(HEADER) - 2
        drawn.add_column(name, justify="right" if right else "left", overflow="fold")
    rows = shown(result.rows)
    for row in rows:
        drawn.add_row(*cells(row), style=COLOURS.get(row.verdict))
    if rows:
        console.print(drawn)
    for title, lines in (("broken", result.broken), ("not compared", result.other)):
        for line in lines:
            console.print(
                f"{title}: {line}", style="red" if title == "broken" else "", markup=False
            )


def issue(result: Result, about: About) -> str:
    """The same as Markdown.  What a commit says of itself is not in it, except the reason of a failure,
    which stands as code."""
    first, *rest = summary(result, about)
    parts = [f"**{first}**", "\n".join(f"- {line}" for line in rest)]
    rows = [row for row in shown(result.rows) if row.verdict != stats.SAME]
    if rows:
        lines = [_escaped(cells(row)) for row in rows[:MOST]]
        parts.append(markdown(HEADER, lines, left=LEFT))
        if len(rows) > MOST:
            parts.append(f"and {len(rows) - MOST} more")
    for title, found in (("Broken", result.broken), ("Not compared", result.other)):
        if found:
            parts.append(f"### {title}\n\n" + "\n".join(f"    {line}" for line in found[:MOST]))
    return "\n\n".join(parts) + "\n"


def _escaped(texts: Iterable[str]) -> list[str]:
    return [" ".join(text.split()).replace("|", "\\|") for text in texts]


def data(result: Result, about: About) -> str:
    """All verdicts as JSON.  Numbers that are none are null."""
    rows = []
    for row in result.rows:
        decision = row.decision
        rows.append(
            row.which._asdict()
            | {
                "metric": row.metric, "unit": row.unit, "verdict": row.verdict, "gates": row.gates,
                "base": row.base, "head": row.head, "same_program": row.noise, "note": row.note,
                "change": decision.change if decision else None,
                "interval": list(decision.interval) if decision else None,
                "pairs": decision.time.pairs if decision and decision.time else None,
                "p": decision.time.p if decision and decision.time else None,
                "q": decision.q if decision else None,
                "cycles": math.expm1(decision.cycles.mean) if decision and decision.cycles else None,
                "more_blocks": decision.more_blocks if decision else None,
            }
        )  # fmt: skip
    whole = asdict(about) | {
        "schema": SCHEMA, "code": result.code, "word": result.word, "rule": asdict(result.rule),
        "allowed_inconclusive": result.allowed, "rows": rows, "broken": result.broken,
        "not_compared": result.other, "noise_floor": noise_floor(result.rows),
    }  # fmt: skip
    return json.dumps(_plain(whole), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

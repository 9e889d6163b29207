"""The page's table of a machine: its operators at a glance."""

from __future__ import annotations

import statistics
from html import escape
from typing import TYPE_CHECKING

from harness import _lines
from harness._logs import OURS, lost
from harness._markdown import NONE, percent
from harness._page_tables import change, name, of_limit, peers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.rawlog import Measured
    from harness._logs import Log
    from harness._page_tables import View


TITLES = (
    "cases", "exact", "of limit", "against peers", "since", "slower / faster", "spilling", "commit",
)  # fmt: skip


def summary(views: Sequence[View], sweep: Log | None) -> str:
    """A machine's operators at a glance, a row each; no column without a word.

    sweep: its newest; what is of another log is called older.
    """
    rows = {view: _cells(view, sweep) for view in views}
    shown = [n for n in range(len(TITLES)) if any(cells[n][0] != NONE for cells in rows.values())]
    head = "".join(f'<th scope="col">{TITLES[n]}</th>' for n in shown)
    body = []
    for view, cells in rows.items():
        link = f'<a href="#{escape(view.log.machine)}/{view.operator}">{broken(view.operator)}</a>'
        drawn = "".join(f'<td class="{cells[n][1]}">{cells[n][0]}</td>' for n in shown)
        body.append(f'<tr><th scope="row">{link}</th>{drawn}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="operators"><table class="summary">'
        f'<thead><tr><th scope="col">operator</th>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def broken(name: str) -> str:
    """A name that may be broken behind its underscores."""
    return escape(name).replace("_", "_<wbr>")


def _cells(shown: View, sweep: Log | None) -> list[tuple[str, str]]:
    """Text and class of each of TITLES."""
    differing = _held(shown, OURS, "differing_elements")
    exact = sum(item.median == 0 for item in differing)
    words = [found[0] for line in shown.lines if (found := change(shown, line))]
    slower, faster = words.count("slower"), words.count("faster")
    spilling = sum(item.median > 0 for item in _held(shown, OURS, "spills"))
    failed = len(set(lost(shown.log, (shown.operator,))))
    older = sweep not in (None, shown.log)
    return [
        (f"{len(shown.lines)}" + (f", {failed} broken" if failed else ""), "bad" if failed else ""),
        (f"{exact} of {len(differing)}" if differing else NONE, ""),
        (_limit(shown), ""),
        (_against(shown) or NONE, ""),
        (shown.before.commit[:8] if shown.before else NONE, "" if shown.before else "none"),
        (
            f"{slower} / {faster}" if words else NONE,
            "bad" if slower else "good" if faster else "none",
        ),
        (str(spilling), "bad" if spilling else ""),
        (f"{shown.log.commit[:8]}{', older' if older else ''}", "none" if older else ""),
    ]


def _held(shown: View, implementation: str, metric: str) -> list[Measured]:
    found = (_lines.get(shown.log, line, implementation, metric) for line in shown.lines)
    return [item for item in found if item is not None]


def _limit(shown: View) -> str:
    """Least, median and most of the cases' shares of the limit."""
    computed = bool(_held(shown, OURS, "tflops"))
    metric = "roofline_fraction" if computed else "copy_fraction"
    shares = [item.median for item in _held(shown, OURS, metric)]
    if not shares:
        return NONE
    middle = of_limit(statistics.median(shares))
    return f"{middle} <small>{percent(min(shares))} to {percent(max(shares))}</small>"


def _against(shown: View) -> str:
    """Geometric mean of each peer's time over ours, over the cases that both ran."""
    said = []
    for peer in peers(shown.log, shown.operator):
        both = [
            (ours.median, theirs.median)
            for line in shown.lines
            if (ours := _lines.get(shown.log, line, OURS, "device_us"))
            and (theirs := _lines.get(shown.log, line, peer, "device_us"))
        ]
        if both:
            mean = statistics.geometric_mean(theirs / ours for ours, theirs in both)
            said.append(f"{name(peer)} {mean:.2f} <small>over {len(both)} cases</small>")
    return ", ".join(said)

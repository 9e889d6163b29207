"""``results/report.html``: everything measured, as one file that opens from a disk, without a network.

The same bytes for the same logs, marks and history, so that ``harness.report --check`` can compare it.  Tables
are written here and can be read without scripts; the browser draws the curves and the rooflines from
the numbers in the file (``harness/page/``), as wide as the screen is.
"""

from __future__ import annotations

from html import escape
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from harness import (
    _history,
    _page_data,
    _page_missing,
    _page_summary,
    _page_tables,
    _page_versions,
)
from harness._markdown import THROTTLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness._history import Commit
    from harness._logs import Log
    from harness._page_changes import Mark
    from harness._page_tables import View

FOLDER = Path(__file__).parent / "page"
SCRIPTS = ("draw.js", "curves.js", "page.js")
FACTS = {
    "gpu": "GPU", "driver": "driver", "capability": "compute capability",
    "sm_clock_max_mhz": "SM clock, highest, MHz", "memory_clock_max_mhz": "memory clock, highest, MHz",
    "power_limit_w": "power limit, W", "cpu": "CPU", "num_cpu": "CPU cores", "ram": "memory",
    "os": "system", "arch": "architecture", "python": "Python", "torch": "torch", "triton": "Triton",
}  # fmt: skip


def html(
    logs: Sequence[Log], marks: Sequence[dict[str, str]], known: dict[str, Commit],
    changes: Sequence[Mark] = (),
) -> str:  # fmt: skip
    """The whole page; ``known`` is the history, which orders the commits and names them.

    marks: of harness/_page_marks.py.  changes: of harness/_page_changes.py.
    """
    logs = _history.ordered(logs, known)
    machines = _page_data.by_machine(logs)
    return Template(_file("template.html")).substitute(
        style=_file("style.css"),
        script="\n".join(_file(name) for name in SCRIPTS),
        data=_page_data.text(logs, marks, known, changes),
        tabs="\n".join(_tab(name) for name in machines),
        machines="\n".join(_machine(name, held) for name, held in machines.items())
        or "<p>Nothing has been measured yet.</p>",
        versions=_page_versions.section(logs),
        throttled=THROTTLED,
    )


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8").rstrip("\n")


def _tab(name: str) -> str:
    return f'<a href="#{escape(name)}">{escape(name)}</a>'


def _machine(name: str, logs: Sequence[Log]) -> str:
    views = [
        view
        for stem in _page_data.operators(logs)
        if (view := _page_tables.view(stem, logs)) is not None
    ]
    parts = [
        f'<section class="machine" id="{escape(name)}" data-machine="{escape(name)}">',
        f"<h2>{escape(name)}</h2>",
        _facts(logs),
        _page_summary.summary(views, _page_missing.newest(logs)),
        '<div class="plots"></div>',
        *(_operator(view, _page_missing.sentence(logs, view)) for view in views),
        "</section>",
    ]
    return "\n".join(parts)


def _facts(logs: Sequence[Log]) -> str:
    """The machine's fingerprint; what of it changed between its logs, and when."""
    newest = logs[-1]
    gpu = newest.fact("gpu")
    device = f"no GPU, {newest.fact('cpu')}" if gpu == "none" else gpu
    line = (
        f"{device}, driver {newest.fact('driver')}, torch {newest.fact('torch')}, "
        f"Triton {newest.fact('triton')}; {len(logs)} logs"
    )
    rows = "".join(
        f"<div><dt>{title}</dt><dd>{escape(newest.fact(fact))}</dd></div>"
        for fact, title in FACTS.items()
        if newest.fact(fact) not in ("none", "unknown")
    )
    return (
        f'<details class="facts"><summary>{escape(line)}</summary>'
        f"<dl>{rows}</dl>{_changes(logs)}</details>"
    )


def _changes(logs: Sequence[Log]) -> str:
    found = []
    for old, new in pairwise(logs):
        for fact, title in FACTS.items():
            if old.fact(fact) != new.fact(fact):
                before, after = escape(old.fact(fact)), escape(new.fact(fact))
                found.append(f"<li>{title}: {before} to {after}, with {new.commit[:8]}</li>")
    if not found:
        return "<p>The same in every log of this machine.</p>"
    return f"<p>Changed between logs:</p><ul>{''.join(found)}</ul>"


def _operator(view: View, lacks: str) -> str:
    """lacks: what the newest sweep has not of this operator, a sentence or nothing."""
    log = view.log
    name = escape(view.operator)
    said = f"{log.commit[:8]} of {log.date[:10]}, Triton {escape(log.fact('triton'))}"
    if view.before:
        said += f"; change since {view.before.commit[:8]}"
    return (
        f'<section class="operator" id="{escape(log.machine)}/{name}" data-operator="{name}">'
        f"<h3>{name}</h3><p>{said}</p>"
        + (f'<p class="lacks">{lacks}</p>' if lacks else "")
        + f'<div class="history"></div>\n{_page_tables.cases(view)}</section>'
    )

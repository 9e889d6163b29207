"""The page's comparison of Triton versions: what each made of the same commit, side by side."""

from __future__ import annotations

import statistics
from html import escape
from typing import TYPE_CHECKING

from benchmarks.rawlog import Key
from harness import _lines, _page_data
from harness._logs import OURS
from harness._markdown import NONE, count
from harness._page_tables import label_html

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness._lines import Line
    from harness._logs import Log

METRICS = {
    "registers": "registers", "spills": "spills, B", "shared_bytes": "shared, B",
    "instructions": "instructions", "wgmma": "wgmma",
}  # fmt: skip
# The figures of a case under each version.
Figures = tuple[tuple[str, ...], ...]


def section(logs: Sequence[Log]) -> str:
    """Operator by operator, the newest commit that was compiled by more than one Triton."""
    chosen = {}
    for stem in _page_data.operators(logs):
        found = several(logs, stem)
        if found:
            chosen[stem] = found
    if not chosen:
        return (
            "<p>No commit has been compiled by more than one Triton yet. <code>nox -s upgrade</code> "
            "compiles the working tree under each; a sweep in another environment measures it.</p>"
        )
    versions = sorted({log.fact("triton") for held in chosen.values() for log in held}, key=_order)
    said = (
        "<p>The same commit, compiled for sm_90 under each Triton, of whichever machine. Cases that "
        "compile alike share a row; what differs is marked. Device times are compared only on one "
        "machine: the geometric mean of the cases' times, over the oldest version's.</p>"
    )
    body = "\n".join(_rows(stem, held, versions) for stem, held in chosen.items())
    return (
        f'{said}<div class="scroll" tabindex="0" role="region" aria-label="Triton versions">'
        f'<table class="versions">{_head(versions)}\n<tbody>\n{body}\n</tbody></table></div>'
    )


def several(logs: Sequence[Log], stem: str) -> list[Log]:
    """Logs of the newest commit whose ``stem`` more than one Triton compiled, one a version."""
    by_commit: dict[str, list[Log]] = {}
    for log in logs:
        if any(key.operator == stem and key.metric == "registers" for key in log.measured):
            by_commit.setdefault(log.commit, []).append(log)
    for held in reversed(by_commit.values()):
        if len({log.fact("triton") for log in held}) > 1:
            return held
    return []


def _order(version: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in version.split(".")]


def _head(versions: Sequence[str]) -> str:
    span = f'colspan="{len(versions)}" scope="colgroup"'
    top = "".join(f"<th {span}>{title}</th>" for title in METRICS.values())
    each = "".join(f'<th scope="col">{escape(version)}</th>' for version in versions)
    return (
        '<thead><tr><th rowspan="2" scope="col">operator and cases</th>'
        f'<th rowspan="2" scope="col">commit</th>{top}<th rowspan="2" scope="col">device time</th></tr>'
        f"<tr>{each * len(METRICS)}</tr></thead>"
    )


def _rows(stem: str, held: Sequence[Log], versions: Sequence[str]) -> str:
    lines = _lines.present(held, stem)
    groups: dict[Figures, list[Line]] = {}
    for line in lines:
        figures = tuple(
            tuple(_figure(held, version, line, metric) for version in versions)
            for metric in METRICS
        )
        if any(text != NONE for row in figures for text in row):
            groups.setdefault(figures, []).append(line)
    return "\n".join(_row(stem, held, group, figures, lines) for figures, group in groups.items())


def _figure(held: Iterable[Log], version: str, line: Line, metric: str) -> str:
    for log in held:
        measured = _lines.get(log, line, OURS, metric)
        if log.fact("triton") == version and measured is not None:
            return count(measured.median)
    return NONE


def _row(
    stem: str, held: Sequence[Log], group: Sequence[Line], figures: Figures, lines: Sequence[Line]
) -> str:
    label = label_html(_lines.short(group[0], lines))
    more = f" <small>and {len(group) - 1} more</small>" if len(group) > 1 else ""
    cells = []
    for row in figures:
        style = "differs" if len({text for text in row if text != NONE}) > 1 else ""
        cells += [f'<td class="{style if text != NONE else "none"}">{text}</td>' for text in row]
    return (
        f'<tr><th scope="row"><b>{escape(stem)}</b> <small>{label}</small>{more}</th>'
        f"<td>{held[0].commit[:8]}</td>{''.join(cells)}<td>{_times(held, group) or NONE}</td></tr>"
    )


def _times(held: Sequence[Log], group: Sequence[Line]) -> str:
    """Device time by version over the oldest version's, machine by machine."""
    said = []
    for machine in dict.fromkeys(log.machine for log in held):
        logs = sorted(
            (log for log in held if log.machine == machine),
            key=lambda log: _order(log.fact("triton")),
        )
        for log in logs[1:]:
            ratios = [
                new.median / old.median
                for line in group
                if (new := log.measured.get(_key(line)))
                and (old := logs[0].measured.get(_key(line)))
            ]
            if ratios:
                names = f"{log.fact('triton')} / {logs[0].fact('triton')}"
                said.append(f"{machine}, {names}: {statistics.geometric_mean(ratios):.3f}")
    return "; ".join(said)


def _key(line: Line) -> Key:
    return Key(line.operator, line.case, OURS, "device_us")

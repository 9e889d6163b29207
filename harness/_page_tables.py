"""The page's tables of cases, as HTML: an operator on a machine, speed, accuracy and codegen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from harness import _lines
from harness._logs import OURS, lost
from harness._markdown import NONE, THROTTLED, count, micro, percent, rate
from harness._table_parts import NAMES
from harness._verdict import SAME, THRESHOLDS, grew, same_program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness._lines import Line
    from harness._logs import Log


class Column(NamedTuple):
    """One metric of one implementation; ``group`` is what the page's switches show and hide."""

    title: str
    group: str
    implementation: str
    metric: str
    show: Callable[[float], str]


@dataclass(frozen=True, eq=False)
class View:
    """What a table shows: the log with today's numbers, and the one before it, if any."""

    operator: str
    log: Log
    before: Log | None
    lines: list[Line]
    columns: list[Column]


def megabytes(value: float) -> str:
    """Bytes, in MB."""
    return f"{value / 1e6:,.1f}"


def error(value: float) -> str:
    """An error: two digits say whether it changed."""
    return f"{value:.2g}"


def seconds(value: float) -> str:
    """A compilation's time."""
    return f"{value:.2f}"


def of_limit(value: float) -> str:
    """A share of a limit, and a bar as long."""
    width = min(100, max(0, round(100 * value))) if math.isfinite(value) else 0
    return f'<span class="bar" style="--w:{width}%">{percent(value)}</span>'


OURS_TIMED = (
    Column("device, \N{MICRO SIGN}s", "speed", OURS, "device_us", micro),
    Column("tokens/s", "speed", OURS, "tokens_per_s", count),
    Column("TFLOP/s", "speed", OURS, "tflops", rate),
    Column("GB/s", "speed", OURS, "gbps", rate),
    Column("of limit", "speed", OURS, "roofline_fraction", of_limit),
    Column("of a copy", "speed", OURS, "copy_fraction", of_limit),
)
REST = (
    Column("launch, \N{MICRO SIGN}s", "speed", OURS, "launch_us", micro),
    Column("peak, MB", "speed", OURS, "peak_bytes", megabytes),
    Column("reference on CPU, \N{MICRO SIGN}s", "speed", "reference", "cpu_us", micro),
    Column("differing elements", "accuracy", OURS, "differing_elements", count),
    Column("max error", "accuracy", OURS, "max_error", error),
    Column("rms error", "accuracy", OURS, "rms_error", error),
    Column("registers", "codegen", OURS, "registers", count),
    Column("spills, B", "codegen", OURS, "spills", count),
    Column("shared, B", "codegen", OURS, "shared_bytes", count),
    Column("wgmma", "codegen", OURS, "wgmma", count),
    Column("instructions", "codegen", OURS, "instructions", count),
    Column("compile, s", "codegen", OURS, "compile_s", seconds),
)


def view(operator: str, logs: Sequence[Log]) -> View | None:
    """The last of one machine's logs that ran the operator (else: that compiled it), with its rows."""
    ran = [log for log in logs if _holds(log, operator, "device_us") or any(lost(log, (operator,)))]
    held = ran or [log for log in logs if _holds(log, operator)]
    if not held:
        return None
    log = held[-1]
    older = [
        old
        for old in held[:-1]
        if old.commit != log.commit and all(old.fact(fact) == log.fact(fact) for fact in SAME)
    ]
    before = older[-1] if older else None
    return View(operator, log, before, _lines.present([log], operator), _columns(log, operator))


def _holds(log: Log, operator: str, metric: str | None = None) -> bool:
    return any(
        key.operator == operator and key.implementation == OURS and metric in (None, key.metric)
        for key in log.measured
    )


def peers(log: Log, operator: str) -> list[str]:
    """Implementations timed beside ours, by name."""
    found = {
        key.implementation
        for key in log.measured
        if key.operator == operator and key.metric == "device_us"
    }
    return sorted(found - {OURS, "reference"})


def _columns(log: Log, operator: str) -> list[Column]:
    """Those with a number; GB/s and the copy only where nothing is computed on tensor cores."""
    held = {(key.implementation, key.metric) for key in log.measured if key.operator == operator}
    if (OURS, "tflops") in held:
        held -= {(OURS, "gbps"), (OURS, "copy_fraction")}
    else:
        held -= {(OURS, "roofline_fraction")}
    others = peers(log, operator)
    theirs = [
        Column(f"{name(peer)}, \N{MICRO SIGN}s", "speed", peer, "device_us", micro)
        for peer in others
    ]
    differ = [
        Column(f"{name(peer)} differing", "accuracy", peer, "differing_elements", count)
        for peer in others
    ]
    accuracy = next(place for place, column in enumerate(REST) if column.metric == "max_error")
    wanted = [*OURS_TIMED, *theirs, *REST[:accuracy], *differ, *REST[accuracy:]]
    return [column for column in wanted if column[2:4] in held]


def name(implementation: str) -> str:
    """An implementation as it is called in words."""
    return NAMES.get(implementation, implementation)


def cases(shown: View) -> str:
    """The operator's table: a row a case.  Curves are drawn into the cells of class ``spark``."""
    timed = _holds(shown.log, shown.operator, "device_us")
    head = ['<th scope="col">case</th>']
    head += ['<th scope="col" class="speed">history</th>'] if timed else []
    for column in shown.columns:
        head.append(_head(column.title, column.group))
        if column.metric == "device_us":
            ours = column.implementation == OURS
            head.append(
                _head("change" if ours else f"{name(column.implementation)} / ours", "speed")
            )
    head.append(_head("machine code", "codegen"))
    rows = [_row(shown, number, timed) for number in range(len(shown.lines))]
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="cases of {shown.operator}">'
        f"<table><thead><tr>{''.join(head)}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _head(title: str, group: str) -> str:
    return f'<th scope="col" class="{group}">{escape(title)}</th>'


def _row(shown: View, number: int, timed: bool) -> str:
    line = shown.lines[number]
    label = _lines.short(line, shown.lines)
    cells = [f'<th scope="row" title="{escape(line.case)}">{label_html(label)}</th>']
    cells += ['<td class="speed spark"></td>'] if timed else []
    for column in shown.columns:
        cells.append(_cell(shown, line, column))
        if column.metric == "device_us":
            cells.append(
                _change(shown, line)
                if column.implementation == OURS
                else _ratio(shown, line, column.implementation)
            )
    cells.append(_code(shown, line))
    return f'<tr data-case="{escape(line.case)}">{"".join(cells)}</tr>'


def label_html(label: str) -> str:
    """A label's fields, the layer in front and without its name; a field is never broken."""
    parts = [escape(part) for part in label.split(",")]
    shown = [
        f"<b>{part.removeprefix('layer=')}</b>" if part.startswith("layer=") else f"<i>{part}</i>"
        for part in parts
    ]
    return " ".join(shown)


def _cell(shown: View, line: Line, column: Column) -> str:
    text = _lines.cell(shown.log, line, column.implementation, column.metric, column.show)
    classes = [column.group]
    if text in (NONE, "n/a"):
        classes.append("none")
    elif "failed" in text or "died" in text:
        classes.append("bad")
    elif column.implementation == OURS and column.metric in ("spills", "differing_elements"):
        measured = _lines.get(shown.log, line, OURS, column.metric)
        classes += ["bad"] if measured and measured.median else []
    title = _detail(shown, line, column)
    said = f' title="{escape(title)}"' if title else ""
    return f'<td class="{" ".join(classes)}"{said}>{text}</td>'


def _detail(shown: View, line: Line, column: Column) -> str:
    """What stands behind a number: shapes of the wgmma instructions."""
    measured = _lines.get(shown.log, line, column.implementation, column.metric)
    if column.metric != "wgmma" or measured is None:
        return ""
    kernels = measured.detail.get("kernels", [])
    shapes = [
        f"{n} x {shape}" for kernel in kernels for shape, n in kernel.get("shapes", {}).items()
    ]
    return ", ".join(dict.fromkeys(shapes))


def _ratio(shown: View, line: Line, peer: str) -> str:
    ours, theirs = (_lines.get(shown.log, line, one, "device_us") for one in (OURS, peer))
    if ours is None or theirs is None or ours.median <= 0:
        return f'<td class="speed none">{NONE}</td>'
    ratio = theirs.median / ours.median
    word = "good" if ratio > 1.005 else "behind" if ratio < 0.995 else ""
    return f'<td class="speed {word}">{ratio:.2f}</td>'


def change(shown: View, line: Line) -> tuple[str, float] | None:
    """(word, growth) of our device time since the log before; None where there is nothing to compare.

    The word is the verdict's rule: ``slower`` or ``faster`` needs another program, boxes apart and a
    growth above the threshold, without throttling; else ``same code``, ``throttled`` or nothing.
    """
    if shown.before is None:
        return None
    old, now = (_lines.get(log, line, OURS, "device_us") for log in (shown.before, shown.log))
    if now is None or old is None or old.median <= 0:
        return None
    growth = now.median / old.median - 1
    if same_program(shown.before, shown.log, now.key):
        return "same code", growth
    if now.throttled or old.throttled:
        return "throttled", growth
    threshold = THRESHOLDS["device_us"]
    slower, faster = grew(old, now, threshold), grew(now, old, threshold)
    return ("slower" if slower else "faster" if faster else ""), growth


def _change(shown: View, line: Line) -> str:
    found = change(shown, line)
    if found is None:
        return f'<td class="speed none">{NONE}</td>'
    word, growth = found
    said = f"{growth:+.1%}".replace("%", " %").replace("-", "\N{MINUS SIGN}")
    glyph = {
        "slower": " \N{BLACK UP-POINTING TRIANGLE}",
        "faster": " \N{BLACK DOWN-POINTING TRIANGLE}",
    }
    style = {"slower": "bad", "faster": "good", "throttled": "none", "same code": "none"}
    mark = {"throttled": f" {THROTTLED}", "same code": " ="}.get(word, glyph.get(word, ""))
    title = f' title="{word}"' if word else ""
    return f'<td class="speed {style.get(word, "")}"{title}>{said}{mark}</td>'


def _code(shown: View, line: Line) -> str:
    """Whether the case runs the machine code of the log before."""
    measured = _lines.get(shown.log, line, OURS, "registers")
    if measured is None or shown.before is None:
        return f'<td class="codegen none">{NONE}</td>'
    if _lines.get(shown.before, line, OURS, "registers") is None:
        return '<td class="codegen">new</td>'
    same = same_program(shown.before, shown.log, measured.key)
    return f'<td class="codegen{" none" if same else ""}">{"same" if same else "changed"}</td>'

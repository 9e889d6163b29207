"""README's table of the experts' products, beside the peers that ran in the same sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import cases
from harness import _missing
from harness._lines import cell, timed
from harness._logs import GROUPED, OURS, newest
from harness._markdown import NONE, count, markdown, micro, percent, rate
from harness._table_parts import BESIDE, absent, beside, clock, heads, peers, source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness._lines import Line
    from harness._logs import Log

HEADER = [
    "operator",
    "layer",
    "N x K",
    "experts",
    "rows",
    "ours, us",
    "TFLOP/s",
    "GB/s",
    "of roofline",
]


def grouped(logs: Sequence[Log]) -> str:
    """Per operator, layer and rows: ours beside every peer in the same log."""
    log = newest(logs, GROUPED)
    if log is None:
        return absent("the experts' products' times")
    others = peers(log, GROUPED)
    # Problems of the model; those without a layer are there for the interpreter.
    lines = [line for line in timed(log, GROUPED, (OURS, *others)) if "layer" in line.fields]
    rows = [[*_problem(line), *_ours(log, line), *beside(log, line, others)] for line in lines]
    said = (
        f"{source(log)} {clock(log, GROUPED)} Rows: of all experts together; `up to`: of the buffer that "
        f"an expert has for itself. GB/s counts each byte that a call must move once. {BESIDE}"
    )
    lacks = _missing.sentence(logs, log, lines, GROUPED, ("device_us",), part="layer=")
    return f"{said}\n\n{markdown([*HEADER, *heads(others)], rows, left=2)}{lacks}"


def _problem(line: Line) -> list[str]:
    fields = line.fields
    capacity = f", up to {fields['c']} each" if "c" in fields else ""
    return [
        f"`{line.operator}`",
        fields["layer"],
        f"{fields.get('n', NONE)} x {fields.get('k', NONE)}",
        fields.get("e", NONE),
        f"{_rows(line)} {fields.get('routing', '')}{capacity}",
    ]


def _rows(line: Line) -> str:
    """Rows that the experts have together; a case that is no longer there has none."""
    try:
        case: Any = cases.find(line.operator, line.case)
    except ValueError:
        return NONE
    return count(sum(case.counts))


def _ours(log: Log, line: Line) -> list[str]:
    figures = (
        ("device_us", micro),
        ("tflops", rate),
        ("gbps", rate),
        ("roofline_fraction", percent),
    )
    return [cell(log, line, OURS, metric, show) for metric, show in figures]

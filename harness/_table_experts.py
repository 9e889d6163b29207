"""README's table of the mixture of experts: products beside the limit, moves beside a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import cases
from harness import _missing
from harness._lines import cell, short, timed
from harness._logs import GEMM, OURS, QUANTISERS, newest
from harness._markdown import count, markdown, micro, percent, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness._logs import Log

# What other tables show, and the instruction itself.
ELSEWHERE = (*GEMM, *QUANTISERS, "wgmma")
METRICS = (
    ("device_us", micro), ("tflops", rate), ("gbps", rate), ("roofline_fraction", percent),
    ("copy_fraction", percent), ("differing_elements", count),
)  # fmt: skip
HEADER = [
    "operator", "case", "us", "TFLOP/s", "GB/s", "of roofline", "of a copy", "differing elements",
]  # fmt: skip


def operators() -> tuple[str, ...]:
    """Stems of the operators that the table shows."""
    return tuple(stem for stem in cases.names() if stem not in ELSEWHERE)


def experts(logs: Sequence[Log]) -> tuple[Log, str] | None:
    """(the log, its table) of the newest commit that holds any of the operators, or None."""
    stems = operators()
    log = newest(logs, stems)
    if log is None:
        return None
    # Problems of the model; those without a layer are there for the interpreter.
    lines = [line for line in timed(log, stems, (OURS,)) if "layer" in line.fields]
    rows = [
        [
            f"`{line.operator}`",
            short(line, lines),
            *(cell(log, line, OURS, metric, show) for metric, show in METRICS),
        ]
        for line in lines
    ]
    lacks = _missing.sentence(logs, log, lines, stems, ("device_us",), part="layer=")
    return log, markdown(HEADER, rows, left=2) + lacks

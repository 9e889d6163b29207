"""README's table of the router, the moves and the quantisers of the mixture of experts, beside a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import cases
from harness import _missing
from harness._lines import timed
from harness._logs import GEMM, GROUPED, LAYERS, OURS, QUANTISERS, newest
from harness._markdown import count, markdown, micro, percent, rate
from harness._table_parts import absent, clock, ours, source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness._logs import Log

# What other tables show, and the instruction itself.
ELSEWHERE = (*GEMM, *QUANTISERS, *GROUPED, *LAYERS, "wgmma")
METRICS = (
    ("device_us", micro), ("gbps", rate), ("copy_fraction", percent), ("differing_elements", count),
)  # fmt: skip
HEADER = ["operator", "case", "us", "GB/s", "of a copy", "differing elements"]


def operators() -> tuple[str, ...]:
    """Stems of the operators that the table shows."""
    return tuple(stem for stem in cases.names() if stem not in ELSEWHERE)


def experts(logs: Sequence[Log]) -> str:
    """What neither multiplies nor is the whole layer, of the newest commit that holds any."""
    stems = operators()
    log = newest(logs, stems)
    if log is None:
        return absent("the times of what surrounds the experts' products")
    # Problems of the model; those without a layer are there for the interpreter.
    lines = [line for line in timed(log, stems, (OURS,)) if "layer" in line.fields]
    rows = ours(log, lines, METRICS)
    said = (
        f"{source(log)} {clock(log, stems)} GB/s counts each byte that a call must move once. What "
        "has few bytes is bound by latency, and a copy of as many tells little of it."
    )
    lacks = _missing.sentence(logs, log, lines, stems, ("device_us",), part="layer=")
    return f"{said}\n\n{markdown(HEADER, rows, left=2)}{lacks}"

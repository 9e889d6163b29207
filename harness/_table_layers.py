"""README's table of the whole layer: tokens a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import _missing
from harness._lines import timed
from harness._logs import LAYERS, OURS, newest
from harness._markdown import count, markdown, micro, percent, rate
from harness._table_parts import absent, clock, ours, source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness._logs import Log

METRICS = (
    ("device_us", micro), ("tokens_per_s", count), ("tflops", rate), ("gbps", rate),
    ("roofline_fraction", percent), ("differing_elements", count),
)  # fmt: skip
HEADER = [
    "operator", "case", "experts", "us", "tokens/s", "TFLOP/s", "GB/s", "of roofline",
    "differing elements",
]  # fmt: skip


def layers(logs: Sequence[Log]) -> str:
    """The layer forward, backward and in decode, of the newest commit that holds any."""
    log = newest(logs, LAYERS)
    if log is None:
        return absent("the layer's times")
    # Problems of the model; those without a layer are there for the interpreter.
    lines = [line for line in timed(log, LAYERS, (OURS,)) if "layer" in line.fields]
    rows = ours(log, lines, METRICS, ["e"])
    said = (
        f"{source(log)} {clock(log, LAYERS)} DeepSeek-V3's layer, from the router's logits on, with "
        "so many experts and the shared one, t tokens; tokens/s: t over the device time. More sizes, and "
        "the backward of 256 experts: [docs/layer.md](docs/layer.md)."
    )
    lacks = _missing.sentence(logs, log, lines, LAYERS, ("device_us",), part="layer=")
    return f"{said}\n\n{markdown(HEADER, rows, left=2)}{lacks}"

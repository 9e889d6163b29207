"""What README's tables share: where they come from, the clock, and the columns of the peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness._lines import cell, get, short
from harness._logs import OURS, quantile
from harness._markdown import NONE, micro

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness._lines import Line
    from harness._logs import Log

NAMES = {
    "cublaslt": "cuBLASLt", "deep_gemm": "DeepGEMM", "sglang": "SGLang", "vllm": "vLLM",
    "transformer_engine": "TransformerEngine",
}  # fmt: skip
BESIDE = (
    "`X / ours` is X's time over ours: above 1, ours is faster. Differing elements: those checked "
    "that have not the reference's bits."
)


def source(log: Log) -> str:
    """Where a table comes from, a sentence."""
    gpu = log.fact("gpu")
    device = (
        f"no GPU ({log.fact('cpu')})" if gpu == "none" else f"{gpu}, driver {log.fact('driver')}"
    )
    return (
        f"Machine `{log.machine}`: {device}, torch {log.fact('torch')}, "
        f"Triton {log.fact('triton')}; commit {log.commit} of {log.date[:10]}."
    )


def ours(
    log: Log, lines: Sequence[Line], metrics: Sequence[tuple[str, Callable[[float], str]]],
    fields: Sequence[str] = (),
) -> list[list[str]]:  # fmt: skip
    """A row a case: its operator, what sets it apart, these ``fields`` of it, our ``metrics``."""
    return [
        [
            f"`{line.operator}`", short(line, lines), *(line.fields.get(name, NONE) for name in fields),
            *(cell(log, line, OURS, metric, show) for metric, show in metrics),
        ]
        for line in lines
    ]  # fmt: skip


def clock(log: Log, operators: Sequence[str]) -> str:
    """How device times were taken and how far they scatter, a sentence."""
    held = [
        item
        for key, item in log.measured.items()
        if key.operator in operators and key.metric == "device_us"
    ]
    if not held:
        return "No device time could be taken."
    rounds = sorted({item.rounds for item in held})
    several = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else str(rounds[0])
    spread = max(
        (
            (quantile(item.samples, 0.75) - quantile(item.samples, 0.25)) / item.median
            for item in held
            if item.median > 0
        ),
        default=0.0,
    )
    return (
        "Device time of one call: a CUDA graph over rotating buffers, so that the L2 is cold; "
        f"medians over {several} round{'s' if rounds[-1] > 1 else ''}, with an interquartile range "
        f"of at most {spread:.1%} of the median."
    ).replace("%", " %")


def absent(what: str) -> str:
    """The sentence in place of a table that has no data."""
    return (
        f"No log of a Hopper GPU holds {what} yet: `nox -s bench` on such a machine fills this in."
    )


def peers(log: Log, operators: Sequence[str]) -> list[str]:
    """Implementations timed beside ours, by name."""
    found = {
        key.implementation
        for key in log.measured
        if key.operator in operators and key.metric == "device_us"
    }
    return sorted(found - {OURS, "reference"})


def heads(others: Sequence[str]) -> list[str]:
    """Of the columns of :func:`beside`."""
    named = [NAMES.get(other, other) for other in others]
    pairs = [head for name in named for head in (f"{name}, us", f"{name} / ours")]
    return [*pairs, "differing elements" + (", " + " / ".join(["ours", *named]) if named else "")]


def beside(log: Log, line: Line, others: Sequence[str]) -> list[str]:
    """Each peer's time and its ratio to ours, then the differing elements of all."""
    ours = get(log, line, OURS, "device_us")
    row = []
    for other in others:
        theirs = get(log, line, other, "device_us")
        ratio = (
            f"{theirs.median / ours.median:.2f}" if ours and theirs and ours.median > 0 else NONE
        )
        row += [cell(log, line, other, "device_us", micro), ratio]
    counts = [get(log, line, name, "differing_elements") for name in (OURS, *others)]
    row.append(" / ".join(NONE if count is None else f"{count.median:,.0f}" for count in counts))
    return row

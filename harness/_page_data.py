"""The numbers behind the page's curves: every machine's history, as compact JSON.

A series has one value a log of its machine, oldest first: a number, null where nothing was measured,
or the words ``inf`` and ``nan``, which JSON has no numbers for.  A series of one value throughout is
that value alone.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from benchmarks import cases, metrics
from benchmarks.rawlog import Key
from benchmarks.roofline import DATASHEET
from harness import _lines, _plots
from harness._logs import MACHINE, OURS, quantile
from harness._verdict import same_program

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness._history import Commit
    from harness._logs import Log
    from harness._page_changes import Mark

# What a curve can show, in the order of the menu.
SHOWN = (
    "device_us", "roofline_fraction", "launch_us", "peak_bytes", "cpu_us", "differing_elements",
    "max_error", "rms_error", "registers", "spills", "shared_bytes", "instructions", "compile_s",
)  # fmt: skip


def by_machine(logs: Iterable[Log]) -> dict[str, list[Log]]:
    """Logs of each machine, in the order they come in; those with a GPU, and a long history, first."""
    found: dict[str, list[Log]] = {}
    for log in logs:
        found.setdefault(log.machine, []).append(log)

    def rank(item: tuple[str, list[Log]]) -> tuple[bool, int, str]:
        name, held = item
        return held[-1].fact("gpu") == "none", -len(held), name

    return dict(sorted(found.items(), key=rank))


def operators(logs: Iterable[Log]) -> list[str]:
    """Every operator with a number or a failure of ours, by name."""
    found = {key.operator for log in logs for key in log.measured} - {MACHINE}
    return sorted(found | {which[0] for log in logs for which in log.statuses} - {MACHINE})


def text(
    logs: Sequence[Log], marks: Sequence[dict[str, str]], known: dict[str, Commit],
    changes: Sequence[Mark] = (),
) -> str:  # fmt: skip
    """The page's JSON, an operator a line; no ``<`` in it can end the script that holds it.

    logs: from the oldest commit to the newest.  known: the history, for the commits' subjects.
    changes: of the curves, which the history says.
    """
    shown = {name: list(metrics.METRICS[name]) for name in SHOWN}
    lines = [f'{{"metrics":{_dump(shown)},', f'"marks":{_dump(list(marks))},', '"machines":[']
    machines = by_machine(logs)
    for number, (name, held) in enumerate(machines.items()):
        lines.append(f'{{"name":{_dump(name)},')
        lines += [
            f'"logs":{_dump([_log(log, known) for log in held])},',
            f'"limits":{_dump(_limits(held))},',
        ]
        lines.append('"operators":{')
        stems = operators(held)
        for stem in stems:
            comma = "," if stem != stems[-1] else ""
            found = operator(stem, held)
            found["changes"] = _changed(name, stem, found["cases"], changes)
            lines.append(f"{_dump(stem)}:{_dump(found)}{comma}")
        lines.append("}}" + ("," if number < len(machines) - 1 else ""))
    return "\n".join([*lines, "]}"])


def _dump(value: Any) -> str:
    dumped = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return dumped.replace("<", "\\u003c")


def _log(log: Log, known: dict[str, Commit]) -> dict[str, str]:
    subject = known[log.commit].subject if log.commit in known else ""
    facts = {name: log.fact(name) for name in ("triton", "torch", "driver")}
    return {"commit": log.commit, "date": log.date, "subject": subject, **facts}


def _limits(logs: Sequence[Log]) -> dict[str, Any]:
    """The newest ceilings measured on this machine, and the datasheet's FP8 rate beside them."""
    for log in reversed(logs):
        measured = _plots.ceilings(log)
        if measured.copies or measured.tflops:
            sheet = next(
                ([part, rate] for part, (rate, _) in DATASHEET.items() if part in log.fact("gpu")),
                None,
            )
            copies = [[point.x, _number(point.y)] for point in measured.copies]
            rates = {name: _number(rate) for name, rate in sorted(measured.tflops.items())}
            return {"commit": log.commit, "copies": copies, "tflops": rates, "datasheet": sheet}
    return {}


def operator(stem: str, logs: Sequence[Log]) -> dict[str, Any]:
    """Cases, their costs, and every series of one operator on one machine."""
    lines = _lines.present(logs, stem)
    labels = [line.case for line in lines]
    implementations = sorted(
        {key.implementation for log in logs for key in log.measured if key.operator == stem},
        key=lambda name: (name != OURS, name == "reference", name),
    )
    series = {name: _series(stem, labels, name, logs) for name in implementations}
    return {
        "cases": labels,
        "short": [_lines.short(line, lines) for line in lines],
        "costs": [_cost(stem, label) for label in labels],
        "series": series,
        "throttled": [_throttled(stem, label, logs) for label in labels],
        "same": [_same(stem, label, logs) for label in labels],
        "broken": [_broken(stem, label, logs) for label in labels],
    }


def _changed(
    machine: str, stem: str, labels: Sequence[str], changes: Iterable[Mark]
) -> list[list[Any]]:
    """Of an operator: number of the case, metric, commit, word, text."""
    return [
        [labels.index(mark.case), mark.metric, mark.commit, mark.word, mark.text]
        for mark in changes
        if (mark.machine, mark.operator) == (machine, stem)
    ]


def _cost(stem: str, label: str) -> list[int] | None:
    """Tensor-core operations and bytes of a case; None when it is a case no longer."""
    try:
        cost = cases.find(stem, label).cost()
    except ValueError:
        return None
    return [int(cost.flops), int(cost.bytes)]


def _series(
    stem: str, labels: Sequence[str], implementation: str, logs: Sequence[Log]
) -> dict[str, list[Any]]:
    """By metric: a series a case.  The quartiles of the device time are ``low`` and ``high``."""
    quartiles = {"low": 0.25, "high": 0.75}
    found = {}
    for name in (*SHOWN, *quartiles):
        metric, part = ("device_us", quartiles[name]) if name in quartiles else (name, 0.5)
        held = [
            _short([_taken(log, Key(stem, label, implementation, metric), part) for log in logs])
            for label in labels
        ]
        if any(series is not None for series in held):
            found[name] = held
    return found


def _taken(log: Log, key: Key, part: float) -> Any:
    measured = log.measured.get(key)
    return None if measured is None else _number(quantile(measured.samples, part))


def _number(value: float) -> Any:
    """Four significant digits, more than any clock here has; counts stay whole."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf"
    if value == int(value) and abs(value) < 1e15:
        return int(value)
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded == int(rounded) else rounded


def _short(values: list[Any]) -> Any:
    """One value for a series that never changes."""
    return values[0] if all(value == values[0] for value in values) else values


def _throttled(stem: str, label: str, logs: Sequence[Log]) -> list[int]:
    """Logs in which the GPU throttled while our device time was taken."""
    key = Key(stem, label, OURS, "device_us")
    return [
        number
        for number, log in enumerate(logs)
        if key in log.measured and log.measured[key].throttled
    ]


def _same(stem: str, label: str, logs: Sequence[Log]) -> list[int]:
    """Logs with the machine code, launched alike, of the log before in the same environment."""
    key, found = Key(stem, label, OURS, "device_us"), []
    for number, log in enumerate(logs):
        alike = [old for old in logs[:number] if old.fact("triton") == log.fact("triton")]
        if alike and same_program(alike[-1], log, key):
            found.append(number)
    return found


def _broken(stem: str, label: str, logs: Sequence[Log]) -> list[list[Any]]:
    """Logs in which ours failed or died on this case, with the word."""
    found = []
    for number, log in enumerate(logs):
        for (operator, case, implementation, _), (status, _) in sorted(log.statuses.items()):
            if (operator, case, implementation) == (stem, label, OURS) and status in (
                "failed",
                "died",
            ):
                found.append([number, status])
    return found

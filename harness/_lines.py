"""Lines of a table: which cases of a log it shows, in which order, what stands in their cells."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import cases, metrics
from harness._logs import lost
from harness._markdown import NONE, THROTTLED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.rawlog import Key, Measured
    from harness._logs import Log


# Fields of a label that say where the case is from and how large it is.
SHAPE = ("layer", "m", "n", "k", "t")


class Line(NamedTuple):
    """One case of one operator in a table, with what its label says."""

    operator: str
    case: str
    fields: dict[str, str]


def timed(log: Log, operators: Sequence[str], implementations: Sequence[str]) -> list[Line]:
    """Cases with a device time, and those of ours that failed, which no table may hide."""
    lines = lines_where(
        log, lambda key: key.metric == "device_us" and key.implementation in implementations
    )
    failed = [line(operator, case) for operator, case in lost(log, operators)]
    merged = {
        (line.operator, line.case): line for line in [*lines, *failed] if line.operator in operators
    }
    rank = _ranker()
    return sorted(
        merged.values(), key=lambda line: (operators.index(line.operator), rank(line), line.case)
    )


def lines_where(log: Log, wanted: Callable[[Key], bool]) -> list[Line]:
    """Cases of which any key is wanted, by operator, then in the order of its case table."""
    found = {(key.operator, key.case) for key in log.measured if wanted(key)}
    lines = [line(operator, case) for operator, case in found]
    rank = _ranker()
    return sorted(lines, key=lambda line: (line.operator, rank(line), line.case))


def present(logs: Iterable[Log], operator: str) -> list[Line]:
    """Cases of one operator of which any log holds a number or a failure, in the table's order."""
    found = {key.case for log in logs for key in log.measured if key.operator == operator}
    found |= {case for log in logs for _, case in lost(log, (operator,))}
    rank = _ranker()
    return sorted(
        (line(operator, case) for case in found), key=lambda line: (rank(line), line.case)
    )


def line(operator: str, case: str) -> Line:
    """A case as a table's line, by its label."""
    pairs = (part.partition("=") for part in case.split(","))
    return Line(operator, case, {name: value for name, equals, value in pairs if equals})


def _ranker() -> Callable[[Line], int]:
    """Place of a case in its operator's table, which is read once; one that is no longer there comes last."""
    tables: dict[str, dict[str, int]] = {}

    def rank(line: Line) -> int:
        if line.operator not in tables:
            try:
                labels = [case.label for case in cases.load(line.operator).CASES]
            except ValueError:
                labels = []
            tables[line.operator] = {label: place for place, label in enumerate(labels)}
        places = tables[line.operator]
        return places.get(line.case, len(places))

    return rank


def extra(line: Line, lines: Sequence[Line]) -> str:
    """What sets this case apart from others of its shape: the fields that are not as usual."""
    parts = [part for part in _unusual(line, lines) if part.split("=")[0] not in SHAPE]
    return f" ({', '.join(parts)})" if parts else ""


def short(line: Line, lines: Sequence[Line]) -> str:
    """The case's label without the fields that are as usual, to be read and not to be looked up."""
    named = [f"{name}={value}" for name, value in line.fields.items() if name in SHAPE]
    return ",".join(dict.fromkeys([*named, *_unusual(line, lines)])) or line.case


def _unusual(line: Line, lines: Sequence[Line]) -> list[str]:
    parts = []
    for name, value in line.fields.items():
        values = [other.fields.get(name) for other in lines if other.operator == line.operator]
        if value != statistics.mode(values):
            parts.append(f"{name}={value}")
    return parts


def get(log: Log, line: Line, implementation: str, metric: str) -> Measured | None:
    """What was measured of one implementation on this line's case, or None."""
    return log.get(line.operator, line.case, implementation, metric)


def cell(
    log: Log, line: Line, implementation: str, metric: str, show: Callable[[float], str]
) -> str:
    """A median, marked when throttled; the status where it came later or alone."""
    measured = get(log, line, implementation, metric)
    which = (line.operator, line.case, implementation, metrics.phase(metric))
    status, _ = log.statuses.get(which, ("", ""))
    if measured is None:
        return status or NONE
    mark = f" {THROTTLED}" if measured.throttled else ""
    return show(measured.median) + mark + (f", then {status}" if status else "")

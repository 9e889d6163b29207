"""The tables at the end of ``nox -s bench``: a row a timed case, no column without a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks import bench_operators, cases, metrics

if TYPE_CHECKING:
    from rich.table import Table

    from harness._logs import Log

OURS = "kernels"


class Column(NamedTuple):
    """One metric of one implementation, as the table shows it."""

    title: str
    implementation: str
    metric: str
    style: str = "{:.4g}"


COLUMNS = (
    Column("device us", OURS, "device_us"),
    Column("TFLOP/s", OURS, "tflops"),
    Column("GB/s", OURS, "gbps"),
    Column("of roofline", OURS, "roofline_fraction", "{:.0%}"),
    Column("launch us", OURS, "launch_us"),
    Column("differing", OURS, "differing_elements", "{:.0f}"),
    Column("max error", OURS, "max_error", "{:.2e}"),
    Column("registers", OURS, "registers", "{:.0f}"),
    Column("spills B", OURS, "spills", "{:.0f}"),
    Column("wgmma", OURS, "wgmma", "{:.0f}"),
    Column("compile s", OURS, "compile_s", "{:.2f}"),
    Column("reference cpu us", "reference", "cpu_us"),
)


def columns(log: Log, operator: str) -> list[Column]:
    """Those of COLUMNS that hold a value or a failure, and the device time of each peer."""
    recorded = bench_operators.tabulate(log.measured, log.statuses, log.commit)
    held = {key[2:] for key in (*log.measured, *recorded) if key[0] == operator}
    peers = sorted({implementation for implementation, _ in held} - {OURS, "reference"})
    timed = [Column(f"{peer} us", peer, "device_us") for peer in peers]
    wanted = [*COLUMNS[:1], *timed, *COLUMNS[1:]]
    return [column for column in wanted if column[1:3] in held]


def cell(log: Log, operator: str, case: str, column: Column) -> str:
    """One value; or ``failed`` or ``died`` where there is none for that reason."""
    measured = log.get(operator, case, column.implementation, column.metric)
    if measured is not None:
        return column.style.format(measured.median)
    which = (operator, case, column.implementation, metrics.phase(column.metric))
    status, _ = log.statuses.get(which, ("", ""))
    return f"[red]{status}[/red]" if status in ("failed", "died") else ""


def tables(log: Log) -> list[Table]:
    """A table for each operator with numbers in this log; what its cases share is in the title."""
    from rich.table import Table

    found = []
    for operator in cases.names():
        shown = columns(log, operator)
        timed = [case.label for case in cases.load(operator).CASES if case.bench]
        if not shown or not timed:
            continue
        common = set.intersection(*(set(label.split(",")) for label in timed))
        said = [part for part in timed[0].split(",") if part in common] if len(timed) > 1 else []
        drawn = Table("case", title=" ".join([operator, *said]), title_justify="left")
        for column in shown:
            drawn.add_column(column.title, justify="right")
        for label in timed:
            cells = [cell(log, operator, label, column) for column in shown]
            if any(cells):
                name = " ".join(part for part in label.split(",") if part not in said)
                drawn.add_row(name, *cells)
        found.append(drawn)
    return found


def failures(log: Log) -> list[str]:
    """A line for each (operator, case, implementation, phase) that broke."""
    return [
        f"{' '.join(which)}: {status}: {reason}"
        for which, (status, reason) in sorted(log.statuses.items())
        if status in ("failed", "died")
    ]

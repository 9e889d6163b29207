"""What ``harness.adapter`` shows: which backend fails what, case by case, and their times side by side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases, tasks
from harness import _adapter, _backends, _desk, _problem
from harness._markdown import NONE, markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table as Drawn

    from harness._probes import Column

ABSENT = "absent"
LEFT = 2  # columns of text before the numbers of a time
QUIET = {_adapter.RIGHT: "green", _adapter.UNSUPPORTED: "dim", ABSENT: "dim"}


class Table(NamedTuple):
    """Cells of text; the first ``left`` columns are no numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int


class Result(NamedTuple):
    """Of one run.  times: rows of :func:`harness._probes.clocked`; note: why there are none."""

    operator: str
    columns: Sequence[Column]
    times: Sequence[dict[str, Any]]
    note: str = ""

    def tables(self) -> list[Table]:
        """Those that are not empty, the shortest first."""
        found = [self.faults(), self.verdicts(), self.clock()]
        return [table for table in found if table.rows]

    def faults(self) -> Table:
        """A row a fault, a column a backend: on how many cases it has it."""
        rows = [["judged by", *(column.contract or ABSENT for column in self.columns)]]
        rows += [
            [status, *(_count(column, status) for column in self.columns)]
            for status in (_adapter.RIGHT, *_adapter.FAULTS, _adapter.UNSUPPORTED)
        ]
        return Table(f"{self.operator}: cases by verdict", self._header("verdict"), rows, 1)

    def verdicts(self) -> Table:
        """A row a case, a column a backend."""
        held = [{row.case: row.status for row in column.rows} for column in self.columns]
        labels = list(dict.fromkeys(label for column in held for label in column))
        shared, short = _problem.shortened(labels) if labels else ("", {})
        rows = [[short[label], *(column.get(label, ABSENT) for column in held)] for label in labels]
        title = f"{self.operator}: case by case {shared}".rstrip()
        return Table(title, self._header("case"), rows, len(self.columns) + 1)

    def clock(self) -> Table:
        """A row a backend and case."""
        rows = self.clocked()
        shared, short = _problem.shortened([row.case.label for row in rows]) if rows else ("", {})
        cells = [
            [short[row.case.label], _backends.OURS if row.ours else row.name, *_desk.numbers(row)]
            for row in rows
        ]
        header = ("case", "backend", *_desk.NUMBERS)
        filled = [row + [""] * (len(header) - len(row)) for row in cells]
        title = f"{self.operator}: device time, in turns {shared}".rstrip()
        return Table(title, header, filled, LEFT)

    def clocked(self) -> list[_desk.Row]:
        """The times' rows, of cases."""
        return [
            _desk.Row(**(row | {"case": cases.find(self.operator, row["case"])}))
            for row in self.times
        ]

    def remarks(self) -> list[str]:
        """Why backends are absent, what is wrong with each case, and what has no time."""
        found = [f"{one.name}: {ABSENT}: {one.absent}" for one in self.columns if one.absent]
        for column in self.columns:
            found += [
                f"{column.name}: {row.case}: {row.status}: {row.message}"
                for row in column.rows
                if row.message
            ]
        for time in self.times:
            # What has a verdict needs no second remark.
            if (
                time["problem"]
                and time["problem"] not in QUIET
                and time["problem"] not in _adapter.FAULTS
            ):
                name = _backends.OURS if time["name"] == tasks.OURS else time["name"]
                found.append(f"{name}: {time['case']}: no time: {time['problem']}")
        return [*found, self.note] if self.note else found

    def markdown(self) -> str:
        """A page."""
        parts = [f"# {self.operator}", "", f"{_problem.machine()}; {_problem.tree()}.", ""]
        for title, header, rows, left in self.tables():
            parts += [f"## {title}", "", markdown(header, rows, left), ""]
        if remarks := self.remarks():
            parts += ["## Remarks", "", "```", *remarks, "```", ""]
        return "\n".join(parts)

    def json(self) -> str:
        """All of it."""
        held = {
            "operator": self.operator, "machine": _problem.machine(), "tree": _problem.tree(),
            "backends": [vars(one) | {"rows": [row._asdict() for row in one.rows]} for one in self.columns],
            "times": list(self.times), "note": self.note,
        }  # fmt: skip
        return json.dumps(held, indent=1) + "\n"

    def show(self) -> None:
        """On the screen."""
        console = _problem.console()
        for table in self.tables():
            console.print(_drawn(table))
        for words in self.remarks():
            console.print(words, markup=False, soft_wrap=True)

    def _header(self, first: str) -> list[str]:
        return [first, *(column.name for column in self.columns)]


def _count(column: Column, status: str) -> str:
    if column.absent:
        return NONE
    return str(sum(row.status == status for row in column.rows))


def _drawn(table: Table) -> Drawn:
    from rich.markup import escape
    from rich.table import Table as New

    drawn = New(title=escape(table.title), title_justify="left")
    for index, name in enumerate(table.header):
        drawn.add_column(
            escape(name), justify="left" if index < table.left else "right", overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*map(_coloured, row))
    return drawn


def _coloured(cell: str) -> str:
    from rich.markup import escape

    colour = QUIET.get(cell, "red" if cell in _adapter.FAULTS else "")
    return f"[{colour}]{cell}[/{colour}]" if colour else escape(cell)

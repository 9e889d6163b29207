"""Logs of comparisons that nobody measured, of two commits of the small repository of _nights."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from benchmarks.metrics import METRICS
from gate import compare, log, plan
from tests._nights import CASE, FACTS, OPERATOR, Project

if TYPE_CHECKING:
    from collections.abc import Sequence

KERNEL = {
    "name": "k",
    "sass_code": "code",
    "grid": [4],
    "warps": 8,
    "shared": 1024,
    "launch": "how",
}


class Comparison:
    """A log, and the verdict on it.  Its processes end in the order in which they are written."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.path = project.root / "comparison.jsonl"
        self.facts = dict(FACTS)
        self.measuring = "clock"
        self.repeat = 1  # of the samples in a process
        self.numbers = itertools.count()

    def process(
        self, side: str, rows: Sequence[dict[str, Any]] = (), *, step: str = plan.TIME, block: int = 0,
        position: int = 0, ended: bool = True, **fields: Any,
    ) -> None:  # fmt: skip
        """Append one process; with ``ended`` false, one that was killed with the comparison."""
        commit = self.project.base if side == plan.BASE else self.project.head
        turn = plan.Turn(step, OPERATOR, block, position, side)
        writer = log.Writer(self.path, commit=commit, process=f"p{next(self.numbers)}", turn=turn)
        for row in rows:
            kind = "status" if "status" in row else "sample"
            common = {"operator": OPERATOR, "case": CASE, "implementation": "kernels"}
            writer.append(kind, **(common | row))
        if ended:
            known = {"outcome": log.ENDED, "reference": side, "measuring": self.measuring}
            writer.append(
                "process", machine=self.facts, date="", operator=OPERATOR, **(known | fields)
            )

    def timed(
        self, base: Sequence[float], head: Sequence[float], *, metric: str = "device_us",
        case: str = CASE, more: Sequence[dict[str, Any]] = ({}, {}), **fields: Any,
    ) -> Comparison:  # fmt: skip
        """Processes in the gate's order, each with three samples around its number.

        more: fields of the rows of base and of head.
        """
        values = {plan.BASE: iter(base), plan.HEAD: iter(head)}
        for number in range(len(base) + len(head)):
            block, position = divmod(number, plan.POSITIONS)
            side = plan.order(block)[position]
            value = next(values[side])
            row = sample(
                metric,
                case=case,
                round=block,
                samples=[0.9 * value, value, 1.2 * value] * self.repeat,
            )
            row |= more[plan.SIDES.index(side)]
            self.process(side, [row], block=block, position=position, **fields)
        return self

    def once(self, metric: str, base: float, head: float, **fields: Any) -> Comparison:
        """A value that a commit decides."""
        for position, (side, value) in enumerate(zip(plan.SIDES, (base, head), strict=True)):
            row = sample(metric, value=value) | fields
            self.process(side, [row], step=plan.CHECK, position=position)
        return self

    def compiled(
        self, base: dict[str, Any], head: dict[str, Any], hosts: tuple[str, str] = ("torch",) * 2
    ) -> Comparison:
        """What was compiled: changes of KERNEL.  hosts: hashes of torch's calls."""
        for position, (side, change) in enumerate(zip(plan.SIDES, (base, head), strict=True)):
            detail = {"kernels": [KERNEL | change], "host": hosts[position]}
            row = sample("registers", value=32, detail=detail)
            self.process(side, [row], step=plan.CODEGEN, position=position)
        return self

    def call(self, *arguments: str) -> int:
        """The command's exit code on this log."""
        return compare.main(
            [
                self.project.base, self.project.head, OPERATOR, CASE, "--no-measure",
                "--log", str(self.path), "--json", str(self.project.root / "out.json"), *arguments,
            ]
        )  # fmt: skip

    def rows(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """The verdicts on the one case, by metric."""
        self.call(*arguments)
        told = json.loads((self.project.root / "out.json").read_text())
        return {row["metric"]: row for row in told["rows"] if row["case"] == CASE}


def sample(metric: str, **fields: Any) -> dict[str, Any]:
    """Fields of a sample."""
    return {"metric": metric, "unit": METRICS[metric].unit, "round": 0} | fields

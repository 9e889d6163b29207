"""What there is to measure on a machine, and what of it a raw log still lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases, peers, rawlog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Case

ROUNDS = 3
OURS = "kernels"
REFERENCE = "reference"
CEILINGS = "ceilings"
ACCURACY = ("differing_elements", "max_error", "rms_error")


class Task(NamedTuple):
    """One step of a sweep.  last: the metric that is written last, so that its presence says that the
    step is complete."""

    kind: str  # codegen, accuracy, cpu, device or ceilings
    case: str
    implementation: str
    round: int
    last: str


def tasks(stem: str, phase: str, *, hopper: bool) -> Iterator[Task]:
    """Every step of an operator's phase on a machine, in order; rounds are outermost, so that a
    drift of the machine does not fall on single cases."""
    if stem == "machine":
        yield Task("ceilings", CEILINGS, CEILINGS, 0, "tflops")
        return
    timed = [case for case in cases.load(stem).CASES if case.bench]
    if phase == "codegen":
        for case in timed:
            yield Task("codegen", case.label, OURS, 0, "compile_s")
    elif hopper:
        for index in range(ROUNDS):
            for case in timed:
                for implementation in (OURS, *peers.here(stem)):
                    yield Task("device", case.label, implementation, index, "gbps")
    else:
        yield from _cpu(stem, timed)


def _cpu(stem: str, timed: list[Case]) -> Iterator[Task]:
    small = [case for case in cases.on_cpu(stem) if case in timed]
    for case in small:
        yield Task("accuracy", case.label, OURS, 0, ACCURACY[-1])
    for index in range(ROUNDS):
        for case in small:
            yield Task("cpu", case.label, REFERENCE, index, "cpu_us")


def missing(stem: str, phase: str, rows: list[dict[str, Any]], *, hopper: bool) -> list[Task]:
    """Steps that neither a sample nor a status of the log settles."""
    done = {
        (row["case"], row["implementation"], row["metric"], row["round"])
        for row in rows
        if row["kind"] == "sample" and row["operator"] == stem
    }
    settled = {
        (case, implementation)
        for operator, case, implementation, of in rawlog.statuses(rows)
        if operator == stem and of == phase
    }
    return [
        task
        for task in tasks(stem, phase, hopper=hopper)
        if (task.case, task.implementation, task.last, task.round) not in done
        and (task.case, task.implementation) not in settled
    ]

"""What :mod:`harness.timing` does with one case: checks it, times it and shows it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from benchmarks import cases, measure, peers, roofline, tasks
from benchmarks.worker import Worker, WrongAnswer
from harness import _problem
from harness._logs import quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.table import Table

    from benchmarks import rawlog
    from benchmarks.cases import Case

ROUNDS = 3
NUMBERS = (
    "device us", "q25 q75", "TFLOP/s", "GB/s", "of a copy", "launch us", "differing", "throttled",
)  # fmt: skip


@dataclass
class Row:
    """One implementation on one case.  problem: why it has no numbers, a sentence."""

    case: Case
    name: str
    samples: list[float] = field(default_factory=list)
    launch: list[float] = field(default_factory=list)
    copy_us: float = 0.0
    differing: float = 0
    throttle: str = ""
    problem: str = ""

    @property
    def ours(self) -> bool:
        return self.name == tasks.OURS


class Desk(Worker):
    """The sweep's worker, with its clock and its checks, that keeps its numbers to itself."""

    def __init__(self, stem: str, device: str = "cuda") -> None:
        # Nothing is appended to a raw log: write() below takes every number.
        super().__init__(cast("rawlog.Writer", None), stem, "run")
        self.device_name = device
        self.noted: dict[tuple[str, str], float] = {}

    def write(self, task: tasks.Task, metric: str, **numbers: Any) -> None:
        self.noted[metric, task.implementation] = numbers["value"]

    def rows(self, case: Case) -> Iterator[Row]:
        """Ours, then the peers."""
        copy = statistics.median(roofline.copy_us(case.cost().bytes))
        for name in (tasks.OURS, *peers.here(self.stem)):
            row = Row(case, name, copy_us=copy)
            try:
                self.fill(row)
            except (NotImplementedError, WrongAnswer) as reason:
                row.problem = str(reason)
            except Exception as error:
                # A peer may fail in any way, and ours is then still worth its numbers.
                if row.ours:
                    raise
                row.problem = f"{type(error).__name__}: {error}"
            yield row
        self.expected.clear()

    def fill(self, row: Row, *, turn: int = 0, rounds: int = ROUNDS) -> None:
        """Time one implementation, some rounds more of it where it is not its first ``turn``.

        Raises WrongAnswer, and then there is no number.
        """
        prepare = self.implementation(row.name)
        sets: list[dict[str, Any]] = []

        def make() -> Callable[[], Any]:
            sets.append(row.case.inputs(self.device_name))
            return prepare(sets[-1])

        timing = measure.device_us(make, bytes_per_call=row.case.cost().bytes, rounds=rounds)
        task = tasks.Task("device", row.case.label, row.name, turn, "device_us")
        self.verify(task, row.case, sets[0], timing)
        if turn == 0:
            row.launch = measure.launch_us(prepare(sets[0]))
            row.differing = self.noted["differing_elements", row.name]
        row.samples += timing.samples
        row.throttle = row.throttle or ", ".join(timing.clocks.get("throttle", []))


def table(stem: str, rows: Sequence[Row]) -> Table:
    """A row an implementation and case; one without numbers has none."""
    from rich.table import Table

    shared, names = _problem.shortened([row.case.label for row in rows])
    drawn = Table(title=f"{stem} {shared}".rstrip(), title_justify="left")
    drawn.add_column("case", overflow="fold")
    drawn.add_column("implementation")
    for name in NUMBERS:
        drawn.add_column(name, justify="right")
    for row in rows:
        drawn.add_row(names[row.case.label] if row.ours else "", row.name, *numbers(row))
    return drawn


def numbers(row: Row) -> list[str]:
    """Under NUMBERS; of a row without numbers one dash."""
    if row.problem:
        return ["-"]
    us, cost = statistics.median(row.samples), row.case.cost()
    return [
        f"{us:.2f}", f"[{quantile(row.samples, 0.25):.2f} {quantile(row.samples, 0.75):.2f}]",
        f"{cost.flops / us / 1e6:.0f}" if cost.flops else "", f"{cost.bytes / us / 1e3:.0f}",
        f"{row.copy_us / us:.0%}", f"{statistics.median(row.launch):.1f}", str(row.differing), row.throttle,
    ]  # fmt: skip


@dataclass
class Check:
    """One case in the interpreter.  problem: why it was not checked, or what is wrong with it."""

    case: str
    differing: int = 0
    modelled: int = 0
    errors: tuple[float, float] = (0.0, 0.0)
    samples: list[float] = field(default_factory=list)
    problem: str = ""
    wrong: bool = False


def interpreted(stem: str, case: Case, *, timed: bool) -> Check:
    """Parity in Triton's interpreter; the errors and the reference's time too where ``timed``."""
    steps = case.interpreter_steps()
    if steps > cases.INTERPRETER_CASE_LIMIT:
        return Check(
            case.label, problem=f"not checked here: needs Hopper: {steps} interpreter steps"
        )
    from benchmarks import parity
    from harness import interpreter
    from reference_impl import wgmma

    interpreter.install()
    arguments = case.inputs("cpu")
    with wgmma.partials("exact"):
        got = cases.call(cases.public("kernels", stem), arguments)
        found = parity.check(stem, case, arguments, got)
    if not found.ok:
        return Check(case.label, found.differing, found.modelled, problem=found.message, wrong=True)
    if not timed:
        return Check(case.label, found.differing, found.modelled)
    reference = cases.public("reference_impl", stem)
    samples = measure.cpu_us(lambda: cases.call(reference, arguments), seconds=0.05)
    errors = parity.accuracy(stem, case, arguments, got)
    return Check(case.label, found.differing, found.modelled, errors, samples)


def checks(stem: str, rows: Sequence[Check]) -> Table:
    """What the interpreter found; a wrong case has no time."""
    from rich.table import Table

    shared, names = _problem.shortened([row.case for row in rows])
    title = f"{stem} in Triton's interpreter {shared}".rstrip()
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("case", overflow="fold")
    drawn.add_column("parity")
    for name in ("elements", "max error", "rms error", "reference cpu us", "q25 q75"):
        drawn.add_column(name, justify="right")
    for row in rows:
        drawn.add_row(names[row.case], *_checked(row))
    return drawn


def _checked(row: Check) -> list[str]:
    if row.wrong:
        return [f"[red]wrong: {row.differing} differ[/red]", str(row.modelled)]
    if row.problem:
        return ["not checked"]
    low, middle, high = (quantile(row.samples, part) for part in (0.25, 0.5, 0.75))
    return [
        "equal" if not row.differing else f"within bound, {row.differing} differ", str(row.modelled),
        f"{row.errors[0]:.1e}", f"{row.errors[1]:.1e}", f"{middle:.0f}", f"[{low:.0f} {high:.0f}]",
    ]  # fmt: skip

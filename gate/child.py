"""The child of a comparison: takes one process's steps and appends every finished one.

It measures as the sweep's child does, with the same clock and the same checks, and leaves out what
only the history needs: peers, rates, ceilings.
"""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import worker
from benchmarks.fingerprint import has_hopper
from gate import plan
from gate.log import Writer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from benchmarks.cases import Case
    from benchmarks.measure import Timing
    from benchmarks.tasks import Task


class Worker(worker.Worker):
    """Walks the steps of one turn."""

    def __init__(self, writer: Writer, turn: plan.Turn, labels: list[str]) -> None:
        super().__init__(writer, turn.operator, "codegen" if turn.step == plan.CODEGEN else "run")
        self.steps = plan.steps(turn, labels, hopper=has_hopper())

    def todo(self) -> list[Task]:
        return self.steps

    def present(self) -> None:
        """Raise NotImplementedError for what this commit lacks, before torch is loaded for it."""
        if find_spec("kernels") is None or find_spec(f"kernels.{self.stem}") is None:
            raise NotImplementedError(f"kernels has no {self.stem} at this commit")

    def accuracy(self, task: Task) -> None:
        self.present()
        super().accuracy(task)

    def codegen(self, task: Task) -> None:
        self.present()
        calls: list[str] = []
        with _listen(calls):
            super().codegen(task)
        # torch's own kernels are part of a call, too.
        host = hashlib.sha256("\n".join(calls).encode()).hexdigest()[:16]
        for row in self.held:
            row["detail"]["host"] = host

    def derived(self, task: Task, case: Case, timing: Timing, evidence: dict[str, Any]) -> None:
        """Nothing: rates follow from the time."""


def _listen(calls: list[str]) -> AbstractContextManager[Any]:
    """Write down what is asked of torch inside, with the shapes of what comes back."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Listener(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            del types
            result = func(*args, **(kwargs or {}))
            parts = result if isinstance(result, (list, tuple)) else (result,)
            shapes = [(*getattr(part, "shape", ()), getattr(part, "dtype", "")) for part in parts]
            calls.append(f"{func} {shapes}")
            return result

    return Listener()  # type: ignore[no-untyped-call]


def main(arguments: list[str]) -> None:
    """checkout, log, commit, process, turn and cases as JSON, process number of the parent."""
    checkout, log, commit, process, given, parent = arguments
    worker.end_with(int(parent))
    for package in ("kernels", "reference_impl"):
        worker.require_from(package, Path(checkout))
    told = json.loads(given)
    turn = plan.Turn(*told["turn"])
    writer = Writer(Path(log), commit=commit, process=process, turn=turn)
    Worker(writer, turn, told["labels"]).run()

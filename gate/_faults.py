"""The published list of planted faults: ``gate/faults/*.toml``, one file an operator or shared module.

A file holds, beside its ``[[fault]]`` tables::

    operators = [...]        stems whose cases judge these faults; the file's own name where it is missing
    tests = [...]            pytest's names of further tests of the kernels
    reference_tests = [...]  tests that compare the reference with something else than the kernels

and a fault::

    name                     kebab-case, unique in its file
    file, old, new           the text ``old``, which occurs exactly once in ``file``, becomes ``new``
    models                   the mistake that somebody could make
    gpu = "..."              why no test can see it without a Hopper GPU
    blind = "..."            why parity cannot see a fault of the reference; its own tests must
    blind_on_cpu = "..."     and why not without a Hopper GPU
    blind_on_gpu = "..."     and why not on one
    only = "..."             run nothing but tests whose name contains this
    operators, tests         of this fault alone
    hangs = true             the fault is to hang; a run that passes its time limit has found it

A change that no argument can show, such as a mask on a load whose lanes are not stored, is no fault
and stands in no list.
"""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "faults"
SIDES = ("kernels", "reference_impl")


class NotApplicableError(ValueError):
    """The list and the code went apart."""


@dataclass(frozen=True)
class Fault:
    """One text replacement, what it models, and the tests that must see it."""

    operator: str
    name: str
    file: str
    old: str
    new: str
    models: str
    operators: tuple[str, ...]
    tests: tuple[str, ...]
    reference_tests: tuple[str, ...]
    gpu: str = ""
    blind: str = ""
    blind_on_cpu: str = ""
    blind_on_gpu: str = ""
    only: str = ""
    hangs: bool = False

    @property
    def id(self) -> str:
        """``operator/name``, with the side where that is the reference."""
        side = "reference/" if self.of_reference else ""
        return f"{side}{self.operator}/{self.name}"

    @property
    def of_reference(self) -> bool:
        """Whether the fault is in the definition."""
        return self.file.startswith("reference_impl/")

    def sides(self, gpu: bool) -> tuple[str, ...]:
        """What judges it here: a kernel's tests; of the reference parity and its own tests, which
        use no kernel and so need no second run on a GPU."""
        if not self.of_reference:
            return ("tests",) if gpu or not self.gpu else ()
        blind = self.blind or (self.blind_on_gpu if gpu else self.blind_on_cpu)
        return (() if blind else ("parity",)) + (() if gpu else ("own",))

    def applied(self, text: str) -> str:
        """``text`` of the file with the fault in it.

        Raises NotApplicableError unless the old text occurs exactly once and the new text is valid
        Python that differs.
        """
        found = text.count(self.old)
        if found != 1:
            raise NotApplicableError(
                f"{self.id}: expected its old text once in {self.file}, got it {found} times"
            )
        spoiled = text.replace(self.old, self.new)
        try:
            same = ast.dump(ast.parse(spoiled)) == ast.dump(ast.parse(text))
        except SyntaxError as error:
            raise NotApplicableError(f"{self.id}: its new text is no Python: {error}") from None
        if same:
            raise NotApplicableError(f"{self.id}: its new text means the same")
        return spoiled


def load() -> list[Fault]:
    """All faults, by file and in its order.  Raises NotApplicableError for a table that says too little
    or too much."""
    return [fault for path in sorted(FOLDER.glob("*.toml")) for fault in _read(path)]


def _read(path: Path) -> list[Fault]:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = table.pop("fault")
    shared = {"operators": [path.stem], "tests": [], "reference_tests": []} | table
    faults = []
    for row in rows:
        try:
            held = {key: _frozen(value) for key, value in (shared | row).items()}
            fault = Fault(operator=path.stem, **held)
        except TypeError as error:
            raise NotApplicableError(f"{path.name}: {row.get('name')}: {error}") from None
        if fault.file.split("/")[0] not in SIDES:
            raise NotApplicableError(f"{fault.id}: expected a file of {' or '.join(SIDES)}")
        faults.append(fault)
    return faults


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

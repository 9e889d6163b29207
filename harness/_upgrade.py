"""What another Triton makes of the same kernels: collected files, compared and ranked.

A collected file is one JSON object: ``commit``, ``changed`` (uncommitted files that are compiled),
``torch``, ``triton``, ``python``, and ``cases``: a list of [operator, case, kernels, error], the kernels
as :class:`benchmarks.codegen.Compiled` spells them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.rawlog import Key
from harness._logs import OURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from harness._logs import Log

SCHEMA = 1
METRICS = ("registers", "spills", "shared", "instructions", "wgmma")
# Of an SM of compute capability 9.0 (CUDA's occupancy calculator): warps, blocks, registers in units
# of 256 that a warp is given whole, warps in fours, and bytes of shared memory, of which a block costs
# 1024 more.
WARPS, BLOCKS, REGISTER_UNITS, REGISTER_UNIT, FOURS = 64, 32, 256, 256, 4
SHARED, SHARED_MORE = 233472, 1024
# What launches alike and has this machine code is the same program.
PROGRAM = ("sass_code", "grid", "warps", "shared")


class UpgradeError(ValueError):
    """Files that cannot be compared; the message is a sentence."""


class Code(NamedTuple):
    """One case under one Triton; ``error`` says why it does not compile, and is empty if it does.

    registers, shared and blocks (that fit an SM, an estimate) are those of the kernel with the most,
    the most and the fewest; spills, instructions and wgmma are summed over the call's kernels.
    """

    registers: int
    spills: int
    shared: int
    instructions: int
    wgmma: int
    shapes: str
    blocks: int
    program: str
    error: str = ""


@dataclass(frozen=True)
class Collected:
    """What one environment compiled."""

    commit: str
    changed: tuple[str, ...]
    torch: str
    triton: str
    cases: dict[tuple[str, str], Code]


class Change(NamedTuple):
    """One case under two Tritons.  times: device times in microseconds, where a log has them."""

    operator: str
    case: str
    before: Code
    now: Code
    times: tuple[Time, ...] = ()

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts changes: what no longer compiles, spills, other tensor-core instructions, then the
        largest relative change of registers, instructions and shared memory."""
        old, new = self.before, self.now
        if old.error != new.error:
            return 0, 0.0
        if old.spills != new.spills:
            return 1, float(old.spills - new.spills)
        if (old.wgmma, old.shapes) != (new.wgmma, new.shapes):
            return 2, -self.largest
        return 3, -self.largest

    @property
    def largest(self) -> float:
        """The largest relative change of registers, instructions and shared memory."""
        pairs: list[tuple[int, int]] = [
            (getattr(self.before, name), getattr(self.now, name))
            for name in ("registers", "instructions", "shared")
        ]
        return max(abs(new - old) / max(old, 1) for old, new in pairs)

    @property
    def kind(self) -> str:
        """``same`` (the same machine code, launched alike), ``code`` (the same figures), ``figures``."""
        if self.before.program and self.before.program == self.now.program:
            return "same"
        apart = self.before._replace(program="") != self.now._replace(program="")
        return "figures" if apart else "code"


class Time(NamedTuple):
    """Device times of one machine, in microseconds, and the commits that they are of."""

    machine: str
    before: float
    now: float
    commits: tuple[str, str]


def blocks(kernel: dict[str, Any]) -> int:
    """Blocks of a kernel that fit an SM at once, by warps, registers and shared memory."""
    of_warp = -(-kernel["registers"] * 32 // REGISTER_UNIT)
    by_registers = REGISTER_UNITS // max(1, of_warp) // FOURS * FOURS // kernel["warps"]
    by_shared = SHARED // (kernel["shared"] + SHARED_MORE)
    return int(min(BLOCKS, WARPS // kernel["warps"], by_registers, by_shared))


def code(kernels: Sequence[dict[str, Any]], error: str) -> Code:
    """One case as it is compared."""
    if error or not kernels:
        return Code(0, 0, 0, 0, 0, "", 0, "", error or "launches nothing")
    shapes: dict[str, int] = {}
    for kernel in kernels:
        for shape, number in kernel["shapes"].items():
            shapes[shape] = shapes.get(shape, 0) + number
    return Code(
        registers=max(kernel["registers"] for kernel in kernels),
        spills=sum(kernel["spills"] for kernel in kernels),
        shared=max(kernel["shared"] for kernel in kernels),
        instructions=sum(kernel["instructions"] for kernel in kernels),
        wgmma=sum(kernel["wgmma"] for kernel in kernels),
        shapes=" + ".join(f"{number} {shape}" for shape, number in sorted(shapes.items())),
        blocks=min(blocks(kernel) for kernel in kernels),
        program=program(kernels),
    )


def program(kernels: Iterable[dict[str, Any]]) -> str:
    """What tells programs apart: machine code and launch parameters of every kernel of a call."""
    return json.dumps([[kernel.get(name) for name in PROGRAM] for kernel in kernels])


def read(path: Path) -> Collected:
    """A collected file.  Raises UpgradeError, naming it, when it is none."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["schema"] != SCHEMA:
            raise UpgradeError(f"{path}: expected schema {SCHEMA}, got {held['schema']}")
        cases = {
            (stem, label): code(kernels, error) for stem, label, kernels, error in held["cases"]
        }
        return Collected(
            held["commit"], tuple(held["changed"]), held["torch"], held["triton"], cases
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UpgradeError):
            raise
        raise UpgradeError(f"{path}: not a collected file: {error}") from error


def order(version: str) -> tuple[int, ...]:
    """Sorts versions: 3.10.0 is after 3.9.0."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def together(files: Sequence[Collected]) -> list[Collected]:
    """The files from the oldest Triton to the newest.

    Raises UpgradeError unless they are of one commit, two or more, and each of another Triton.
    """
    if len(files) < 2:
        raise UpgradeError(f"expected two collected files or more, got {len(files)}")
    commits = sorted({file.commit for file in files})
    if len(commits) > 1:
        raise UpgradeError(f"expected files of one commit, got {', '.join(commits)}")
    if len({file.changed for file in files}) > 1:
        raise UpgradeError("the working tree changed between the collections: collect again")
    versions = sorted((file.triton for file in files), key=order)
    if len(set(versions)) < len(versions):
        raise UpgradeError(f"expected each Triton once, got {', '.join(versions)}")
    return sorted(files, key=lambda file: order(file.triton))


def compare(before: Collected, now: Collected, logs: Sequence[Log]) -> list[Change]:
    """Every case that both compiled, the most grave change first; the order is fixed."""
    changes = [
        Change(*key, before.cases[key], now.cases[key], _times(key, before, now, logs))
        for key in before.cases
        if key in now.cases
    ]
    return sorted(changes, key=lambda change: (*change.rank, change.operator, change.case))


def _times(
    key: tuple[str, str], before: Collected, now: Collected, logs: Sequence[Log]
) -> tuple[Time, ...]:
    """Device times under both, machine by machine, where logs have them."""
    found = []
    for machine in sorted({log.machine for log in logs}):
        held = [log for log in logs if log.machine == machine]
        old, new = (_timed(key, file, held) for file in (before, now))
        if old and new:
            found.append(Time(machine, old[1], new[1], (old[0], new[0])))
    return tuple(found)


def _timed(key: tuple[str, str], file: Collected, logs: Sequence[Log]) -> tuple[str, float] | None:
    """(commit, median) from the newest log under this Triton of this commit, or of its program."""
    held = []
    for log in logs:
        measured = log.measured.get(Key(*key, OURS, "device_us"))
        if measured is None or log.fact("triton") != file.triton:
            continue
        compiled = log.measured.get(Key(*key, OURS, "registers"))
        kernels = compiled.detail.get("kernels", []) if compiled else []
        own = file.commit.startswith(log.commit) and not file.changed
        alike = bool(kernels) and program(kernels) == file.cases[key].program
        if own or alike:
            held.append((own, log.age, log.commit, measured.median))
    return max(held)[2:] if held else None

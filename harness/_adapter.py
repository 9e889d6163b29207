"""The child of ``harness.adapter``: loads a backend and puts each case of its operator to it.

What it finds goes to a pipe of its own, a line of JSON each, so that nothing an adapter prints is
taken for a verdict.  Whatever ends this process is the parent's to name.
"""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases, fingerprint, worker
from harness import _backends
from harness._memory import PATTERNS, Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from benchmarks.cases import Case

RIGHT, UNSUPPORTED = "right", "not supported"
# What else may become of a case, the last two of the process.
FAULTS = (
    "wrong", "wrong shape", "writes inputs", "stale memory", "caches by pointer", "overwrites results",
    "raises", "hangs", "crashes",
)  # fmt: skip


class Verdict(NamedTuple):
    """status: ``right``, or in a word or two what is not; message: the evidence.  lost: whether no
    further case can be put to this process."""

    status: str
    message: str = ""
    lost: bool = False


def chosen(stem: str, part: str | None) -> list[Case]:
    """Every case on a Hopper GPU, else those that a CPU can take; of them, those that ``part`` fits."""
    able = list(cases.load(stem).CASES) if fingerprint.has_hopper() else cases.on_cpu(stem)
    return [case for case in able if part is None or part in case.label]


class Bench:
    """Puts cases to one backend and says what it did with each."""

    def __init__(self, backend: _backends.Backend, memory: Memory) -> None:
        self.backend, self.stem = backend, backend.operator
        self.memory = memory
        self.device = "cuda" if fingerprint.has_hopper() else "cpu"

    def probe(self, case: Case) -> Verdict:
        """The verdict on one case.  An exception of the backend is one, too."""
        try:
            answer = self.backend.supports(case)
            if answer is not True:
                return Verdict(UNSUPPORTED, answer if isinstance(answer, str) else "")
            return self._probe(case)
        except NotImplementedError as reason:
            return Verdict(UNSUPPORTED, str(reason))
        except Exception as error:  # noqa: BLE001  (whatever somebody's kernel raises is its verdict)
            words = f"{type(error).__name__}: {error}"
            return Verdict("raises", words, worker.is_sticky(error))

    def _probe(self, case: Case) -> Verdict:
        operands = self._inputs(case, 0)
        first = self._call(operands, PATTERNS[0])
        kept = _copy(first)
        return (
            self._first(case, operands, kept)
            or self._second(case, operands, kept)
            or self._kept(first, kept)
        )

    def _first(self, case: Case, operands: dict[str, Any], got: Any) -> Verdict | None:
        """What is wrong with the first call's result; another pattern tells whether memory shows."""
        problem = self._written(case, 0, operands) or self._wrong(case, 0, got)
        if problem and problem.status == "wrong":
            again = self._call(self._inputs(case, 0), PATTERNS[1])
            if not _same(got, again):
                return Verdict("stale memory", f"results depend on it; {problem.message}")
        return problem

    def _second(self, case: Case, operands: dict[str, Any], kept: Any) -> Verdict | None:
        """What is wrong with a call on other numbers at the same addresses."""
        _overwrite(operands, self._inputs(case, 1))
        got = self._call(operands, PATTERNS[1])
        problem = self._written(case, 1, operands) or self._wrong(case, 1, got)
        if problem and problem.status == "wrong":
            fresh = self._call(self._inputs(case, 1), PATTERNS[1])
            if _same(got, kept) or not self._wrong(case, 1, fresh):
                return Verdict("caches by pointer", problem.message)
        return problem

    def _kept(self, first: Any, kept: Any) -> Verdict:
        """Whether the first call's result outlived the second call."""
        if not _same(first, kept):
            return Verdict("overwrites results", "a second call changed what the first returned")
        return Verdict(RIGHT)

    def _inputs(self, case: Case, salt: int) -> dict[str, Any]:
        """The case's operands; with another ``salt``, other numbers of the same kind."""
        return salted(case, salt).inputs(self.device)

    def _call(self, operands: dict[str, Any], pattern: int) -> Any:
        import torch

        self.memory.pattern = pattern
        try:
            out = self.backend.prepare(operands)()
            if self.device == "cuda":
                torch.cuda.synchronize()
        finally:
            self.memory.pattern = None
        return out

    def _written(self, case: Case, salt: int, operands: dict[str, Any]) -> Verdict | None:
        """The names of operands that no longer hold what they were given, if any."""
        wanted = self._inputs(case, salt)
        names = [name for name, value in wanted.items() if not _same(operands[name], value)]
        return Verdict("writes inputs", ", ".join(names)) if names else None

    def _wrong(self, case: Case, salt: int, got: Any) -> Verdict | None:
        """What is wrong with a result, by the backend's contract; None when nothing is."""
        from benchmarks import compare, parity
        from reference_impl import wgmma

        module = cases.load(self.stem)
        with wgmma.partials("exact") if self.device == "cpu" else nullcontext():
            operands = self._inputs(case, salt)
            expected = parity.reference(self.stem, case, operands)
            if self.backend.laid_freely:
                got = parity.laid_as(got, expected)
            sampled = parity.sampled(self.stem, case)
            taken = module.sample(operands).take(got) if sampled else got
            problem = compare.structure(taken, expected, module.OUTPUTS)
            if problem:
                return Verdict("wrong shape", problem)
            if self.backend.judged_exactly:
                found: Any = parity.check(self.stem, case, operands, got, expected)
            else:
                found = parity.close(self.stem, operands, got, expected)
        return None if found.ok else Verdict("wrong", found.message)


def salted(case: Case, salt: int) -> Case:
    """The case with other random numbers: the same fields and label, another seed."""
    if salt == 0:
        return case
    kind = type(case)
    seed = property(lambda self: kind.seed.fget(self) ^ salt)  # type: ignore[attr-defined]
    other: Case = object.__new__(type(kind.__name__, (kind,), {"seed": seed}))
    other.__dict__.update(case.__dict__)
    return other


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    import torch

    for item in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(item, torch.Tensor):
            yield item


def _copy(value: Any) -> Any:
    """A copy with the same strides, which ``clone`` gives only where there are no gaps."""
    import torch

    if isinstance(value, tuple):
        return tuple(map(_copy, value))
    if not isinstance(value, torch.Tensor):
        return value
    out = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    return out.copy_(value)


def _same(one: Any, other: Any) -> bool:
    """Whether all tensors of two values have the same shape and bits."""
    import torch

    pairs = list(_tensors(one)), list(_tensors(other))
    if not pairs[0] and not pairs[1]:
        return bool(one == other)
    return len(pairs[0]) == len(pairs[1]) and all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(
            a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8)
        )
        for a, b in zip(*pairs, strict=True)
    )


def _overwrite(operands: dict[str, Any], others: dict[str, Any]) -> None:
    """Put the numbers of ``others`` where those of ``operands`` are, as far as the shapes allow."""
    for name, value in others.items():
        targets, sources = list(_tensors(operands[name])), list(_tensors(value))
        alike = [t.shape == s.shape for t, s in zip(targets, sources, strict=False)]
        if targets and len(targets) == len(sources) and all(alike):
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)
        else:
            operands[name] = value


def speaker(pipe: int) -> Callable[..., None]:
    """What says a line of JSON to a file descriptor."""
    return lambda **fields: _write(pipe, json.dumps(fields).encode() + b"\n")


def _write(pipe: int, line: bytes) -> None:
    while line:
        line = line[os.write(pipe, line) :]


def interpret() -> None:
    """Without a Hopper GPU kernels are interpreted, with exact sums."""
    if not fingerprint.has_hopper():
        from harness import interpreter

        interpreter.install()


def work(job: dict[str, Any], pipe: int) -> None:
    """Probe every case but those of ``job["skip"]``, and say so line by line to the file descriptor."""
    say = speaker(pipe)
    interpret()
    memory = Memory()
    memory.install()
    try:
        backend = _backends.find(job["name"], job["operator"])
    except _backends.AdapterError as error:
        say(problem=str(error))
        return
    contract = "" if backend.absent else backend.contract
    say(name=backend.name, operator=backend.operator, contract=contract, absent=backend.absent)
    bench = Bench(backend, memory)
    for case in [] if backend.absent else chosen(bench.stem, job["part"]):
        if case.label in job["skip"]:
            continue
        say(begin=case.label)
        verdict = bench.probe(case)
        say(case=case.label, status=verdict.status, message=verdict.message[:2000])
        if verdict.lost:
            say(again=True)
            return
    say(end=True)

"""The child of ``harness.adapter``: loads somebody's kernel and puts each case of its operator to it.

What it finds goes to a pipe of its own, a line of JSON each, so that nothing an adapter prints is
taken for a verdict.  Whatever ends this process is the parent's to name.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases, fingerprint
from harness._memory import PATTERNS, Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from benchmarks.cases import Case

GROUP = "fp8_bench.kernels"
RIGHT, UNSUPPORTED = "right", "not supported"


class AdapterError(ValueError):
    """What was named is no adapter; the message is a sentence."""


class Verdict(NamedTuple):
    """status: ``right``, or in a word or two what is not; message: the evidence."""

    status: str
    message: str = ""


def load(name: str) -> Any:
    """An adapter by the path of its file, or by its name among the entry points of GROUP."""
    if Path(name).is_file():
        spec = importlib.util.spec_from_file_location("fp8_bench_adapter", name)
        if spec is None or spec.loader is None:
            raise AdapterError(f"{name}: expected a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    found = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in found:
        installed = ", ".join(sorted(found)) or "none"
        raise AdapterError(
            f"{name}: expected a file, or an entry point of {GROUP} (there are: {installed})"
        )
    return found[name].load()


def described(adapter: Any) -> tuple[str, str, Callable[..., Any]]:
    """(NAME, OPERATOR, function) of an adapter.  Raises AdapterError, naming what it lacks."""
    for attribute in ("NAME", "OPERATOR"):
        value = getattr(adapter, attribute, None)
        if not isinstance(value, str) or not value:
            raise AdapterError(f"{attribute}: expected a string, got {value!r}")
    stem = adapter.OPERATOR
    if stem not in cases.names():
        raise AdapterError(f"OPERATOR: expected one of {', '.join(cases.names())}, got {stem!r}")
    function = getattr(adapter, stem, None)
    if not callable(function):
        raise AdapterError(f"{stem}: expected a function of the operator's name, got {function!r}")
    return adapter.NAME, stem, function


def chosen(stem: str, part: str | None) -> list[Case]:
    """Every case on a Hopper GPU, else those that a CPU can take; of them, those that ``part`` fits."""
    able = list(cases.load(stem).CASES) if fingerprint.has_hopper() else cases.on_cpu(stem)
    return [case for case in able if part is None or part in case.label]


class Bench:
    """Puts cases to one function and says what it did with each."""

    def __init__(self, adapter: Any, memory: Memory) -> None:
        self.name, self.stem, self.function = described(adapter)
        self.supports = getattr(adapter, "supports", _anything)
        self.memory = memory
        self.device = "cuda" if fingerprint.has_hopper() else "cpu"

    def probe(self, case: Case) -> Verdict:
        """The verdict on one case.  An exception of the adapter is one, too."""
        try:
            answer = self.supports(case)
            if answer is not True:
                return Verdict(UNSUPPORTED, answer if isinstance(answer, str) else "")
            return self._probe(case)
        except NotImplementedError as reason:
            return Verdict(UNSUPPORTED, str(reason))
        except Exception as error:  # noqa: BLE001  (whatever somebody's kernel raises is its verdict)
            return Verdict("raises", f"{type(error).__name__}: {error}")

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
            out = cases.call(self.function, operands)
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
        """What is wrong with a result, by the operator's own tolerance; None when nothing is."""
        from benchmarks import compare, parity
        from reference_impl import wgmma

        with wgmma.partials("exact") if self.device == "cpu" else nullcontext():
            operands = self._inputs(case, salt)
            expected = parity.reference(self.stem, case, operands)
            if not parity.sampled(self.stem, case):
                problem = compare.structure(got, expected, cases.load(self.stem).OUTPUTS)
                if problem:
                    return Verdict("wrong shape", problem)
            found = parity.check(self.stem, case, operands, got, expected)
        return None if found.ok else Verdict("wrong", found.message)


def _anything(case: Case) -> bool:
    """``supports`` of an adapter that has none."""
    del case
    return True


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


def work(name: str, part: str | None, skip: Sequence[str], pipe: int) -> None:
    """Probe every case but those of ``skip``, and say so line by line to the file descriptor."""

    def say(**fields: Any) -> None:
        os.write(pipe, json.dumps(fields).encode() + b"\n")

    if not fingerprint.has_hopper():
        from harness import interpreter

        interpreter.install()
    memory = Memory()
    memory.install()
    try:
        bench = Bench(load(name), memory)
    except AdapterError as error:
        say(problem=str(error))
        return
    table = [case for case in chosen(bench.stem, part) if case.label not in skip]
    say(name=bench.name, operator=bench.stem, cases=[case.label for case in table])
    for case in table:
        say(begin=case.label)
        verdict = bench.probe(case)
        say(case=case.label, status=verdict.status, message=verdict.message[:2000])
    say(end=True)

"""What runs under harness.sanitize's tools: small problems, which launch together what all problems do.

A tool looks at the code that runs.  So it must be given each kernel, with each of its constants that a
problem small enough reaches, and each that starts while the one before ends (kernels/_chain.py).
tests/test_sanitize.py counts the kernels.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks import cases
from harness import codegen, exact

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from benchmarks.cases import Case

STEPS = 60  # interpreter steps of a case that is taken whatever it launches
# Bytes that a case moves which is taken for what it launches.  On a GPU these count, not the steps of the
# interpreter, of which a layer of one token has more than STEPS.
BYTES = 4 << 20
UNTOUCHED = 4 * BYTES  # and those that it leaves alone; they are drawn and copied, too
CONFIGURED = 3  # cases on which every configuration runs, the largest of the small ones
MULTIPROCESSORS = 2


def reduced(stem: str) -> list[Case]:
    """Small cases of ordinary numbers: what is in the data decides no address and no barrier.

    To those of few steps come the ones, by the bytes that they move, that launch something new.
    """
    ordinary = [c for c in cases.load(stem).CASES if getattr(c, "data", "normal") == "normal"]
    found = [case for case in ordinary if case.interpreter_steps() <= STEPS]
    seen = {launch for case in found for launch in codegen.configuration(stem, case)}
    others = (case for case in ordinary if case not in found and _light(case))
    for case in sorted(others, key=lambda case: case.cost().bytes):
        launches = set(codegen.configuration(stem, case))
        if not launches <= seen:
            found.append(case)
            seen |= launches
    return found


def _light(case: Case) -> bool:
    return case.cost().bytes <= BYTES and case.untouched().bytes <= UNTOUCHED


def configured(stem: str, small: Sequence[Case]) -> list[tuple[Any, Case]]:
    """Each configuration with the largest of these cases that it can take."""
    taking: dict[Any, list[Case]] = {}
    working = [case for case in small if case.cost().flops]
    for case in sorted(working, key=lambda case: case.interpreter_steps()):
        for config in exact.configurations(stem, case.inputs("meta")):
            taking.setdefault(config, []).append(case)
    return [(config, case) for config, found in taking.items() for case in found[-CONFIGURED:]]


def on_device(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same operands in GPU memory, strides and padding included, by plain copies of memory."""
    import torch

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        memory = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).cuda()
        typed: torch.Tensor = memory.view(tensor.dtype)
        return typed.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    return {
        name: moved(value) if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }


def child(stem: str) -> None:
    """Launch everything of one operator, once; compares nothing, so that only kernels are seen."""
    import torch

    from kernels._device import sm_limit

    small = reduced(stem)
    with counted() as kernels:
        for case in small:
            cases.call(cases.public("kernels", stem), on_device(case.inputs("cpu")))
            torch.cuda.synchronize()
        for config, case in configured(stem, small):
            arguments = on_device(case.inputs("cpu"))
            out = exact.unwritten(stem, arguments)
            with sm_limit(MULTIPROCESSORS):
                exact.run(stem, arguments, out, config)
            torch.cuda.synchronize()
    print(f"{len(kernels)} launches of kernels in {len(small)} cases", flush=True)


@contextmanager
def counted() -> Iterator[list[Any]]:
    """The kernels that are launched inside, one for each launch; not what is recorded."""
    from kernels._device import Plan

    kernels: list[Any] = []
    launch = Plan._launch  # noqa: SLF001 (every launch comes by it)

    def counting(self: Plan, device: torch.device, tensors: tuple[Any, ...]) -> None:
        launch(self, device, tensors)
        kernels.append(self.kernel)

    Plan._launch = counting  # type: ignore[method-assign]  # noqa: SLF001
    try:
        yield kernels
    finally:
        Plan._launch = launch  # type: ignore[method-assign]  # noqa: SLF001

"""A plan compiles once for each alignment of its pointers, and then calls what was compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kernels._device import Plan

CPU = torch.device("cpu")


class Compiled:
    """Like Triton's compiled kernel: ``compiled[grid](*arguments)``."""

    packed_metadata = ()

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.grids: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        self.grids.append(grid)
        return lambda *arguments: self.calls.append(arguments)


class Kernel:
    """Like a function under triton.jit: ``kernel[grid](...)`` compiles, launches and returns."""

    def __init__(self) -> None:
        self.compiled: list[Compiled] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Compiled]:
        def dispatch(*arguments: Any, **options: Any) -> Compiled:
            assert options == {"BLOCK": 64, "num_warps": 2}
            self.compiled.append(Compiled())
            return self.compiled[-1]

        return dispatch


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def plan(kernel: Kernel) -> Plan:
    return Plan(kernel, (5, 2), (7, 0.5), {"BLOCK": 64}, num_warps=2)


def test_later_launches_pass_addresses_to_the_compiled_kernel(kernel: Kernel, plan: Plan) -> None:
    x, y, descriptor = torch.zeros(32), torch.zeros(32), object()
    for out in (x, y):
        plan(CPU, x, None, out, descriptor)
    (compiled,) = kernel.compiled
    assert compiled.grids == [(5, 2, 1)]
    assert compiled.calls == [(x.data_ptr(), None, y.data_ptr(), descriptor, 7, 0.5, 64)]


def test_an_alignment_is_compiled_for_once(kernel: Kernel, plan: Plan) -> None:
    """Vector loads of 16 bytes are right for one and wrong for the other."""
    memory = torch.zeros(64)
    aligned, shifted, further = memory[0:], memory[1:], memory[2:]
    for tensor in (aligned, shifted, further, memory[4:], aligned):
        plan(CPU, tensor)
    assert len(kernel.compiled) == 2
    assert [len(compiled.calls) for compiled in kernel.compiled] == [2, 1]
    assert kernel.compiled[1].calls[0][0] == further.data_ptr()

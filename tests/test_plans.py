"""A plan compiles once for each alignment of its pointers, and then calls what was compiled; it is
kept for calls of one layout, and no other call gets it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import cases
from kernels import _device
from kernels._device import (
    HOPPER_SMS,
    Launch,
    Plan,
    Plans,
    chained,
    layout,
    num_sms,
    recording,
    sm_limit,
)

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
    x, y, z, descriptor = torch.zeros(32), torch.zeros(32), torch.zeros(32), object()
    for out in (x, y, z):
        plan(CPU, x, None, out, descriptor)
    (compiled,) = kernel.compiled
    assert compiled.grids == [(5, 2, 1)]
    assert compiled.calls == [
        (x.data_ptr(), None, out.data_ptr(), descriptor, 7, 0.5, 64) for out in (y, z)
    ]


def test_an_alignment_is_compiled_for_once(kernel: Kernel, plan: Plan) -> None:
    """Vector loads of 16 bytes are right for one and wrong for the other."""
    memory = torch.zeros(64)
    aligned, shifted, further = memory[0:], memory[1:], memory[2:]
    for tensor in (aligned, shifted, further, memory[4:], aligned):
        plan(CPU, tensor)
    assert len(kernel.compiled) == 2
    assert [len(compiled.calls) for compiled in kernel.compiled] == [2, 1]
    assert kernel.compiled[1].calls[0][0] == further.data_ptr()


def fixed(launch: Launch) -> tuple[Any, ...]:
    """What a launch holds beside its tensors."""
    scalars = [part for part in launch.args if isinstance(part, (int, float))]
    return launch.kernel, launch.grid, scalars, launch.options


@pytest.mark.parametrize("stem", cases.names())
def test_a_kept_plan_is_the_one_that_would_be_made(stem: str) -> None:
    """All cases one after the other, so that a case meets the plans of those before it.

    An operator that is made of others has plans where these do.
    """
    function = cases.public("kernels", stem)
    modules = [part for name, part in sys.modules.items() if name.startswith("kernels.")]
    tables = [part._plans for part in modules if hasattr(part, "_plans")]
    assert tables
    for case in cases.load(stem).CASES:
        arguments = case.inputs("meta")
        with recording() as launches:
            function(**arguments)
            kept, before = [table.copy() for table in tables], len(launches)
            for table in tables:
                table.clear()
            function(**arguments)
            for table, plans in zip(tables, kept, strict=True):
                table.update(plans)
        assert [*map(fixed, launches[:before])] == [*map(fixed, launches[before:])], case.label


def test_what_a_layout_tells_apart() -> None:
    plain = torch.empty(4, 8, device="meta", dtype=torch.bfloat16)
    others = {
        "shape": (plain[:2],),
        "strides": (torch.empty(4, 16, device="meta", dtype=torch.bfloat16)[:, :8],),
        "dtype": (plain.view(torch.float16),),
        "number of tensors": (plain, plain),
    }
    key = layout((plain,), 1)
    assert key is not None
    assert key == layout((torch.empty_like(plain),), 1)
    for what, tensors in others.items():
        assert layout(tensors, 1) != key, what
    for option in (2, 1.0, True, None):
        assert layout((plain,), option) != key, option
    with sm_limit(20):
        assert layout((plain,), 1) != key
    with chained():
        assert layout((plain,), 1) != key
    with recording():
        assert layout((plain,), 1) != key


def test_a_cpu_and_what_is_no_tensor_have_no_layout() -> None:
    for held in (torch.zeros(2), None, 1.0):
        assert layout((held,), 1) is None
    assert layout((torch.empty(2, device="meta"),), []) is None
    assert Plans().keep(None, "plan") == "plan"


def test_plans_are_forgotten_when_there_are_too_many() -> None:
    plans = Plans()
    for key in range(Plans.LIMIT + 1):
        assert plans.keep(key, -key) == -key
    assert plans == {Plans.LIMIT: -Plans.LIMIT}


def test_a_limit_only_lowers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "_multiprocessors", lambda index: 114)
    for device, present in ((torch.device("cuda", 0), 114), (torch.device("meta"), HOPPER_SMS)):
        for limit, want in ((1, 1), (20, 20), (1000, present)):
            with sm_limit(limit):
                assert num_sms(device) == want
        assert num_sms(device) == present

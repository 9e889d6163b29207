"""What a call costs the host: the checks and the plan on any machine, the whole launch on a GPU.

``pytest --benchmark-only tests/bench`` measures; a plain run calls each once or so and checks that
it did what it is timed for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases
from benchmarks.cases._deepseek_v3 import LINEAR, TOKENS
from kernels._device import HOPPER_SMS, recording
from kernels.fp8_gemm import CONFIGS, choose
from tests.test_inputs import LAUNCHING, small

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from kernels._device import Launch

# Seconds of one benchmark: these calls take microseconds, so hundreds of rounds fit.
pytestmark = pytest.mark.benchmark(max_time=0.2, min_rounds=20)


@pytest.fixture
def poisoned_empty() -> None:
    """Instead of conftest.py's: filling what is allocated would be timed with the call."""


def test_choose(benchmark: BenchmarkFixture) -> None:
    """The configuration of every production shape."""
    shapes = [(m, n, k) for n, k in LINEAR.values() for m in TOKENS]
    chosen = benchmark(lambda: [choose(m, n, k, HOPPER_SMS) for m, n, k in shapes])
    assert len(chosen) == len(shapes)
    assert set(chosen) <= set(CONFIGS)


@pytest.mark.parametrize("stem", LAUNCHING)
def test_checks_and_plan(stem: str, benchmark: BenchmarkFixture) -> None:
    """All of a call but Triton's launch: arguments are checked, results allocated, the launch
    recorded."""
    function, arguments = cases.public("kernels", stem), small(stem).inputs("meta")

    def plan() -> list[Launch]:
        with recording() as launches:
            function(**arguments)
        return launches

    assert benchmark(plan)


@pytest.mark.gpu
@pytest.mark.parametrize("stem", LAUNCHING)
def test_launch(stem: str, benchmark: BenchmarkFixture) -> None:
    """A warm call, from call to return; the queue is emptied between rounds, outside the time."""
    function, arguments = cases.public("kernels", stem), small(stem).inputs("cuda")
    function(**arguments)  # compiles

    def empty_queue() -> tuple[tuple[Any, ...], dict[str, Any]]:
        torch.cuda.synchronize()
        return (), arguments

    pedantic: Any = benchmark.pedantic
    got = pedantic(function, setup=empty_queue, rounds=200, warmup_rounds=10)
    torch.cuda.synchronize()
    assert (got[0] if isinstance(got, tuple) else got).device.type == "cuda"

"""Every operator on every case: the kernel and the reference agree.

What runs where is computed from the case (benchmarks.cases.on_cpu): Triton's interpreter takes the
small ones, a Hopper GPU all of them.  Production shapes are checked on every machine for their cost
and the shapes of their results.
"""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.compare import Bound, Exact, assert_equal
from benchmarks.parity import check
from kernels._device import recording
from tests.conftest import HOPPER

OPERATORS = cases.names()
ALL = [(stem, case) for stem in OPERATORS for case in cases.load(stem).CASES]


def _parameters() -> list[object]:
    small = {stem: set(cases.on_cpu(stem)) for stem in OPERATORS}
    chosen: list[object] = []
    for stem, case in ALL:
        marks = []
        if not HOPPER and case not in small[stem]:
            steps = case.interpreter_steps()
            marks.append(pytest.mark.skip(reason=f"needs Hopper: {steps} interpreter steps"))
        chosen.append(pytest.param(stem, case, id=f"{stem}[{case.label}]", marks=marks))
    return chosen


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("stem", "case"), _parameters())
def test_parity(stem: str, case: Case, device: str) -> None:
    arguments = case.inputs(device)
    before = {
        name: value.clone() for name, value in arguments.items() if isinstance(value, torch.Tensor)
    }
    got = cases.public("kernels", stem)(**arguments)
    parity = check(stem, case, arguments, got)
    assert parity.ok, parity.message
    for name, value in before.items():
        label = f"{name}, which the operator must not write"
        assert_equal(arguments[name].contiguous(), value.contiguous(), Exact(), names=[label])


@pytest.mark.parametrize(
    ("stem", "case"), [pytest.param(s, c, id=f"{s}[{c.label}]") for s, c in ALL]
)
def test_cost_and_shapes(stem: str, case: Case) -> None:
    """cost() equals the bytes of the real tensors, and both sides promise the same results."""
    arguments = case.inputs("meta")
    with recording():
        got = cases.public("kernels", stem)(**arguments)
    outputs = got if isinstance(got, tuple) else (got,)
    assert len(outputs) == len(cases.load(stem).OUTPUTS)
    tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
    cost, untouched = case.cost(), case.untouched()
    assert cost.read + untouched.read == sum(map(_bytes, tensors))
    made = [output for output in outputs if output is not None]
    assert cost.written + untouched.written == sum(map(_bytes, made))
    if cost.flops and hasattr(case, "m"):
        m, n, k = (getattr(case, axis) for axis in "mnk")
        assert cost.flops == 2 * m * n * k
    assert case.interpreter_steps() >= 0


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("stem", OPERATORS)
def test_case_tables(stem: str) -> None:
    """Labels are unique and spell every field; something is timed; production comes first."""
    module = cases.load(stem)
    labels = [case.label for case in module.CASES]
    assert len(set(labels)) == len(labels)
    assert any(case.bench for case in module.CASES)
    for case in module.CASES:
        spelled = dict(part.split("=", 1) for part in case.label.split(","))
        fields = [name for name in vars(case) if name not in ("bench", "layer")]
        assert sorted(spelled.keys() - {"layer"}) == sorted(fields)
        assert cases.find(stem, case.label) is case
    tolerance = module.TOLERANCE
    assert isinstance(tolerance, Exact | Bound)
    if isinstance(tolerance, Bound):
        assert tolerance.why
        assert math.isfinite(tolerance.max)


@pytest.mark.parametrize("stem", OPERATORS)
def test_inputs_are_reproducible(stem: str) -> None:
    case = next(case for case in cases.on_cpu(stem) if case.cost().bytes > 1000)
    first, second = case.inputs("cpu"), case.inputs("cpu")
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert_equal(value, second[name], Exact(), names=[name])


@pytest.mark.parametrize("stem", OPERATORS)
def test_cases_fit_the_signature(stem: str) -> None:
    known = set(inspect.signature(cases.public("kernels", stem)).parameters)
    for case in cases.load(stem).CASES:
        assert set(case.inputs("meta")) <= known

"""What the public functions of kernels/ refuse, and in which words.

A refusal is a TypeError or ValueError that names the argument, what was expected and what came.
Tests over ``cases.names()`` hold for every operator there will be.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import cases
from kernels import _check, _device

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Case

OPERATORS = cases.names()
# A layer launches what its operators do: what is said of a launch is said of theirs.
LAUNCHING = [stem for stem in OPERATORS if not stem.startswith("moe_layer")]
E4M3 = torch.float8_e4m3fn


def small(stem: str) -> Case:
    """The smallest case in bytes that still has rows and columns to mix up."""

    def mixed(case: Case) -> bool:
        shapes = [part.shape for part in tensors(case.inputs("meta")).values()]
        return all(map(math.prod, shapes)) and max(shape[0] for shape in shapes) > 1

    able = [case for case in cases.on_cpu(stem) if case.cost().bytes > 1000 and mixed(case)]
    return min(able, key=lambda case: case.cost().bytes)


def tensors(arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: part for name, part in arguments.items() if isinstance(part, torch.Tensor)}


def optional(stem: str, name: str) -> bool:
    """Whether the argument may be left out: None is then no mistake."""
    return inspect.signature(cases.public("kernels", stem)).parameters[name].default is None


TENSORS = [
    pytest.param(stem, name, id=f"{stem}[{name}]")
    for stem in OPERATORS
    for name in tensors(small(stem).inputs("meta"))
]
SHAPE = r"shape \[\w+(, \w+)*\]"
# What is done to a tensor; the error; what the message says was expected, and what came.
SPOILED: dict[str, tuple[Callable[[torch.Tensor], Any], type[Exception], str, str]] = {
    "no tensor": (lambda good: [1.0], TypeError, r"a torch\.Tensor", "list"),
    "nothing": (lambda good: None, TypeError, r"a torch\.Tensor", "NoneType"),
    "dtype": (lambda good: good.double(), TypeError, r"dtype \w+( or \w+)*", "float64"),
    "integers": (lambda good: good.to(torch.int8), TypeError, r"dtype \w+( or \w+)*", "int8"),
    "rank": (lambda good: good[None], ValueError, SHAPE, r"\[1(, \d+)+\]"),
    "fewer": (lambda good: good[0], ValueError, SHAPE, r"\[(\d+(, \d+)*)?\]"),
    "device": (
        lambda good: good.to("meta"), ValueError,
        r"(a tensor on a CUDA device|device (cpu|cuda:0) as \w+)", "meta",
    ),
}  # fmt: skip


def refuse(stem: str, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """The operator raises ``error`` itself, no subclass, with this whole message."""
    with pytest.raises(error) as raised:
        cases.public("kernels", stem)(**arguments)
    assert raised.type is error
    assert re.fullmatch(message, str(raised.value)), str(raised.value)


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize(("stem", "name"), TENSORS)
def test_no_operator_takes_a_spoiled_tensor(stem: str, name: str, how: str, device: str) -> None:
    if how == "nothing" and optional(stem, name):
        return
    arguments = small(stem).inputs(device)
    spoil, error, expected, got = SPOILED[how]
    arguments[name] = spoil(arguments[name].contiguous())
    refuse(stem, arguments, error, f"{name}: expected {expected}, got {got}")


def fp8(*shape: int) -> torch.Tensor:
    return torch.ones(shape).to(E4M3)


# Arguments that fit together; rows below replace one of them.
GOOD: dict[str, dict[str, Any]] = {
    "act_quant": {"x": torch.ones(5, 256)},
    "weight_quant": {"w": torch.ones(130, 260)},
    "weight_dequant": {"q": fp8(130, 260), "scale": torch.ones(2, 3)},
    "wgmma": {"x": fp8(5, 64), "w": fp8(7, 64)},
    "fp8_gemm": {
        "x": fp8(5, 256),
        "x_scale": torch.ones(5, 2),
        "w": fp8(130, 256),
        "w_scale": torch.ones(2, 2),
    },
}
POSITIVE = "a positive finite number"
# The last three of the numbers do not exist in fp32, in which the floor is applied.
FLOORS: list[tuple[Any, type[Exception], str, str]] = [
    *((x, ValueError, POSITIVE, f"{x}") for x in (0.0, -1.0, float("inf"), float("nan"))),
    *((x, ValueError, POSITIVE, re.escape(f"{x}")) for x in (1e39, 1e-50, 10**39)),
    *((x, TypeError, "a number or None", type(x).__name__) for x in ("1", True, torch.ones(1))),
]
# A floor in the place of pow2_scale would else ask for powers of two in silence.
FLAGS = (1e-4, None, 1, "no", torch.ones(2))
OUTPUT = r"bfloat16 or (float16 or )?float32"
STRIDE = "stride 1 along its last dimension"
DENSE = "a contiguous tensor"


def transposed(good: torch.Tensor) -> torch.Tensor:
    """The same numbers, with columns contiguous instead of rows."""
    return good.view(torch.uint8).T.contiguous().T.view(good.dtype)


# Operator, argument, its bad value, the error, what was expected and what came.
REFUSED: list[tuple[str, str, Any, type[Exception], str, str]] = [
    ("act_quant", "x", torch.ones(5, 130), ValueError, "K to be a multiple of 128", "130"),
    ("act_quant", "x", torch.ones(128, 256).T, ValueError, STRIDE, r"\(1, 256\)"),
    ("weight_quant", "w", torch.ones(4, 8).T, ValueError, STRIDE, r"\(1, 8\)"),
    *((stem, "amax_floor", *floor) for stem in ("act_quant", "weight_quant") for floor in FLOORS),
    *(
        (stem, "pow2_scale", value, TypeError, "True or False", type(value).__name__)
        for stem in ("act_quant", "weight_quant")
        for value in FLAGS
    ),
    ("weight_dequant", "scale", torch.ones(3, 2), ValueError, r"shape \[2, 3\]", r"\[3, 2\]"),
    ("weight_dequant", "scale", torch.ones(3, 2).T, ValueError, DENSE, r"strides \(1, 2\)"),
    ("weight_dequant", "q", fp8(260, 130).T, ValueError, DENSE, r"strides \(1, 130\)"),
    *(
        (stem, "out_dtype", value, TypeError, OUTPUT, f"{value}".removeprefix("torch."))
        for stem in ("weight_dequant", "fp8_gemm")
        for value in (torch.float64, E4M3, "bf16", None)
    ),
    ("fp8_gemm", "out_dtype", torch.float16, TypeError, "bfloat16 or float32", "float16"),
    *(
        (stem, name, transposed(GOOD[stem][name]), ValueError, DENSE, r"strides \(1, \d+\)")
        for stem in ("wgmma", "fp8_gemm")
        for name in ("x", "w")
    ),
    ("wgmma", "w", fp8(7, 32), ValueError, r"shape \[any, 64\]", r"\[7, 32\]"),
    ("fp8_gemm", "x", fp8(5, 200), ValueError, "K to be a multiple of 128", "200"),
    ("fp8_gemm", "x", fp8(5, 256).to(torch.float8_e5m2), TypeError, "dtype .*e4m3fn", ".*e5m2"),
    ("fp8_gemm", "w", fp8(130, 128), ValueError, r"shape \[any, 256\]", r"\[130, 128\]"),
    ("fp8_gemm", "x_scale", torch.ones(2, 5), ValueError, r"shape \[5, 2\]", r"\[2, 5\]"),
    ("fp8_gemm", "w_scale", torch.ones(1, 2), ValueError, r"shape \[2, 2\]", r"\[1, 2\]"),
    ("fp8_gemm", "w_scale", torch.ones(130, 2), ValueError, r"shape \[2, 2\]", r"\[130, 2\]"),
]


@pytest.mark.parametrize(("stem", "name", "value", "error", "expected", "got"), REFUSED)
def test_refused(
    stem: str, name: str, value: Any, error: type[Exception], expected: str, got: str, device: str
) -> None:
    arguments = {key: part.to(device) for key, part in GOOD[stem].items()}
    # Onto the device with its strides, unless it stands where no tensor belongs.
    arguments[name] = value.to(device) if name in arguments else value
    refuse(stem, arguments, error, f"{name}: expected {expected}, got {got}")


def test_wgmma_refuses_other_lengths(device: str) -> None:
    arguments = {"x": fp8(5, 96).to(device), "w": fp8(7, 96).to(device)}
    message = "x: K: expected 32 or 64 or 128 or 256, got 96"
    refuse("wgmma", arguments, ValueError, message)


@pytest.mark.parametrize("stem", GOOD)
def test_the_good_arguments_are_good(stem: str, device: str) -> None:
    cases.public("kernels", stem)(**{name: part.to(device) for name, part in GOOD[stem].items()})


@pytest.mark.parametrize("stem", ["act_quant", "weight_quant"])
@pytest.mark.parametrize("floor", [1, 2, 448.0])
def test_a_floor_may_be_a_whole_number(stem: str, floor: float, device: str) -> None:
    """Triton would make a constant of the integer 1, which has no type to convert."""
    x = torch.zeros(4, 128, device=device)
    _, scale = cases.public("kernels", stem)(x, amax_floor=floor)
    assert scale[0, 0].item() == torch.tensor(floor / 448).item()
    with _device.recording() as launches:
        cases.public("kernels", stem)(x, amax_floor=floor)
    assert 1 not in [value for value in launches[0].args if type(value) is int]


class Address(SimpleNamespace):
    """As much of a tensor as the check of alignment asks for."""

    def data_ptr(self) -> int:
        return int(self.start)

    def numel(self) -> int:
        return int(self.count)


def test_alignment_is_asked_where_tma_reads() -> None:
    at: Any = Address
    for start, count, kind in ((64, 8, "cuda"), (8, 0, "cuda"), (8, 8, "cpu")):
        _check.aligned("x", at(start=start, count=count, device=torch.device(kind)))
    with pytest.raises(ValueError, match=r"^x: expected data aligned to 16 bytes, got 0x48$"):
        _check.aligned("x", at(start=72, count=8, device=torch.device("cuda")))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["x", "w"])
def test_gemm_refuses_misaligned_operands(name: str, device: str) -> None:
    arguments = {key: part.to(device) for key, part in GOOD["fp8_gemm"].items()}
    shape = arguments[name].shape
    memory = torch.zeros(shape.numel() + 1, dtype=torch.uint8, device=device)
    arguments[name] = memory[1:].view(E4M3).view(shape)
    message = f"{name}: expected data aligned to 16 bytes, got 0x.*1"
    refuse("fp8_gemm", arguments, ValueError, message)


@pytest.mark.parametrize("stem", OPERATORS)
def test_cpu_without_the_interpreter(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    message = r"\w+: expected a tensor on a CUDA device, got cpu; .*TRITON_INTERPRET=1.*"
    refuse(stem, small(stem).inputs("cpu"), ValueError, message)


def test_cpu_without_the_interpreter_in_a_fresh_process() -> None:
    program = "import torch; from kernels.act_quant import act_quant; act_quant(torch.ones(1, 128))"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    sentence = "ValueError: x: expected a tensor on a CUDA device, got cpu"
    assert done.stderr.strip().splitlines()[-1].startswith(sentence), done.stderr


@pytest.mark.parametrize("stem", OPERATORS)
def test_gpu_other_than_hopper(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "_capability", lambda index: (8, 0))
    # What has no data lies nowhere.
    monkeypatch.setattr(_check, "aligned", lambda name, value, bytes_=16: None)
    arguments = small(stem).inputs("meta")
    with FakeTensorMode():
        for name, value in tensors(arguments).items():
            arguments[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda:0")
    message = r"\w+: expected a Hopper GPU \(compute capability 9\.0\), got 8\.0"
    refuse(stem, arguments, ValueError, message)

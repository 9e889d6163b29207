"""Other people's kernels: a right one passes, and each way of being wrong has its name."""

from __future__ import annotations

import importlib.metadata
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import cases
from harness import _adapter, _backends, _memory, adapter
from kernels.act_quant import act_quant as ours
from reference_impl.act_quant import act_quant as right

pytestmark = pytest.mark.cpu
# Its scales have a gap behind every column.
LABEL = "m=33,k=384,x=fp32,pow2=False,floor=None,data=normal"
CASE = cases.find("act_quant", LABEL)
Function = Callable[..., Any]


def judge(memory: _memory.Memory, function: Function, **more: Any) -> _adapter.Verdict:
    return _adapter.Bench(offered(function, **more), memory).probe(CASE)


def offered(function: Function, **more: Any) -> _backends.Backend:
    told = {"NAME": "mine", "OPERATOR": "act_quant", "EXACT": True, "act_quant": function} | more
    return _backends.described(SimpleNamespace(**told))


def wrong_scale(x: torch.Tensor, **more: Any) -> Any:
    q, scale = right(x, **more)
    scale[5, 1] *= 2
    return q, scale


def packed(x: torch.Tensor, **more: Any) -> Any:
    q, scale = right(x, **more)
    return q, scale.contiguous()


def lonely(x: torch.Tensor, **more: Any) -> Any:
    return right(x, **more)[0]


def writing(x: torch.Tensor, **more: Any) -> Any:
    out = right(x, **more)
    x[0, 0] = 1.0
    return out


def stale(x: torch.Tensor, **more: Any) -> Any:
    q, scale = right(x, **more)
    out = torch.empty_like(q)
    out[:-1] = q[:-1]
    return out, scale


def stale_by_its_own_name() -> Function:
    empty = torch.empty

    def function(x: torch.Tensor, **more: Any) -> Any:
        q, scale = right(x, **more)
        out = empty(q.shape, dtype=q.dtype)
        out[1:] = q[1:]
        return out, scale

    return function


def caching() -> Function:
    held: dict[int, Any] = {}

    def function(x: torch.Tensor, **more: Any) -> Any:
        if x.data_ptr() not in held:
            held[x.data_ptr()] = right(x, **more)
        return held[x.data_ptr()]

    return function


def caching_a_part() -> Function:
    """It keeps the scales of an address, and quantises anew with them."""
    held: dict[int, Any] = {}

    def function(x: torch.Tensor, **more: Any) -> Any:
        q, scale = right(x, **more)
        return q, held.setdefault(x.data_ptr(), scale)

    return function


def reusing() -> Function:
    held: list[Any] = []

    def function(x: torch.Tensor, **more: Any) -> Any:
        out = right(x, **more)
        if not held:
            held.extend(out)
        for mine, new in zip(held, out, strict=True):
            mine.copy_(new)
        return tuple(held)

    return function


def raising(x: torch.Tensor, **more: Any) -> Any:
    raise RuntimeError("no such device")


def refusing(x: torch.Tensor, **more: Any) -> Any:
    raise NotImplementedError("only 128 tokens")


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (lambda: right, "right", ""),
        (lambda: ours, "right", ""),
        (lambda: wrong_scale, "wrong", "scale: 1 of 99 elements differ"),
        (lambda: packed, "wrong shape", "strides"),
        (lambda: lonely, "wrong shape", "expected a tuple of 2"),
        (lambda: writing, "writes inputs", "x"),
        (lambda: stale, "stale memory", "q: "),
        (stale_by_its_own_name, "stale memory", "q: "),
        (caching, "caches by pointer", "q: "),
        (caching_a_part, "caches by pointer", "scale: "),
        (reusing, "overwrites results", "second call"),
        (lambda: raising, "raises", "RuntimeError: no such device"),
        (lambda: refusing, "not supported", "only 128 tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_fault_has_its_name(
    memory: _memory.Memory, make: Callable[[], Function], status: str, words: str
) -> None:
    verdict = judge(memory, make())
    assert verdict.status == status, verdict.message
    assert words in verdict.message


def test_a_lost_context_ends_the_process(memory: _memory.Memory) -> None:
    def losing(x: torch.Tensor, **more: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert judge(memory, losing).lost
    assert not judge(memory, raising).lost


@pytest.mark.parametrize(("answer", "message"), [(False, ""), ("no tails", "no tails")])
def test_what_it_does_not_support_is_not_called(
    memory: _memory.Memory, answer: object, message: str
) -> None:
    verdict = judge(memory, raising, supports=lambda case: answer)
    assert verdict == ("not supported", message, False)


def test_other_numbers_are_those_of_the_same_case() -> None:
    one, other = CASE.inputs("cpu")["x"], _adapter.salted(CASE, 1).inputs("cpu")["x"]
    assert one.shape == other.shape
    assert (one != other).float().mean() > 0.99
    assert _adapter.salted(CASE, 1).label == LABEL


def test_torch_is_as_before_when_it_is_removed() -> None:
    before = torch.empty, torch.Tensor.new_empty
    held = _memory.Memory()
    held.install()
    held.pattern = 0x5A
    assert (torch.empty(3, dtype=torch.uint8) == 0x5A).all()
    assert (torch.zeros(2).new_empty(4).view(torch.uint8) == 0x5A).all()
    held.remove()
    assert (torch.empty, torch.Tensor.new_empty) == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"NAME": ""}, "NAME: expected a string"),
        ({"OPERATOR": 3}, "OPERATOR: expected a string"),
        ({"OPERATOR": "act_qant"}, "OPERATOR: expected one of"),
        ({"EXACT": "hopper"}, "EXACT: expected True or False, got 'hopper'"),
        ({"act_quant": None}, "act_quant: expected a function"),
    ],
)
def test_what_an_adapter_lacks_is_named(more: dict[str, Any], words: str) -> None:
    held = {"NAME": "mine", "OPERATOR": "act_quant", "act_quant": right} | more
    with pytest.raises(_backends.AdapterError, match=words):
        _backends.described(SimpleNamespace(**held))


def test_an_entry_point_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("mine", "reference_impl.act_quant", _backends.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    assert _backends.load("mine").act_quant is right
    with pytest.raises(_backends.AdapterError, match="there are: mine"):
        _backends.load("yours")


HOSTILE = """
import ctypes, os, time
from reference_impl.act_quant import act_quant as right

NAME, OPERATOR = "hostile", "act_quant"

def act_quant(x, **more):
    if x.shape[0] == 7:
        ctypes.string_at(0)
    if x.shape[0] == 31:
        print('{"case": "m=31", "status": "right"}', flush=True)
        os._exit(0)
    if x.shape[0] == 32:
        while True:
            time.sleep(1)
    return right(x, **more)

def supports(case):
    return case.k == 256 and case.m in (1, 7, 31, 32, 33) and case.data == "normal"
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


@pytest.mark.long
def test_a_crash_and_a_hang_cost_their_case_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    part = "k=256,x=bf16,pow2=False,floor=None"
    name = write(tmp_path, HOSTILE)
    assert adapter.main([name, "--case", part, "--seconds", "4"]) == 1
    out = capfd.readouterr().out
    told = dict(re.findall(r"^hostile: (m=\d+),\S*: (.*)$", out, re.MULTILINE))
    assert told == {
        "m=7": "crashes: signal SIGSEGV",
        "m=31": "crashes: exit code 0",
        "m=32": "hangs: no result after 4 s",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [("import os; os._exit(3)", "ended the process"), ("OPERATOR = 'act_quant'", "NAME: expected")],
)
def test_what_cannot_be_loaded_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    pytest.importorskip("rich")
    assert adapter.main([write(tmp_path, text)]) == 2
    assert words in capsys.readouterr().err


def test_an_argument_that_it_lacks_is_named(memory: _memory.Memory) -> None:
    def short(x: torch.Tensor) -> Any:
        return right(x)

    case = cases.find("act_quant", LABEL.replace("pow2=False", "pow2=True"))
    verdict = _adapter.Bench(offered(short), memory).probe(case)
    assert verdict[:2] == ("not supported", "the function has no argument pow2_scale")

"""By what somebody's results are judged: a declared order to the bit, else the bound derived for others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cases, parity
from benchmarks.cases import fp8_gemm
from benchmarks.cases.act_quant import ActQuant
from harness import _adapter, _backends, _memory
from reference_impl.act_quant import act_quant as right
from tests.test_adapter import CASE, offered, packed, write

pytestmark = pytest.mark.cpu
Function = Callable[..., Any]
GEMM = cases.find("fp8_gemm", "m=65,n=200,k=256,out=fp32,data=normal")


def in_another_order(**arguments: Any) -> torch.Tensor:
    return fp8_gemm.dense(arguments)[0].to(arguments["out_dtype"])


def without_a_block(**arguments: Any) -> torch.Tensor:
    arguments["x_scale"] = arguments["x_scale"].clone()
    arguments["x_scale"][:, 1] = 0
    return in_another_order(**arguments)


def narrow(**arguments: Any) -> torch.Tensor:
    return in_another_order(**arguments).bfloat16()


@pytest.mark.parametrize(
    ("function", "exact", "status", "words"),
    [
        (in_another_order, False, "right", ""),
        (in_another_order, True, "wrong", "elements differ in bits"),
        (without_a_block, False, "wrong", "exceeds"),
        (narrow, False, "wrong shape", "dtype"),
    ],
)
def test_another_order_of_the_sum_is_right_unless_ours_is_declared(
    memory: _memory.Memory, function: Function, exact: bool, status: str, words: str
) -> None:
    backend = offered(function, OPERATOR="fp8_gemm", fp8_gemm=function, EXACT=exact)
    verdict = _adapter.Bench(backend, memory).probe(GEMM)
    assert verdict.status == status, verdict.message
    assert words in verdict.message
    assert backend.contract == ("exact, as declared" if exact else "derived bound")


def test_what_has_no_bound_is_exact() -> None:
    backend = offered(right, OPERATOR="permute", permute=right, EXACT=False)
    assert backend.contract == "exact, there is no bound"
    assert backend.judged_exactly


def test_a_peer_lays_its_results_where_it_likes(memory: _memory.Memory) -> None:
    peer = replace(offered(packed), laid_freely=True)
    assert _adapter.Bench(peer, memory).probe(CASE).status == "right"


@pytest.mark.parametrize("step", [1, 2])
def test_the_walk_through_is_so(step: int, memory: _memory.Memory, tmp_path: Path) -> None:
    """CONTRIBUTING.md: five are right and three wrong; then no power of two is supported."""
    page = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.partition("## A kernel of your own, from outside")[2]
    text = section.partition("```python\n")[2].partition("```")[0]
    if step == 2:
        line = re.findall(r"^2\. Say so: `(.*?)`", section, re.MULTILINE)[0]
        head = "def supports(case):  # optional: True, or the reason\n"
        assert head in text
        text = text.replace(head, f"{head}    {line}\n")
    bench = _adapter.Bench(_backends.find(write(tmp_path, text)), memory)
    table = _adapter.chosen("act_quant", "m=33")
    found = Counter(bench.probe(case).status for case in table)
    wrong = {"wrong": 3} if step == 1 else {}
    assert found == {"right": 5, "not supported": 6 - len(wrong) * 3, **wrong}


@pytest.mark.parametrize("floor", [None, 1e-4])
def test_of_a_tile_with_inf_the_payloads_are_compared(floor: float | None) -> None:
    case = ActQuant(m=33, k=256, floor=floor, data="nonfinite")
    arguments = case.inputs("cpu")
    q, scale = expected = cases.call(cases.public("reference_impl", "act_quant"), arguments)
    assert parity.close("act_quant", arguments, expected, expected)
    spread = scale.repeat_interleave(128, dim=1)
    row, column = (~spread.isfinite()).nonzero()[0].tolist()
    wrong = q.clone()
    wrong.view(torch.uint8)[row, column] ^= 0x7F  # NaN to 0, or 0 to NaN
    assert not parity.close("act_quant", arguments, (wrong, scale), expected)

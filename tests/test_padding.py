"""Padding between experts is nobody's: with Inf in the place of the cases' NaN no result changes.

A NaN that is read shows in a sum and hides in a maximum; Inf does the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases, parity
from benchmarks.cases.act_quant_transpose import ActQuantTranspose
from benchmarks.cases.grouped_gemm_contiguous import GroupedGemmContiguous
from benchmarks.cases.grouped_gemm_masked import GroupedGemmMasked
from benchmarks.cases.grouped_gemm_wgrad import GroupedGemmWgrad
from benchmarks.cases.swiglu_quant import SwigluQuant, SwigluQuantMasked
from benchmarks.cases.swiglu_quant_backward import SwigluQuantBackward
from benchmarks.cases.unpermute import Unpermute
from benchmarks.cases.unpermute_backward import UnpermuteBackward
from benchmarks.compare import Exact, assert_equal
from kernels.act_quant import act_quant

if TYPE_CHECKING:
    from benchmarks.cases import Case

pytestmark = pytest.mark.usefixtures("products")
E4M3 = torch.float8_e4m3fn
LARGEST = 0x7E  # of e4m3, which has no Inf: 448, and 0xFE is -448
INF = float("inf")
# An expert without rows among them.
ROUTED: dict[str, Any] = {"t": 5, "e": 3, "k": 1, "routing": "no_middle"}
PROBLEMS: list[tuple[str, Case]] = [
    ("grouped_gemm_contiguous", GroupedGemmContiguous(e=3, t=5, n=72, k=128, topk=1, routing="no_middle")),
    ("grouped_gemm_masked", GroupedGemmMasked(e=3, c=4, t=5, n=72, k=128, topk=1, routing="no_middle")),
    ("grouped_gemm_wgrad", GroupedGemmWgrad(e=3, t=5, n=64, k=128, topk=1, routing="no_middle", spare=2)),
    ("swiglu_quant", SwigluQuant(c=128, weights=True, pow2=True, x="e4m3", **ROUTED)),
    ("swiglu_quant", SwigluQuantMasked(c=128, weights=True, pow2=True, capacity=4, **ROUTED)),
    ("swiglu_quant_backward", SwigluQuantBackward(c=128, weights=True, pow2=True, **ROUTED)),
    ("act_quant_transpose", ActQuantTranspose(c=128, **ROUTED)),
    ("act_quant_transpose", ActQuantTranspose(c=128, x="e4m3", **ROUTED)),
    ("unpermute", Unpermute(h=256, weights=True, **ROUTED | {"routing": "dropped"})),
    ("unpermute_backward", UnpermuteBackward(h=256, **ROUTED | {"routing": "dropped"})),
]  # fmt: skip
NAMES = [f"{stem}-{number}" for number, (stem, _) in enumerate(PROBLEMS)]


def loud(part: torch.Tensor) -> int:
    """Inf of either sign, or the format's largest, in the place of every NaN; how many these are."""
    nan = part.isnan() if part.itemsize > 1 else part.float().isnan()
    places = nan.nonzero()
    sign = (places.sum(dim=1) % 2).to(torch.uint8)  # neighbours differ
    if part.dtype == E4M3:
        part.view(torch.uint8)[nan] = LARGEST + 0x80 * sign
    else:
        part[nan] = torch.where(sign == 0, INF, -INF).to(part.dtype)
    return len(places)


@pytest.mark.parametrize(("stem", "case"), PROBLEMS, ids=NAMES)
def test_inf_in_the_padding_changes_nothing(stem: str, case: Case, device: str) -> None:
    """Of the kernel and of the reference, against the reference with NaN."""
    arguments = case.inputs(device)
    reference = cases.public("reference_impl", stem)
    want = parity.defined(stem, arguments, cases.call(reference, arguments))
    held = (part for part in arguments.values() if isinstance(part, torch.Tensor))
    assert sum(loud(part) for part in held if part.dtype.is_floating_point) > 0
    for function in (reference, cases.public("kernels", stem)):
        got = parity.defined(stem, arguments, cases.call(function, arguments))
        assert_equal(got, want, Exact(), names=cases.load(stem).OUTPUTS)


def test_act_quant_of_counted_rows(device: str) -> None:
    """Its cases have no padding."""
    counts = torch.tensor([3, 0, 2], dtype=torch.int32, device=device)
    x = torch.randn(136, 128, generator=torch.Generator().manual_seed(2)).bfloat16().to(device)
    rows = torch.tensor([0, 1, 2, 128, 129], device=device)
    want = act_quant(x[rows], True)
    padding = torch.ones(136, dtype=torch.bool, device=device)
    padding[rows] = False
    x[padding] = INF
    q, scale = act_quant(x, True, counts=counts)
    assert_equal(q.view(torch.uint8)[rows], want[0].view(torch.uint8), Exact())
    assert_equal(scale[rows].contiguous(), want[1].contiguous(), Exact())

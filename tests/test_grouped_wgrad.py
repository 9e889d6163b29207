"""grouped_gemm_wgrad: the definition, the order of accumulation, and what holds beyond parity."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from benchmarks.cases import _grouped as grouped
from benchmarks.cases.grouped_gemm_wgrad import CASES, GroupedGemmWgrad
from benchmarks.compare import Exact, assert_equal
from kernels import grouped_gemm_wgrad as kernel
from kernels._device import HOPPER_SMS, recording, sm_limit
from reference_impl import grouped_gemm_wgrad as reference
from reference_impl._fp32 import fma
from reference_impl.wgmma import partials, wgmma
from tests._guards import guarded
from tests.test_inputs import refuse

pytestmark = pytest.mark.usefixtures("products")
CASE = GroupedGemmWgrad(e=4, t=150, n=72, k=136, topk=2, routing="no_middle", spare=1)
BOTH = pytest.mark.parametrize(
    "function",
    [kernel.grouped_gemm_wgrad, reference.grouped_gemm_wgrad],
    ids=["kernel", "reference"],
)
FP8 = torch.float8_e4m3fn


def held(device: str, case: GroupedGemmWgrad = CASE) -> torch.Tensor:
    """What an earlier micro-batch left."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(case.e, case.n, case.k, generator=generator).mul_(1e3).to(device)


@pytest.mark.parametrize("mode", ["exact", "hopper"])
@pytest.mark.parametrize("add", [False, True])
def test_the_definition(add: bool, mode: str) -> None:
    """Expert by expert and block by block, in order; experts have three blocks or so."""
    arguments = replace(CASE, t=500).inputs("cpu")
    grad_t, grad_scale, x_t, x_scale, counts = arguments.values()
    out = held("cpu") if add else None
    with partials(mode):
        got = reference.grouped_gemm_wgrad(**arguments, out=None if out is None else out.clone())
        begins = grouped.starts(counts.tolist())
        for expert in range(CASE.e):
            acc = torch.zeros(CASE.n, CASE.k) if out is None else out[expert]
            for row in range(begins[expert], begins[expert + 1], 128):
                partial = wgmma(grad_t[:, row : row + 128], x_t[:, row : row + 128])
                scale = grad_scale[row // 128][:, None] * x_scale[row // 128][None, :]
                acc = fma(partial, scale, acc)
            assert_equal(got[expert], acc, Exact())


def test_a_product_of_whole_numbers(device: str) -> None:
    """Small enough that nothing is rounded: the sum over an expert's rows, and over no other's."""
    generator = torch.Generator().manual_seed(5)
    counts = [3, 0, 130, 128]
    rows, n, k = grouped.starts(counts)[-1], 66, 130
    grad, x = (
        torch.randint(-2, 3, (channels, rows), generator=generator).float() for channels in (n, k)
    )
    real = grouped.real(torch.tensor(counts), rows)
    padding = torch.ones(rows, dtype=torch.bool)
    padding[real] = False
    grad[:, padding] = x[:, padding] = 0
    got = kernel.grouped_gemm_wgrad(
        grad.to(FP8).to(device), torch.full((rows // 128, n), 2.0, device=device),
        x.to(FP8).to(device), torch.full((rows // 128, k), 0.25, device=device),
        torch.tensor(counts, dtype=torch.int32, device=device),
    ).cpu()  # fmt: skip
    for expert, (start, count) in enumerate(zip(grouped.starts(counts), counts, strict=False)):
        part = slice(start, start + count)
        assert torch.equal(got[expert], 0.5 * grad[:, part] @ x[:, part].T)


@BOTH
def test_an_expert_without_rows(function: Any, device: str) -> None:
    """0, or to the bit what ``out`` held, NaN and -0 included; and without rows at all."""
    arguments = CASE.inputs(device)
    (empty,) = (arguments["counts"] == 0).nonzero()[:, 0].tolist()
    got = function(**arguments)
    assert (got[empty].view(torch.int32) == 0).all()
    assert (got != 0).any(dim=2).any(dim=1).sum() == CASE.e - 1
    out = held(device)
    out[empty, 3, 5:7] = torch.tensor([float("nan"), -0.0], device=device)
    before = out[empty].clone()
    function(**arguments, out=out)
    assert torch.equal(out[empty].view(torch.int32), before.view(torch.int32))
    for rows in (0, 128):
        none = {
            "grad_t": arguments["grad_t"][:, :rows].contiguous(),
            "grad_scale": arguments["grad_scale"][: rows // 128],
            "x_t": arguments["x_t"][:, :rows].contiguous(),
            "x_scale": arguments["x_scale"][: rows // 128],
            "counts": torch.zeros_like(arguments["counts"]),
        }
        assert (function(**none).view(torch.int32) == 0).all()
        assert torch.equal(function(**none, out=out).view(torch.int32), out.view(torch.int32))


@pytest.mark.parametrize("sms", [1, 132])
def test_micro_batches_are_one_sum(sms: int, device: str) -> None:
    """Two calls into one ``out`` go through the blocks as one call does whose segments are both's."""
    first = GroupedGemmWgrad(e=1, t=256, n=72, k=136).inputs(device)
    second = GroupedGemmWgrad(e=1, t=130, n=72, k=136, data="wide").inputs(device)
    whole = {
        **{
            name: torch.cat([one[name].view(torch.uint8) for one in (first, second)], 1).view(FP8)
            for name in ("grad_t", "x_t")
        },
        **{name: torch.cat([first[name], second[name]]) for name in ("grad_scale", "x_scale")},
        "counts": first["counts"] + second["counts"],
    }
    with sm_limit(sms):
        out = kernel.grouped_gemm_wgrad(**first)
        assert kernel.grouped_gemm_wgrad(**second, out=out) is out
        assert_equal(out, kernel.grouped_gemm_wgrad(**whole), Exact())
        started = held(device, GroupedGemmWgrad(e=1, t=0, n=72, k=136))
        want = reference.grouped_gemm_wgrad(**second, out=started.clone())
        assert_equal(kernel.grouped_gemm_wgrad(**second, out=started), want, Exact())


LIMIT = 2**31 - 1


@pytest.mark.parametrize("counts", [[-1, 5, -(2**31), 300], [LIMIT] * 4, [5, LIMIT, 1, -3]])
@pytest.mark.parametrize("add", [False, True])
def test_counts_that_make_no_sense(
    counts: list[int], add: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative ones count as 0, blocks past the buffer are left out."""
    arguments = CASE.inputs(device)
    rows = 256
    arguments = {
        "grad_t": arguments["grad_t"][:, :rows].contiguous(),
        "grad_scale": arguments["grad_scale"][: rows // 128],
        "x_t": arguments["x_t"][:, :rows].contiguous(),
        "x_scale": arguments["x_scale"][: rows // 128],
        "counts": torch.tensor(counts, dtype=torch.int32, device=device),
    }
    results = []
    for function in (kernel.grouped_gemm_wgrad, reference.grouped_gemm_wgrad):
        with guarded(monkeypatch):
            out = torch.empty(CASE.e, CASE.n, CASE.k, device=device)
            out.copy_(held(device))
            results.append(function(**arguments, out=out if add else None))
    assert_equal(results[0], results[1], Exact())


SMALL = (
    CASE,
    GroupedGemmWgrad(e=2, t=300, n=200, k=65, data="cancelling"),
    GroupedGemmWgrad(e=3, t=40, n=1300, k=64, topk=2, routing="uniform"),
    GroupedGemmWgrad(e=2, t=200, n=129, k=130, data="nonfinite"),
)
LARGE = (
    GroupedGemmWgrad(e=5, t=3000, n=2112, k=1544, topk=2, routing="zipf"),
    GroupedGemmWgrad(e=3, t=5000, n=577, k=7168, routing="uniform", data="wide"),
)


@cache
def problem(case: GroupedGemmWgrad, device: str) -> tuple[dict[str, Any], torch.Tensor]:
    arguments = case.inputs(device)
    return arguments, reference.grouped_gemm_wgrad(**arguments)


def check(case: GroupedGemmWgrad, config: kernel.Config, sms: int, device: str) -> None:
    arguments, want = problem(case, device)
    out = torch.full_like(want, float("nan"))
    with sm_limit(sms):
        kernel.run(**arguments, out=out, config=config)
    assert_equal(out, want, Exact())


@pytest.mark.parametrize("sms", [1, 132])
@pytest.mark.parametrize("config", kernel.CONFIGS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.label)
def test_every_configuration_equals_the_reference(
    case: GroupedGemmWgrad, config: kernel.Config, sms: int, device: str
) -> None:
    check(case, config, sms, device)


@pytest.mark.gpu
@pytest.mark.parametrize("config", kernel.CONFIGS)
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.label)
def test_and_on_large_problems(case: GroupedGemmWgrad, config: kernel.Config, device: str) -> None:
    check(case, config, HOPPER_SMS, device)


def test_the_launch_keeps_to_its_multiprocessors() -> None:
    for sms in (1, 20):
        with recording() as launches, sm_limit(sms):
            kernel.grouped_gemm_wgrad(**CASES[0].inputs("meta"))
        assert launches[0].grid == (sms * kernel.WIDE.programs_per_sm,)


@pytest.mark.gpu
def test_a_graph_replays_with_other_counts(device: str) -> None:
    arguments = GroupedGemmWgrad(e=4, t=512, n=72, k=136).inputs(device)
    kernel.grouped_gemm_wgrad(**arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kernel.grouped_gemm_wgrad(**arguments)
    for counts in ([0] * 4, [512, 0, 0, 0], [0, 128, 0, 384], [1, 1, 1, 1]):
        arguments["counts"].copy_(torch.tensor(counts, dtype=torch.int32))
        graph.replay()
        assert_equal(captured, reference.grouped_gemm_wgrad(**arguments), Exact())


GOOD: dict[str, Any] = {
    "grad_t": torch.zeros(5, 256).to(FP8), "grad_scale": torch.ones(2, 5),
    "x_t": torch.zeros(7, 256).to(FP8), "x_scale": torch.ones(2, 7),
    "counts": torch.ones(2, dtype=torch.int32), "out": torch.zeros(2, 5, 7),
}  # fmt: skip
REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("grad_t", torch.zeros(5, 200).to(FP8), ValueError, "expected R to be a multiple of 128, got 200"),
    ("x_t", torch.zeros(7, 128).to(FP8), ValueError, r"expected shape \[any, 256\], got \[7, 128\]"),
    ("x_t", torch.zeros(256, 7).view(torch.uint8)[:, :7].T.view(FP8), ValueError,
     "expected a contiguous tensor, .*"),
    ("grad_scale", torch.ones(5, 2), ValueError, r"expected shape \[2, 5\], got \[5, 2\]"),
    ("grad_scale", torch.ones(5, 2).T, ValueError, "expected a contiguous tensor, .*"),
    ("x_scale", torch.ones(2, 5), ValueError, r"expected shape \[2, 7\], got \[2, 5\]"),
    ("counts", torch.ones(2), TypeError, "expected dtype int32, got float32"),
    ("out", torch.zeros(2, 7, 5), ValueError, r"expected shape \[2, 5, 7\], got \[2, 7, 5\]"),
    ("out", torch.zeros(2, 5, 7).bfloat16(), TypeError, "expected dtype float32, got bfloat16"),
    ("out", torch.zeros(2, 7, 5).mT, ValueError, "expected a contiguous tensor, .*"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "bad", "error", "said"), REFUSED)
def test_refused(name: str, bad: Any, error: type[Exception], said: str, device: str) -> None:
    arguments = {key: part.to(device) for key, part in (GOOD | {name: bad}).items()}
    refuse("grouped_gemm_wgrad", arguments, error, f"{name}: {said}")
    kernel.grouped_gemm_wgrad(**{key: part.to(device) for key, part in GOOD.items()})

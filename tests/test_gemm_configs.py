"""Every configuration that fp8_gemm's launcher can choose gives the same bits, and is chosen."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from benchmarks.cases import fp8_gemm as cases
from benchmarks.cases._deepseek_v3 import LINEAR
from benchmarks.cases.fp8_gemm import Fp8Gemm
from benchmarks.compare import Exact, assert_equal
from kernels._device import HOPPER_SMS
from kernels._fp8_gemm_few import Few
from kernels._fp8_gemm_split import SPLIT, Split, SplitPlan
from kernels._product import BLOCK_K
from kernels.fp8_gemm import CONFIGS, Config, choose, configurations, run
from reference_impl.fp8_gemm import fp8_gemm
from tests._guards import guarded

# Ragged in both directions; with rows of the output that TMA can store (a multiple of 16 bytes) and
# that it cannot; one token; no channels; more than one group of row tiles.
SMALL = (
    Fp8Gemm(m=65, n=136, k=256),
    Fp8Gemm(m=1, n=130, k=128, data="wide"),
    Fp8Gemm(m=130, n=17, k=384, out="fp32", data="cancelling"),
    Fp8Gemm(m=129, n=20, k=128, out="fp32", data="nonfinite"),
    Fp8Gemm(m=3, n=5, k=0),
    # Up to 16 tokens, whose k-blocks are shared among programs: spans that end short, and not.
    Fp8Gemm(m=16, n=130, k=1152, data="wide"),
    Fp8Gemm(m=2, n=65, k=4224),  # more blocks than are promoted in one round
    Fp8Gemm(m=5, n=64, k=2048, out="fp32", data="nonfinite"),
)
LARGE = (
    Fp8Gemm(m=4001, n=2112, k=7168),
    Fp8Gemm(m=129, n=577, k=1536, out="fp32", data="wide"),
    Fp8Gemm(m=1, n=7168, k=2048, data="outlier"),
    Fp8Gemm(m=16, n=576, k=7168, data="wide"),
    Fp8Gemm(m=11, n=2113, k=16384),
    Fp8Gemm(m=2000, n=4104, k=512, data="cancelling"),
)
OPERANDS = ("x", "x_scale", "w", "w_scale")


def pairs(table: tuple[Fp8Gemm, ...]) -> list[Any]:
    """Each problem with each configuration that takes its tokens."""
    return [
        pytest.param(config, case, id=f"{'-'.join(map(str, config))}-{case.label}")
        for case in table
        for config in configurations(case.m)
    ]


@cache
def problem(case: Fp8Gemm, device: str) -> tuple[dict[str, Any], torch.Tensor]:
    """Arguments and the reference's result, worked out once for all configurations."""
    arguments = case.inputs(device)
    return arguments, fp8_gemm(**arguments)


def check(case: Fp8Gemm, config: Config | Few | Split, device: str) -> None:
    arguments, want = problem(case, device)
    # Poisoned: what the kernel leaves out reads as NaN.
    out = torch.full((case.m, case.n), float("nan"), dtype=arguments["out_dtype"], device=device)
    run(**{name: arguments[name] for name in OPERANDS}, out=out, config=config)
    assert_equal(out, want, Exact())


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("config", "case"), pairs(SMALL))
def test_every_configuration_equals_the_reference(
    config: Config | Few | Split, case: Fp8Gemm, device: str
) -> None:
    check(case, config, device)


@pytest.mark.parametrize(("config", "case"), pairs((SMALL[2], SMALL[5])))
def test_no_configuration_writes_beside_its_results(
    config: Config | Few | Split, case: Fp8Gemm, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor beside the partial products of those that split the sum."""
    arguments = case.inputs(device)
    operands = {name: arguments[name] for name in OPERANDS}
    with guarded(monkeypatch):
        out = torch.empty(case.m, case.n, dtype=arguments["out_dtype"], device=device)
        run(**operands, out=out, config=config)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("config", configurations(3))
def test_no_configuration_takes_scales_past_the_last_block(
    config: Config | Few | Split, device: str
) -> None:
    """Where an iteration has several k-blocks, and they do not divide the sum's: NaN stands behind it."""
    case = Fp8Gemm(m=3, n=130, k=384)
    arguments = case.inputs(device)
    want = fp8_gemm(**arguments)
    rows, columns = (-(-size // 128) for size in (case.n, case.k))
    x_scale = torch.full((columns + 4, 4), float("nan"), device=device).T[: case.m]
    w_scale = torch.full((rows, columns + 4), float("nan"), device=device)
    for scale, name in ((x_scale, "x_scale"), (w_scale, "w_scale")):
        scale[:, :columns] = arguments[name]
        arguments[name] = scale[:, :columns]
    out = torch.full_like(want, float("nan"))
    run(**{name: arguments[name] for name in OPERANDS}, out=out, config=config)
    assert_equal(out, want, Exact())


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("config", {type(config): config for config in configurations(5)}.values())
def test_each_kind_reads_scales_of_any_strides(config: Config | Few | Split, device: str) -> None:
    """Which the launcher chooses, tests/test_launches.py asks with these."""
    case = Fp8Gemm(m=5, n=136, k=1152)
    arguments, want = problem(case, device)
    operands = {name: arguments[name] for name in OPERANDS}
    for name in ("x_scale", "w_scale"):
        scale = arguments[name]
        for other in (scale.contiguous(), scale.T.contiguous().T, torch.stack([scale, -scale])[0]):
            out = torch.full_like(want, float("nan"))
            run(**operands | {name: other}, out=out, config=config)
            assert_equal(out, want, Exact())


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("config", SPLIT)
def test_a_split_sum_is_written_as_far_as_it_is_read(
    config: Split, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its promotion reads fours: what stands past the last k-block is dropped, but must have been written."""
    case = Fp8Gemm(m=3, n=130, k=1152)
    operands = {name: case.inputs(device)[name] for name in OPERANDS}
    plan = SplitPlan(**operands, config=config)
    promotion, read = plan.promotion, []

    def promoted(where: torch.device, scratch: torch.Tensor, out: torch.Tensor) -> None:
        read.append(scratch.clone())
        promotion(where, scratch, out)

    monkeypatch.setattr(plan, "promotion", promoted)
    plan(**operands, out=torch.empty(case.m, case.n, dtype=torch.bfloat16, device=device))
    blocks = case.k // BLOCK_K
    assert not read[0][:, : -(-blocks // 4) * 4].isnan().any()
    assert not read[0][:, blocks : -(-blocks // 4) * 4].any()


@pytest.mark.gpu
@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("config", "case"), pairs(LARGE))
def test_and_on_large_problems(config: Config | Few | Split, case: Fp8Gemm, device: str) -> None:
    check(case, config, device)


def test_tiles_have_one_weight_scale_a_block() -> None:
    for config in CONFIGS:
        assert BLOCK_K % config.block_n == 0
        assert len(set(CONFIGS)) == len(CONFIGS)


def test_only_configurations_are_chosen() -> None:
    sizes = sorted({1, 7, *(2**power + more for power in range(4, 18) for more in (-1, 0, 1))})
    for m in sizes:
        for n in sizes:
            for sms in (1, 20, 78, 112, 114, HOPPER_SMS):
                for k in (128, 1536, 2048, 7168):
                    assert choose(m, n, k, sms) in configurations(m)


def test_every_configuration_is_chosen_by_a_production_shape() -> None:
    """One that is not is tested, compiled and read for nothing."""
    tokens = {case.m for case in cases.PRODUCTION}
    chosen = {choose(m, n, k, HOPPER_SMS) for n, k in LINEAR.values() for m in tokens}
    assert chosen == set(CONFIGS)

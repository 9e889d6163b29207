"""grouped_gemm_contiguous and grouped_gemm_masked: the definition, and what holds beyond parity."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases
from benchmarks.cases import _grouped as grouped
from benchmarks.cases.grouped_gemm_contiguous import GroupedGemmContiguous
from benchmarks.cases.grouped_gemm_masked import GroupedGemmMasked
from benchmarks.compare import Exact, assert_equal
from benchmarks.parity import defined
from kernels import _grouped_gemm, grouped_gemm_contiguous, grouped_gemm_masked
from kernels._device import HOPPER_SMS, recording, sm_limit
from kernels._grouped_gemm import CONFIGS, Config
from reference_impl.fp8_gemm import fp8_gemm
from reference_impl.wgmma import partials
from tests._guards import PATTERN, guarded
from tests._operands import on
from tests.test_inputs import refuse

if TYPE_CHECKING:
    from benchmarks.cases import Case

pytestmark = pytest.mark.usefixtures("products")
STEMS = ("grouped_gemm_contiguous", "grouped_gemm_masked")
MODULES = {
    "grouped_gemm_contiguous": grouped_gemm_contiguous,
    "grouped_gemm_masked": grouped_gemm_masked,
}
CONTIGUOUS = GroupedGemmContiguous(e=5, t=60, n=72, k=256, topk=8, routing="sizes")
MASKED = GroupedGemmMasked(e=5, c=131, t=300, n=72, k=256)
BOTH = pytest.mark.parametrize(
    ("stem", "case"), [(STEMS[0], CONTIGUOUS), (STEMS[1], MASKED)], ids=STEMS
)


def call(side: str, stem: str, arguments: dict[str, Any]) -> torch.Tensor:
    found: torch.Tensor = cases.public(side, stem)(**arguments)
    return found


def rows_of_each(stem: str, arguments: dict[str, Any]) -> list[Any]:
    """Where the rows of each expert are, of operands and result."""
    counts = arguments["counts"].tolist()
    if stem == "grouped_gemm_masked":
        return [(expert, slice(count)) for expert, count in enumerate(counts)]
    return [slice(a, a + n) for a, n in zip(grouped.starts(counts), counts, strict=False)]


@pytest.mark.parametrize("mode", ["exact", "hopper"])
@BOTH
def test_the_definition(stem: str, case: Any, mode: str) -> None:
    """Expert by expert it is fp8_gemm, to the last bit of fp32; two blocks of N, three of K."""
    arguments = replace(case, n=136, k=384, out="fp32").inputs("cpu")
    with partials(mode):
        got = call("reference_impl", stem, arguments)
        for expert, rows in enumerate(rows_of_each(stem, arguments)):
            operands = {name: arguments[name][rows] for name in ("x", "x_scale")}
            weight = {name: arguments[name][expert] for name in ("w", "w_scale")}
            want = fp8_gemm(**operands, **weight, out_dtype=torch.float32)
            assert_equal(got[rows].contiguous(), want, Exact())


@pytest.mark.parametrize("side", ["kernels", "reference_impl"])
@BOTH
def test_padding_is_not_written(
    stem: str, case: Any, side: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = case.inputs(device)
    with guarded(monkeypatch):
        got = call(side, stem, arguments)
    padding = torch.ones(got.shape[:-1], dtype=torch.bool, device=device)
    for rows in rows_of_each(stem, arguments):
        padding[rows] = False
    assert padding.any()
    assert (got[padding].view(torch.uint8) == PATTERN).all()
    assert not got[~padding].isnan().any()


@pytest.mark.parametrize("rows", [0, 1, 128, 130, 255, 400])
def test_a_buffer_that_is_too_short(
    rows: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that fit are right, and nothing else is written."""
    arguments = CONTIGUOUS.inputs(device)
    whole = call("kernels", "grouped_gemm_contiguous", arguments)
    arguments |= {"x": arguments["x"][:rows], "x_scale": arguments["x_scale"][:rows]}
    inside = grouped.real(arguments["counts"], rows)
    for side in ("kernels", "reference_impl"):
        with guarded(monkeypatch):
            got = call(side, "grouped_gemm_contiguous", arguments)
        assert_equal(got[inside], whole[inside], Exact())
        left = torch.ones(rows, dtype=torch.bool, device=device)
        left[inside] = False
        assert (got[left].view(torch.uint8) == PATTERN).all()


LIMIT = 2**31 - 1


@pytest.mark.parametrize(
    ("counts", "taken"),
    [
        ([-1, -(2**31), 3, -5, 0], [0, 0, 3, 0, 0]),
        ([LIMIT, LIMIT, LIMIT, 5, 5], [131, 0, 0, 0, 0]),
        ([2, LIMIT, 1, -1, 4], [2, 3, 0, 0, 0]),
    ],
)
def test_counts_that_make_no_sense(
    counts: list[int], taken: list[int], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative ones count as 0, large ones end with the buffer; nothing beside it is touched."""
    masked = MASKED.inputs(device)
    held = torch.tensor(counts, dtype=torch.int32, device=device)
    contiguous = CONTIGUOUS.inputs(device)
    contiguous |= {name: contiguous[name][:131] for name in ("x", "x_scale")}
    for stem, arguments in zip(STEMS, (contiguous, masked), strict=True):
        arguments["counts"] = held
        if stem == "grouped_gemm_masked":
            taken = [min(max(count, 0), MASKED.c) for count in counts]
        results = []
        for side in ("kernels", "reference_impl"):
            with guarded(monkeypatch):
                results.append(call(side, stem, arguments))
        assert_equal(results[0], results[1], Exact())
        written = (results[0].view(torch.int16) != PATTERN * 257).any(dim=-1)
        assert written.sum() == sum(taken)


@pytest.mark.parametrize("sms", [1, 7])
@BOTH
def test_a_program_walks_over_many_experts(stem: str, case: Any, sms: int, device: str) -> None:
    arguments = case.inputs(device)
    want = call("reference_impl", stem, arguments)
    for config in CONFIGS:
        out = torch.full_like(want, float("nan"))
        with sm_limit(sms):
            MODULES[stem].run(**without_dtype(arguments), out=out, config=config)
        compare_defined(stem, arguments, out, want)


def compare_defined(stem: str, arguments: dict[str, Any], got: Any, want: Any) -> None:
    """Bits of the rows of experts."""
    assert_equal(defined(stem, arguments, got), defined(stem, arguments, want), Exact())


def without_dtype(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "out_dtype"}


# Ragged both ways; experts without rows; one row; groups of tiles that are cut short.
SMALL: tuple[tuple[str, Case], ...] = (
    (
        "grouped_gemm_contiguous",
        GroupedGemmContiguous(e=4, t=90, n=200, k=256, topk=2, routing="no_last", data="wide"),
    ),
    ("grouped_gemm_contiguous", GroupedGemmContiguous(e=2, t=2300, n=65, k=128)),
    ("grouped_gemm_contiguous", GroupedGemmContiguous(e=7, t=20, n=130, k=384, out="fp32", routing="zipf")),
    ("grouped_gemm_masked", GroupedGemmMasked(e=4, c=66, t=200, n=200, k=256, data="cancelling")),
    ("grouped_gemm_masked", GroupedGemmMasked(e=3, c=200, t=60, n=17, k=128, routing="uniform", out="fp32")),
)  # fmt: skip
LARGE: tuple[tuple[str, Case], ...] = (
    ("grouped_gemm_contiguous", GroupedGemmContiguous(e=16, t=700, n=2112, k=1536, topk=8, routing="zipf")),
    ("grouped_gemm_contiguous", GroupedGemmContiguous(e=2, t=4001, n=577, k=2048, topk=1, routing="uniform")),
    ("grouped_gemm_masked", GroupedGemmMasked(e=9, c=300, t=2000, n=2112, k=1536, data="wide")),
)  # fmt: skip


def pairs(table: tuple[tuple[str, Case], ...]) -> list[Any]:
    """Each problem with each configuration."""
    return [
        pytest.param(stem, case, config, id=f"{stem}-{'-'.join(map(str, config))}-{case.label}")
        for stem, case in table
        for config in CONFIGS
    ]


@cache
def problem(stem: str, case: Case, device: str) -> tuple[dict[str, Any], torch.Tensor]:
    """Arguments and the reference's result, worked out once for all configurations."""
    arguments = case.inputs(device)
    return arguments, call("reference_impl", stem, arguments)


def check(stem: str, case: Case, config: Config, device: str) -> None:
    arguments, want = problem(stem, case, device)
    out = torch.full_like(want, float("nan"))
    MODULES[stem].run(**without_dtype(arguments), out=out, config=config)
    compare_defined(stem, arguments, out, want)


@pytest.mark.parametrize(("stem", "case", "config"), pairs(SMALL))
def test_every_configuration_equals_the_reference(
    stem: str, case: Case, config: Config, device: str
) -> None:
    check(stem, case, config, device)


@pytest.mark.gpu
@pytest.mark.parametrize(("stem", "case", "config"), pairs(LARGE))
def test_and_on_large_problems(stem: str, case: Case, config: Config, device: str) -> None:
    check(stem, case, config, device)


def chosen(stem: str, case: Case) -> Config:
    """The configuration that the launcher takes."""
    with recording() as launches:
        cases.public("kernels", stem)(**case.inputs("meta"))
    options = launches[0].options
    (found,) = [
        config
        for config in CONFIGS
        if (config.block_m, config.block_n, config.registers)
        == (options["BLOCK_M"], options["BLOCK_N"], options.get("maxnreg"))
    ]
    return found


def test_every_configuration_is_chosen_by_a_production_shape() -> None:
    """One that is not is tested, compiled and read for nothing."""
    found = {chosen(stem, case) for stem in STEMS for case in cases.load(stem).CASES if case.bench}
    assert found == set(CONFIGS)
    assert all(128 % config.block_n == 0 for config in CONFIGS)


@BOTH
def test_launches_keep_to_their_multiprocessors(stem: str, case: Any) -> None:
    large = cases.load(stem).CASES[0]
    for sms in (1, 20, HOPPER_SMS):
        with recording() as launches, sm_limit(sms):
            cases.public("kernels", stem)(**large.inputs("meta"))
        assert len(launches) == 1
        assert launches[0].grid[0] <= sms * max(config.programs_per_sm for config in CONFIGS)


@BOTH
def test_scales_of_any_strides(stem: str, case: Any, device: str) -> None:
    arguments = case.inputs(device)
    want = defined(stem, arguments, call("kernels", stem, arguments))
    for name in ("x_scale", "w_scale"):
        scale = arguments[name]
        wide = torch.stack([scale, -scale], dim=-1)
        for other in (scale.contiguous(), scale.mT.contiguous().mT, wide[..., 0]):
            got = call("kernels", stem, arguments | {name: other})
            assert_equal(defined(stem, arguments, got), want, Exact())


@pytest.mark.gpu
@BOTH
def test_a_graph_replays_with_other_counts(stem: str, case: Any, device: str) -> None:
    arguments = case.inputs(device)
    for name in ("x", "x_scale"):  # no NaN, which was padding only for the first counts
        part = arguments[name]
        part.copy_(torch.where(part.float().isnan(), 0.5, part.float()).to(part.dtype))
    call("kernels", stem, arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call("kernels", stem, arguments)
    for counts in ([0] * 5, [1, 0, 131, 0, 4], [5, 5, 5, 5, 5], [0, 0, 0, 0, 129]):
        arguments["counts"].copy_(torch.tensor(counts, dtype=torch.int32))
        graph.replay()
        want = call("reference_impl", stem, arguments)
        compare_defined(stem, arguments, captured, want)


FP8 = torch.float8_e4m3fn
GOOD: dict[str, dict[str, Any]] = {
    "grouped_gemm_contiguous": {
        "x": torch.zeros(256, 256).to(FP8), "x_scale": torch.ones(256, 2),
        "w": torch.zeros(2, 130, 256).to(FP8), "w_scale": torch.ones(2, 2, 2),
        "counts": torch.ones(2, dtype=torch.int32),
    },
    "grouped_gemm_masked": {
        "x": torch.zeros(2, 5, 256).to(FP8), "x_scale": torch.ones(2, 5, 2),
        "w": torch.zeros(2, 130, 256).to(FP8), "w_scale": torch.ones(2, 2, 2),
        "counts": torch.ones(2, dtype=torch.int32),
    },
}  # fmt: skip
TURNED = GOOD["grouped_gemm_masked"]["w"].view(torch.uint8).mT.contiguous().mT.view(FP8)
# Of both layouts; those of one layout below.
REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("w", torch.zeros(130, 256).to(FP8), ValueError, r"expected shape \[any, any, any\], got .*"),
    ("w", torch.zeros(2, 130, 200).to(FP8), ValueError, "expected K to be a multiple of 128, got 200"),
    ("w", torch.zeros(2, 130, 0).to(FP8), ValueError, "K: expected 128 to .*, got 0"),
    ("w", TURNED, ValueError, "expected a contiguous tensor, got strides .*"),
    ("w_scale", torch.ones(2, 1, 2), ValueError, r"expected shape \[2, 2, 2\], got \[2, 1, 2\]"),
    ("w_scale", torch.ones(1, 2, 2), ValueError, r"expected shape \[2, 2, 2\], got \[1, 2, 2\]"),
    ("counts", torch.ones(3, dtype=torch.int32), ValueError, r"expected shape \[2\], got \[3\]"),
    ("counts", torch.ones(2, dtype=torch.int64), TypeError, "expected dtype int32, got int64"),
    ("counts", torch.ones(4, dtype=torch.int32)[::2], ValueError, "expected a contiguous tensor, .*"),
    ("out_dtype", torch.float16, TypeError, "expected bfloat16 or float32, got float16"),
]  # fmt: skip


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(("name", "bad", "error", "said"), REFUSED)
def test_refused(
    stem: str, name: str, bad: Any, error: type[Exception], said: str, device: str
) -> None:
    arguments = GOOD[stem] | {name: bad}
    arguments = on(device, arguments)
    refuse(stem, arguments, error, f"{name}: {said}")


def test_refused_rows(device: str) -> None:
    for stem, bad in (
        ("grouped_gemm_contiguous", torch.zeros(256, 128)),
        ("grouped_gemm_masked", torch.zeros(3, 5, 256)),
    ):
        good = {name: part.to(device) for name, part in GOOD[stem].items()}
        shape = r"\[any, 256\]" if bad.dim() == 2 else r"\[2, any, 256\]"
        got = r"\[" + ", ".join(map(str, bad.shape)) + r"\]"
        said = f"x: expected shape {shape}, got {got}"
        refuse(stem, good | {"x": bad.to(FP8).to(device)}, ValueError, said)
        scale = good["x_scale"][..., :1]
        refuse(
            stem,
            good | {"x_scale": scale},
            ValueError,
            r"x_scale: expected shape .*, 2\], got .*, 1\]",
        )
        call("kernels", stem, good)  # and these are good


def test_no_experts_and_no_columns(device: str) -> None:
    for stem, good in GOOD.items():
        arguments = {name: part.to(device) for name, part in good.items()}
        for e, n in ((0, 130), (2, 0)):
            few = arguments | {"w": arguments["w"][:e, :n].contiguous()}
            few |= {"w_scale": few["w_scale"][:e, : -(-n // 128)], "counts": few["counts"][:e]}
            if stem == "grouped_gemm_masked":
                few |= {name: few[name][:e] for name in ("x", "x_scale")}
            assert call("kernels", stem, few).shape == call("reference_impl", stem, few).shape


def test_average_rows() -> None:
    """What the launcher thinks an expert has: exact for even groups, and never 0."""
    for rows in (1, 127, 128, 4096):
        assert _grouped_gemm.choose(rows, 256, 4096, 7168, HOPPER_SMS) in CONFIGS
    assert grouped_gemm_contiguous.average(256 * 255, 256) == 128
    assert grouped_gemm_contiguous.average(0, 256) == 1

"""Counts that make no sense: of every operator that takes them, kernel and reference follow one rule
(docs/decisions/0004), and touch nothing beside the rows that it names.

What is no result holds a pattern, in the kernel's memory and in the reference's, and is compared as well.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from benchmarks import cases
from benchmarks.compare import Exact, assert_equal
from kernels import act_quant_transpose
from kernels._device import Plans, sm_limit
from kernels._grouped import MOST_SUMMED
from tests._guards import PATTERN, guarded
from tests._operands import on
from tests.test_inputs import refuse

pytestmark = pytest.mark.usefixtures("products")
BF16, E4M3 = torch.bfloat16, torch.float8_e4m3fn
ROWS, CAPACITY, EXPERTS = 142, 13, 4  # no group of the buffer's last rows is whole
GROUPS = -(-ROWS // 128)
LIMIT = 2**31 - 1
COUNTS = (
    [2, LIMIT, 1, 1],
    [LIMIT, LIMIT, 5, 5],
    [-1, -(2**31), 3, -300],
    [5, 2**31 - 256, 129, 7],  # the third segment would begin at -128
)
MORE = (
    [0, -5, 200, LIMIT],
    [2**30] * 4,  # 0 in 32 bits
    [3, -200, 20, 0],
)
EVERY = [*COUNTS, *(pytest.param(counts, marks=pytest.mark.long) for counts in MORE)]


def numbers(*shape: int, dtype: torch.dtype = E4M3) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))
    return drawn.to(dtype)


def scales(*shape: int) -> torch.Tensor:
    return torch.exp2(numbers(*shape, dtype=torch.float32).round())


RETILED = {"x": numbers(ROWS, 256), "x_scale": scales(ROWS, 2), "pow2_scale": True}
WEIGHTS = {"w": numbers(EXPERTS, 72, 128), "w_scale": scales(EXPERTS, 1, 1)}
# Name -> (operator, how its rows lie, all operands but the counts, of which every number may be read).
PROBLEMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "act_quant": ("act_quant", "segments", {"x": numbers(ROWS, 256, dtype=BF16)}),
    "bf16": ("act_quant_transpose", "transposed", {"x": numbers(ROWS, 144, dtype=BF16)}),
    "e4m3": ("act_quant_transpose", "transposed", RETILED),
    "lasting": ("act_quant_transpose", "transposed", RETILED),
    "swiglu_quant": (
        "swiglu_quant", "segments",
        {"gate_up": numbers(ROWS, 256, dtype=BF16), "row_weight": scales(ROWS)},
    ),
    "swiglu_quant_masked": (
        "swiglu_quant", "masked",
        {"gate_up": numbers(EXPERTS * CAPACITY, 256, dtype=BF16), "capacity": CAPACITY},
    ),
    "swiglu_quant_backward": (
        "swiglu_quant_backward", "segments",
        {
            "grad_h": numbers(ROWS, 128, dtype=BF16), "gate_up_q": numbers(ROWS, 256),
            "gate_up_scale": scales(ROWS, 2), "row_weight": scales(ROWS),
        },
    ),
    "grouped_gemm_contiguous": (
        "grouped_gemm_contiguous", "segments",
        {"x": numbers(ROWS, 128), "x_scale": scales(ROWS, 1)} | WEIGHTS,
    ),
    "grouped_gemm_masked": (
        "grouped_gemm_masked", "masked",
        {"x": numbers(EXPERTS, CAPACITY, 128), "x_scale": scales(EXPERTS, CAPACITY, 1)} | WEIGHTS,
    ),
    "grouped_gemm_wgrad": (
        "grouped_gemm_wgrad", "sums",
        {
            "grad_t": numbers(72, GROUPS * 128), "grad_scale": scales(GROUPS, 72),
            "x_t": numbers(128, GROUPS * 128), "x_scale": scales(GROUPS, 128),
        },
    ),
}  # fmt: skip


def named(layout: str, counts: list[int]) -> list[int]:
    """What these counts name: rows, columns of a transposed result, experts whose sum is not 0."""
    held = [max(count, 0) for count in counts]
    if layout == "masked":
        return [e * CAPACITY + row for e, n in enumerate(held) for row in range(min(n, CAPACITY))]
    starts = [sum(-(-n // 128) * 128 for n in held[:expert]) for expert in range(EXPERTS + 1)]
    if layout == "transposed":
        return list(range(min(starts[-1], ROWS)))
    if layout == "sums":
        return [e for e, n in enumerate(held) if n and starts[e] < ROWS]
    return [r for e, n in enumerate(held) for r in range(starts[e], min(starts[e] + n, ROWS))]


def written(layout: str, results: tuple[torch.Tensor, ...]) -> list[list[int]]:
    """Of each result, what holds anything else than what was there before."""
    if layout == "sums":
        return [part.flatten(1).any(dim=1).nonzero()[:, 0].tolist() for part in results]
    parts = results
    if layout == "transposed":
        q_t, scale, *_ = results
        parts = (q_t.view(torch.uint8).T, scale.repeat_interleave(128, dim=0)[:ROWS])
    rows = EXPERTS * CAPACITY if layout == "masked" else ROWS
    bits = [part.flatten().view(torch.uint8).view(rows, -1) for part in parts]
    return [(part != PATTERN).any(dim=1).nonzero()[:, 0].tolist() for part in bits]


@pytest.mark.parametrize("counts", EVERY, ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_they_name_the_same_rows_everywhere(
    name: str, counts: list[int], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem, layout, operands = PROBLEMS[name]
    held = torch.tensor(counts, dtype=torch.int32)
    arguments = on(device, operands | {"counts": held})
    if name == "lasting":
        monkeypatch.setattr(act_quant_transpose, "SPARSE", 0)
        monkeypatch.setattr(act_quant_transpose, "_plans", Plans())
    found = []
    for side in ("kernels", "reference_impl"):
        with guarded(monkeypatch), sm_limit(1) if name == "lasting" else nullcontext():
            if layout == "sums":
                arguments["out"] = torch.empty(EXPERTS, 72, 128, device=device).zero_()
            results = cases.public(side, stem)(**arguments)
        results = results if isinstance(results, tuple) else (results,)
        found.append(results)
        touched = written(layout, tuple(part for part in results if part is not None))
        assert touched == [named(layout, counts)] * len(touched)
    assert_equal(found[0], found[1], Exact(), names=cases.load(stem).OUTPUTS)


@pytest.mark.parametrize("counts", EVERY, ids=str)
def test_a_load_is_any_number(counts: list[int], device: str) -> None:
    """Of bias_update: counts are no layout there, and each is the number that it is."""
    load = torch.tensor(counts, dtype=torch.int32, device=device)
    above = [count * EXPERTS - sum(counts) for count in counts]
    want = [(-1.0 if one > 0 else 1.0) if one else 0.0 for one in above]
    for side in ("kernels", "reference_impl"):
        bias = cases.public(side, "bias_update")(torch.zeros(EXPERTS, device=device), load, 1.0)
        assert bias.tolist() == want


def test_so_many_rows_that_sums_might_not_fit() -> None:
    """Refused before anything is launched: sums over experts, of groups of 4 rows or more, have 32 bits."""
    assert all(experts * (MOST_SUMMED // experts // 4 + 1) < 2**31 for experts in (1, 7, 1024))
    for stem, layout, operands in PROBLEMS.values():
        if stem.startswith("grouped_gemm") or layout == "masked":
            continue  # in 64 bits, or without a sum over segments
        few = 1 << 22
        wide = {
            name: part.to("meta")[:1].expand(few + 1, *part.shape[1:]) if torch.is_tensor(part) else part
            for name, part in operands.items()
        }  # fmt: skip
        counts = torch.empty(1024, dtype=torch.int32, device="meta")
        said = rf"counts: E \* R: expected 0 to {MOST_SUMMED}, got {MOST_SUMMED + 1024}"
        refuse(stem, wide | {"counts": counts}, ValueError, said)

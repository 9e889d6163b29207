"""How large products are checked: parts cover all of a result, a sample touches all that matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases, measure, parity
from benchmarks.cases import _grouped as grouped
from benchmarks.cases.fp8_gemm import Fp8Gemm
from benchmarks.cases.grouped_gemm_contiguous import GroupedGemmContiguous
from benchmarks.cases.grouped_gemm_masked import GroupedGemmMasked
from benchmarks.cases.grouped_gemm_wgrad import GroupedGemmWgrad
from harness import exact

if TYPE_CHECKING:
    from benchmarks.cases import Case

pytestmark = pytest.mark.usefixtures("products")
PROBLEMS: dict[str, Any] = {
    "fp8_gemm": Fp8Gemm(m=150, n=130, k=128),
    "grouped_gemm_contiguous": GroupedGemmContiguous(
        e=7, t=60, n=130, k=128, topk=8, routing="sizes"
    ),
    "grouped_gemm_masked": GroupedGemmMasked(
        e=7, c=130, t=60, n=130, k=128, topk=8, routing="sizes", over=5
    ),
    "grouped_gemm_wgrad": GroupedGemmWgrad(
        e=4, t=90, n=130, k=136, topk=2, routing="no_middle", spare=1
    ),
}
EACH = pytest.mark.parametrize(("stem", "case"), list(PROBLEMS.items()), ids=list(PROBLEMS))
ELEMENTS = (1, 9000, 40_000, 1 << 30)  # of a part: one slab, a few experts, all


def sides(stem: str, case: Case, device: str) -> tuple[dict[str, Any], torch.Tensor]:
    """Arguments, and the kernel's result."""
    arguments = case.inputs(device)
    return arguments, cases.public("kernels", stem)(**arguments)


def numbered(like: torch.Tensor) -> torch.Tensor:
    """Each element's own number in a result like this."""
    return torch.arange(like.numel(), device=like.device).reshape(like.shape)


@pytest.mark.parametrize("elements", ELEMENTS)
@EACH
def test_parts_are_all_of_it_once(stem: str, case: Case, elements: int, device: str) -> None:
    """Their defined elements are those of the whole, and each is what its own problem gives."""
    arguments, got = sides(stem, case, device)
    places = numbered(got)
    seen = []
    for _, part, take in cases.load(stem).parts(arguments, elements):
        want = cases.call(cases.public("reference_impl", stem), part)
        piece = take(got)
        assert piece.shape == want.shape
        both = [parity.defined(stem, part, one).contiguous() for one in (piece, want)]
        assert torch.equal(*(one.view(torch.uint8) for one in both))
        assert both[0].numel() <= max(elements, 64 * 136)
        seen.append(parity.defined(stem, part, take(places)).flatten())
    every = parity.defined(stem, arguments, places).flatten()
    assert torch.equal(torch.cat(seen).sort().values, every.sort().values)
    assert len(seen) > 1 or elements > got.numel()


@EACH
def test_a_sample_touches_everything(stem: str, case: Case, device: str) -> None:
    """Every expert with rows, every slab of 64 of its rows, its first and last row, all columns."""
    arguments, got = sides(stem, case, device)
    name, part, take = cases.load(stem).sample(arguments)
    want = cases.call(cases.public("reference_impl", stem), part)
    both = [parity.defined(stem, part, one).contiguous() for one in (take(got), want)]
    assert torch.equal(*(one.view(torch.uint8) for one in both))
    assert name
    taken = set(parity.defined(stem, part, take(numbered(got))).flatten().tolist())
    for rows in segments(stem, arguments, got):
        for start in range(0, len(rows), 64):
            slab = [set(row.tolist()) <= taken for row in rows[start : start + 64]]
            assert any(slab)
            assert start or slab[0]
            assert start + 64 < len(rows) or slab[-1]
    assert len(taken) < got.numel()


def segments(stem: str, arguments: dict[str, Any], got: torch.Tensor) -> list[torch.Tensor]:
    """Numbers of the elements of each expert's rows."""
    places = numbered(got)
    if stem == "fp8_gemm":
        return [places]
    if stem == "grouped_gemm_wgrad":
        return list(places)
    counts = arguments["counts"].clamp(min=0).tolist()
    if stem == "grouped_gemm_masked":
        return [one[:count] for one, count in zip(places, counts, strict=True)]
    return [places[a : a + n] for a, n in zip(grouped.starts(counts), counts, strict=False)]


def check(stem: str, case: Case, arguments: dict[str, Any], got: torch.Tensor) -> parity.Parity:
    return parity.check(stem, case, arguments, got)


@EACH
def test_a_large_problem_is_sampled_and_still_watched(
    stem: str, case: Case, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong slab, tile or expert is found though only some rows are modelled."""
    monkeypatch.setattr(parity, "LARGE", 0)
    monkeypatch.setattr(parity, "DENSE", 9000)
    assert parity.sampled(stem, case)
    arguments, got = sides(stem, case, device)
    right = check(stem, case, arguments, got)
    assert right.ok, right.message
    assert right.differing == 0
    largest, rms = parity.accuracy(stem, case, arguments, got)
    assert 0 <= rms <= largest
    assert rms < 2.0**-8  # of a rounding to bf16
    for rows in segments(stem, arguments, got):
        if len(rows) < 2:
            continue
        zeroed, twice = got.clone(), got.clone()
        zeroed.view(-1)[rows[-64:, :128].flatten()] = 0
        twice.view(-1)[rows[: len(rows) // 2, -64:].flatten()] *= 2
        for wrong in (zeroed, twice):
            # An expert without rows is 0 throughout.
            if not torch.equal(torch.nan_to_num(wrong.float()), torch.nan_to_num(got.float())):
                assert not check(stem, case, arguments, wrong).ok
    for other in (got[:-1], torch.cat([got, got]), got.double(), got[..., 1:]):
        found = check(stem, case, arguments, other)
        assert not found.ok
        assert "expected" in found.message


@EACH
def test_exact_streams_and_finds_one_bit(stem: str, case: Case, device: str) -> None:
    arguments, got = sides(stem, case, device)

    def found(result: torch.Tensor, memory: int) -> exact.Found:
        (one,) = exact.compare_all(stem, case, arguments, {"launcher": result}, memory=memory)
        return one

    whole = parity.defined(stem, arguments, got).numel()
    for memory in (1, 9000 * exact.ELEMENT, exact.MEMORY):
        right = found(got, memory)
        assert (right.differing, right.elements, right.message) == (0, whole, "")
        assert found(torch.cat([got, got]), memory).message
    bits = {2: torch.int16, 4: torch.int32}[got.itemsize]
    held = [rows for rows in segments(stem, arguments, got) if len(rows)]
    for rows in (held[0], held[-1]):
        wrong = got.clone()
        wrong.view(-1).view(bits)[rows[-1, -1]] ^= 1
        assert found(wrong, 9000 * exact.ELEMENT).differing == 1


def test_experts_share_parts_and_parts_share_experts() -> None:
    """64 rows at least, as many as fit; experts of no rows come along."""
    counts = [0, 3, 128, 0, 300, 5, 0]
    found = list(grouped.runs(counts, 10, 2560))
    assert found == [(0, 4, 0, 128), (4, 5, 0, 256), (4, 5, 256, 300), (5, 7, 0, 5)]
    assert list(grouped.runs(counts, 10, 1)) == [
        (1, 2, 0, 3), (2, 3, 0, 64), (2, 3, 64, 128),
        *((4, 5, row, min(row + 64, 300)) for row in range(0, 300, 64)),
        (5, 6, 0, 5), (6, 7, 0, 0),
    ]  # fmt: skip
    assert list(grouped.runs([0, 0], 10, 1)) == [(0, 2, 0, 0)]
    assert not list(grouped.runs([], 10, 1))


def test_sampled_rows_come_in_few_numbers() -> None:
    """So that the reference multiplies many experts at once."""
    assert grouped.sampled(0, 4096) == []
    assert grouped.sampled(1, 4096) == [0]
    lengths = {len(grouped.sampled(count, 4096)) for count in range(1, 1000)}
    assert lengths == {1, 2, 4, 8, 16, 32}


def test_one_set_of_buffers_where_one_is_gigabytes() -> None:
    l2 = 50 << 20
    assert measure.buffer_sets(1, l2) == measure.MOST_SETS
    assert measure.buffer_sets(l2, l2) == 2
    assert measure.buffer_sets(l2 // 2, l2) == 4
    assert measure.buffer_sets(1 << 30, l2) == 2
    for stem in ("grouped_gemm_contiguous", "grouped_gemm_masked", "grouped_gemm_wgrad"):
        for case in cases.load(stem).CASES:
            if case.bench:
                cost = case.cost()
                held = cost.bytes + case.untouched().bytes
                # The reference, its copies of operands and the poisoned results fit beside it.
                assert held * (measure.buffer_sets(cost.bytes, l2) + 1) < 40 << 30

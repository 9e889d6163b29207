"""Segments of experts: device, reference and a plain loop agree on whose row is whose."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from benchmarks.compare import Exact, assert_equal
from kernels import _grouped as device_code
from kernels import _retile
from reference_impl import _grouped
from tests import _counts
from tests._counts import LIMIT


@triton.jit
def _owners(counts_ptr, rows_ptr, out_ptr, experts, rows, EXPERTS: tl.constexpr):
    place = tl.program_id(0)
    row = tl.load(rows_ptr + place)
    ends = device_code.segment_ends(counts_ptr, experts, rows, EXPERTS)
    expert, start, end = device_code.owner(counts_ptr, ends, experts, rows, row)
    tl.store(out_ptr + place * 3, expert)
    tl.store(out_ptr + place * 3 + 1, start)
    tl.store(out_ptr + place * 3 + 2, end)


COUNTS = (*_counts.COUNTS, [LIMIT] * 1024)


def named(counts: list[int]) -> str:
    return str(counts[:5])


# A few rows, and about as many as so many experts may have.
ROWS = pytest.mark.parametrize("rows", [300, 1000, LIMIT])


@ROWS
@pytest.mark.parametrize("counts", COUNTS, ids=named)
def test_owner(counts: list[int], rows: int, device: str) -> None:
    rows = min(rows, device_code.MOST_SUMMED // len(counts), LIMIT - 128)
    starts, total = [], 0
    for count in counts:
        starts.append(total)
        total += -(-max(count, 0) // 128) * 128
    ends = [start + max(count, 0) for start, count in zip(starts, counts, strict=True)]
    borders = {*starts, *ends, total, rows}
    asked = sorted({b + step for b in borders for step in (-1, 0, 1) if 0 <= b + step < rows})
    held, places, got = (
        torch.tensor(values, dtype=torch.int32, device=device)
        for values in (counts, asked, [[-1] * 3] * len(asked))
    )
    _owners[(len(asked),)](
        held, places, got, len(counts), rows, EXPERTS=triton.next_power_of_2(len(counts))
    )
    for row, (expert, start, end) in zip(asked, got.tolist(), strict=True):
        own = [
            e for e, first in enumerate(starts) if first <= row < first + -(-counts[e] // 128) * 128
        ]
        if own:
            assert (expert, start, end) == (own[0], starts[own[0]], min(ends[own[0]], rows))
        else:
            assert (expert, end) == (len(counts), 0)


@triton.jit
def _places(counts_ptr, out_ptr, experts, rows, EXPERTS: tl.constexpr):
    starts, ends, groups = _retile._segments(counts_ptr, experts, rows, EXPERTS)
    places = tl.arange(0, EXPERTS)
    tl.store(out_ptr + places * 3, starts)
    tl.store(out_ptr + places * 3 + 1, ends)
    tl.store(out_ptr + places * 3 + 2, groups)


@ROWS
@pytest.mark.parametrize("counts", COUNTS, ids=named)
def test_lasting_programs_know_all_segments(counts: list[int], rows: int, device: str) -> None:
    rows = min(rows, device_code.MOST_SUMMED // len(counts), LIMIT - 128)
    padded = triton.next_power_of_2(len(counts))
    got = torch.empty(padded, 3, dtype=torch.int32, device=device)
    held = torch.tensor(counts, dtype=torch.int32, device=device)
    _places[(1,)](held, got, len(counts), rows, EXPERTS=padded)
    start, last, want = 0, -(-rows // 128), []
    for count in counts:
        want.append((min(start, last * 128), min(start + max(count, 0), rows)))
        start += -(-max(count, 0) // 128) * 128
    for (first, end, groups), (start_, end_) in zip(got.tolist(), want, strict=False):
        assert (first, end, groups) == (start_, end_, min(start // 128, last))


@pytest.mark.parametrize("counts", COUNTS)
def test_rows_of_experts(counts: list[int]) -> None:
    held = torch.tensor(counts, dtype=torch.int32)
    starts = _grouped.segment_starts(held)
    for rows in (min(int(starts[-1]), 300), 130):
        found = _grouped.rows_of_experts(held, rows)
        assert len(found) == len(counts)
        for expert, (own, count) in enumerate(zip(found, counts, strict=True)):
            want = [row for row in range(rows) if starts[expert] <= row < starts[expert] + count]
            assert_equal(own, torch.tensor(want, dtype=torch.int64), Exact())


@pytest.mark.parametrize("module", [_grouped, device_code])
def test_expert_rows_always_suffice(module: object) -> None:
    """Against the worst of all ways to spread rows over experts, found by trying."""
    for routed in range(1, 7):
        for experts in (1, 2, 5):
            worst = [1] * (min(routed, experts) - 1) + [routed - min(routed, experts) + 1]
            needed = int(_grouped.segment_starts(torch.tensor(worst))[-1])
            assert module.expert_rows(routed, 1, experts) >= needed  # type: ignore[attr-defined]
    assert module.expert_rows(0, 8, 256) == 0  # type: ignore[attr-defined]
    assert module.expert_rows(4096, 8, 256) == 65280  # type: ignore[attr-defined]
    # A segment per row of 129: the padding of each is as large as it gets.
    assert module.expert_rows(258, 1, 2) >= 512  # type: ignore[attr-defined]

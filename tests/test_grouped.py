"""Segments of experts: device, reference and a plain loop agree on whose row is whose."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from benchmarks.compare import Exact, assert_equal
from kernels import _grouped as device_code
from reference_impl import _grouped


@triton.jit
def _owners(counts_ptr, rows_ptr, out_ptr, experts, EXPERTS: tl.constexpr):
    place = tl.program_id(0)
    row = tl.load(rows_ptr + place)
    ends = device_code.segment_ends(counts_ptr, experts, EXPERTS)
    expert, start, end = device_code.owner(counts_ptr, ends, experts, row)
    tl.store(out_ptr + place * 3, expert)
    tl.store(out_ptr + place * 3 + 1, start)
    tl.store(out_ptr + place * 3 + 2, end)


COUNTS = ([1], [0], [128, 129, 127], [0, 0, 5], [5, 0, 0], [0, 3, 0, 0, 256], [0, 0, 0], [1] * 9)


@pytest.mark.parametrize("counts", COUNTS)
def test_owner(counts: list[int], device: str) -> None:
    starts, total = [], 0
    for count in counts:
        starts.append(total)
        total += -(-count // 128) * 128
    ends = [start + count for start, count in zip(starts, counts, strict=True)]
    rows = sorted(
        {row + step for row in (*starts, *ends, total) for step in (-1, 0, 1) if row + step >= 0}
    )
    held, places, got = (
        torch.tensor(values, dtype=torch.int32, device=device)
        for values in (counts, rows, [[-1] * 3] * len(rows))
    )
    _owners[(len(rows),)](
        held, places, got, len(counts), EXPERTS=triton.next_power_of_2(len(counts))
    )
    for row, (expert, start, end) in zip(rows, got.tolist(), strict=True):
        own = [e for e, c in enumerate(counts) if starts[e] <= row < starts[e] + -(-c // 128) * 128]
        if own:
            assert (expert, start, end) == (own[0], starts[own[0]], ends[own[0]])
        else:
            assert (expert, end) == (len(counts), 0)


@pytest.mark.parametrize("counts", COUNTS)
def test_rows_of_experts(counts: list[int]) -> None:
    held = torch.tensor(counts, dtype=torch.int32)
    starts = _grouped.segment_starts(held)
    for rows in (int(starts[-1]), 130):
        found = _grouped.rows_of_experts(held, rows)
        assert len(found) == len(counts)
        for expert, (own, count) in enumerate(zip(found, counts, strict=True)):
            want = [row for row in range(starts[expert], starts[expert] + count) if row < rows]
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

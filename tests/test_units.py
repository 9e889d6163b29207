"""Groups of the rows that are there: device code and a plain loop agree on where each lies."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from kernels import _units
from tests import _counts

ROWS = tl.constexpr(8)
COUNTS = (*_counts.COUNTS, [8] * 9, [2**31 - 1, 5], [2**30] * 3, [-(2**31), 3])


@triton.jit
def _places(
    counts_ptr, out_ptr, experts, rows, capacity, EXPERTS: tl.constexpr, MASKED: tl.constexpr
):
    counts, lasts = _units.groups(counts_ptr, experts, rows, capacity, ROWS, EXPERTS, MASKED)
    begin, stop = _units.share(_units.total(lasts, rows, ROWS, MASKED))
    for group in range(begin, stop):
        first, end = _units.find(counts, lasts, rows, capacity, group, ROWS, MASKED)
        tl.store(out_ptr + group * 3, first)
        tl.store(out_ptr + group * 3 + 1, end)
        tl.atomic_add(out_ptr + group * 3 + 2, 1)


def expected(counts: list[int], rows: int, capacity: int) -> list[tuple[int, int, int]]:
    """(first row, end of its expert's rows, once) of each group, expert by expert."""
    found, start = [], 0
    for count in counts:
        here = min(max(count, 0), capacity or max(rows - start, 0))
        found += [(first, start + here, 1) for first in range(start, start + here, ROWS.value)]
        start += capacity or -(-max(count, 0) // 128) * 128
    return found


@pytest.mark.parametrize("programs", [1, 3, 64])
@pytest.mark.parametrize("capacity", [0, 13, 256])
@pytest.mark.parametrize("counts", COUNTS)
def test_every_group_is_found_once(
    counts: list[int], capacity: int, programs: int, device: str
) -> None:
    """capacity: 0 for segments."""
    rows = len(counts) * capacity or 260
    want = expected(counts, rows, capacity)
    most = len(counts) * -(-rows // ROWS.value)
    got = torch.zeros(most + 1, 3, dtype=torch.int32, device=device)
    held = torch.tensor(counts, dtype=torch.int32, device=device)
    _places[(programs,)](
        held, got, len(counts), rows, capacity,
        EXPERTS=triton.next_power_of_2(len(counts)), MASKED=bool(capacity),
    )  # fmt: skip
    places = [tuple(row) for row in got.tolist()]
    assert [place for place in places if place[0] < place[1]] == want
    # Others lie behind the buffer, and are no more than it has groups.
    assert all(place in ((rows, rows, 1), (0, 0, 0)) for place in places if place[0] >= place[1])
    assert sum(once for _, _, once in places) <= max(len(want), -(-rows // ROWS.value))

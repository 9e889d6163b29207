"""The clock's evidence: when a timing counts as throttled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import worker
from benchmarks.measure import Timing


def reading(mhz: int, *reasons: str) -> dict[str, Any]:
    return {"sm_mhz": mhz, "sm_max_mhz": 1980, "throttle": list(reasons)}


@pytest.mark.parametrize(
    ("before", "after", "throttled"),
    [
        (reading(1980), reading(1980), False),
        (
            reading(1965, "power cap"),
            reading(1965, "power cap"),
            False,
        ),  # stands, and slows nothing
        (reading(1440, "power cap"), reading(1980), True),
        (reading(1980), reading(1725, "thermal"), True),
        (reading(345), reading(1980), False),  # idle before: no reason stands
    ],
)
def test_throttled(before: dict[str, Any], after: dict[str, Any], throttled: bool) -> None:
    assert (
        Timing([1.0], [], lambda: None, {"before": before, "after": after}).throttled is throttled
    )


def test_no_evidence_is_no_throttling() -> None:
    assert not Timing([1.0], [], lambda: None).throttled


def test_what_a_kernel_leaves_unwritten_is_seen_in_any_layout() -> None:
    """The timed outputs hold ones in every bit before the replay that is compared."""
    columns = torch.zeros(4, 6).mT
    vector = torch.zeros(5, 8, dtype=torch.int32)[:, 0]
    for tensor in (torch.zeros(3, 4, dtype=torch.bfloat16), columns, vector, torch.zeros(0)):
        worker._poison(tensor)
        bits = tensor.contiguous().view(torch.uint8)
        assert bits.tolist() == torch.full_like(bits, 0xFF).tolist()
    assert vector._base is not None
    assert (vector._base[:, 1:] == 0).all()
    worker._poison(None)

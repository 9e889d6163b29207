"""expert_slots: the definition against a plain loop, and what holds beyond parity."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.cases._routing import KINDS, STRAYS, routing
from benchmarks.compare import Exact, assert_equal
from kernels._device import recording
from kernels.expert_slots import ALONE, CHUNKS, PAIRS, expert_slots
from reference_impl import expert_slots as reference
from tests.test_inputs import refuse

NAMES = ("slot", "counts")


def by_loop(lists: list[list[int]], experts: int, capacity: int | None) -> Any:
    """(slots, counts), one entry after the other."""
    counts = [sum(line.count(expert) for line in lists) for expert in range(experts)]
    starts, row = [], 0
    for expert, count in enumerate(counts):
        starts.append(row if capacity is None else expert * capacity)
        row += -(-count // 128) * 128
    seen, slots = [0] * experts, []
    for line in lists:
        slots.append([-1] * len(line))
        for k, expert in enumerate(line):
            if 0 <= expert < experts:
                if capacity is None or seen[expert] < capacity:
                    slots[-1][k] = starts[expert] + seen[expert]
                seen[expert] += 1
    return slots, counts


@pytest.mark.parametrize("capacity", [None, 3, 150])
@pytest.mark.parametrize("kind", KINDS)
def test_the_definition(kind: str, capacity: int | None) -> None:
    drawn = routing(kind, 100, 20, 4, torch.Generator().manual_seed(3))
    slot, counts = reference.expert_slots(drawn, 20, capacity)
    assert (slot.tolist(), counts.tolist()) == by_loop(drawn.tolist(), 20, capacity)
    assert slot.dtype == counts.dtype == torch.int32


@pytest.mark.parametrize(
    "entries",
    [1, PAIRS, PAIRS + 1, ALONE - 1, ALONE, ALONE + 1, PAIRS * CHUNKS, PAIRS * CHUNKS + 1],
)
def test_where_the_work_is_cut(entries: int, device: str) -> None:
    """One entry a token, about the borders of pairs, of one launch, and of a second round."""
    drawn = routing("zipf", entries, 5, 1, torch.Generator().manual_seed(1)).to(device)
    assert_equal(
        expert_slots(drawn, 5), reference.expert_slots(drawn, 5), Exact(), names=NAMES
    )  # fmt: skip


def test_launches() -> None:
    """One for few tokens, and never more than two, of at most as many programs as an H200 holds."""
    for tokens, count in ((0, 1), (64, 1), (65, 2), (4096, 2), (16384, 2), (1 << 20, 2)):
        drawn = torch.empty(tokens, 8, dtype=torch.int64, device="meta")
        with recording() as launches:
            expert_slots(drawn, 256)
        assert len(launches) == count
        assert all(1 <= launch.grid[0] <= CHUNKS for launch in launches)


@pytest.mark.parametrize("stray", [-1, 16, *STRAYS])
def test_a_number_that_is_no_expert(stray: int, device: str) -> None:
    """It moves nobody: the others stand as if it were not in the list."""
    drawn = routing("uniform", 40, 16, 3, torch.Generator().manual_seed(2)).to(device)
    drawn[::3, 1] = stray
    slot, counts = expert_slots(drawn, 16)
    assert (slot[::3, 1] == -1).all()
    kept = drawn.cpu().flatten()
    kept = kept[(kept >= 0) & (kept < 16)]
    alone, alone_counts = expert_slots(kept[:, None].to(device), 16)
    assert_equal(slot[slot >= 0], alone.flatten(), Exact())
    assert_equal(counts, alone_counts, Exact())


def test_no_two_share_a_row(device: str) -> None:
    drawn = routing("duplicate", 65, 9, 8, torch.Generator().manual_seed(4)).to(device)
    for capacity in (None, 4):
        slot, _ = expert_slots(drawn, 9, capacity)
        taken = slot[slot >= 0]
        assert taken.unique().numel() == taken.numel()


LISTS = torch.zeros(4, 2, dtype=torch.int64)
WHOLE = "a whole number"
REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("topk_idx", LISTS.int(), TypeError, "topk_idx: expected dtype int64, got int32"),
    ("topk_idx", LISTS.T, ValueError, r"topk_idx: expected a contiguous tensor, got .*\(1, 2\)"),
    ("topk_idx", LISTS[:, :0], ValueError, "topk_idx: K: expected 1 to 32, got 0"),
    ("topk_idx", LISTS.new_zeros(1, 33), ValueError, "topk_idx: K: expected 1 to 32, got 33"),
    ("num_experts", 0, ValueError, "num_experts: expected 1 to 1024, got 0"),
    ("num_experts", 1025, ValueError, "num_experts: expected 1 to 1024, got 1025"),
    ("num_experts", 8.0, TypeError, f"num_experts: expected {WHOLE}, got float"),
    ("num_experts", True, TypeError, f"num_experts: expected {WHOLE}, got bool"),
    ("capacity", 0, ValueError, "capacity: expected 1 to 268435455, got 0"),
    ("capacity", 1 << 28, ValueError, "capacity: expected 1 to 268435455, got 268435456"),
    ("capacity", "8", TypeError, f"capacity: expected {WHOLE}, got str"),
]


@pytest.mark.parametrize(("name", "value", "error", "said"), REFUSED)
def test_refused(name: str, value: Any, error: type[Exception], said: str, device: str) -> None:
    arguments: dict[str, Any] = {"topk_idx": LISTS, "num_experts": 8, "capacity": 8}
    arguments[name] = value
    arguments["topk_idx"] = arguments["topk_idx"].to(device)
    refuse("expert_slots", arguments, error, said)


def test_rows_past_int32_are_refused() -> None:
    drawn = torch.empty(1 << 27, 16, dtype=torch.int64, device="meta")
    with recording(), pytest.raises(ValueError, match=r"^topk_idx: rows: expected 0 to 2147483647"):
        expert_slots(drawn, 256)
    with recording() as launches:
        expert_slots(drawn[: (1 << 27) - 4096], 256)
    assert len(launches) == 2


@pytest.mark.gpu
def test_a_graph_replays_with_other_counts(device: str) -> None:
    """From all tokens to one expert to none at all, in one graph."""
    lists = {
        kind: routing(kind, 4096, 256, 8, torch.Generator().manual_seed(5)).to(device)
        for kind in ("uniform", "single", "none", "zipf")
    }
    held = lists["uniform"].clone()
    expert_slots(held, 256)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = expert_slots(held, 256)
    for drawn in lists.values():
        held.copy_(drawn)
        graph.replay()
        assert_equal(captured, reference.expert_slots(drawn, 256), Exact(), names=NAMES)

"""Problems of expert_slots: the lists of DeepSeek-V3's router, ranks of expert parallelism, edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._routing import KINDS, routing
from benchmarks.compare import Exact

OUTPUTS = ("slot", "counts")
TOLERANCE = Exact()  # whole numbers


@dataclass(frozen=True)
class ExpertSlots(Case):
    """``t`` tokens with lists of ``k`` of ``e`` experts, drawn by ``routing``; rows an expert has in a
    masked buffer, or None."""

    t: int
    e: int
    k: int
    routing: str = "uniform"
    capacity: int | None = None

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        if device == "meta":
            drawn = torch.empty(self.t, self.k, dtype=torch.int64, device=device)
        else:
            drawn = routing(self.routing, self.t, self.e, self.k, self.generator("cpu"))
        return {
            "topk_idx": drawn.to(device), "num_experts": self.e, "capacity": self.capacity,
        }  # fmt: skip

    def cost(self) -> Cost:
        entries = self.t * self.k
        return Cost(flops=0, read=entries * 8, written=entries * 4 + self.e * 4)

    def interpreter_steps(self) -> int:
        # Each program sums up the table, 8192 numbers at a time, and walks over its 128 entries.
        walked = -(-self.t * self.k // 128)
        programs = min(128, walked)
        return 2 + 2 * walked + programs * -(-programs * max(32, self.e) // 8192)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(counts, counts by torch.bincount): there is no error but a wrong one."""
    drawn = arguments["topk_idx"].flatten()
    drawn = drawn[(drawn >= 0) & (drawn < arguments["num_experts"])]
    return got[1], drawn.bincount(minlength=arguments["num_experts"])


PRODUCTION = (
    *(
        ExpertSlots(t=t, e=256, k=8, layer="moe", bench=t in (1, 128, 4096, 16384))
        for t in (1, 64, 128, 4096, 16384, 65536)
    ),
    ExpertSlots(t=4096, e=256, k=8, routing="zipf", layer="moe", bench=True),
    ExpertSlots(t=16384, e=256, k=8, routing="correlated", layer="moe"),
    ExpertSlots(t=128, e=256, k=8, capacity=128, layer="moe", bench=True),
    *(
        ExpertSlots(t=16384, e=e, k=8, routing="local", layer="moe", bench=e == 8)
        for e in (8, 9, 16)
    ),
)
EDGES = (
    *(ExpertSlots(t=t, e=256, k=8) for t in (0, 7, 65, 129)),
    *(ExpertSlots(t=129, e=32, k=4, routing=kind) for kind in KINDS),
    *(ExpertSlots(t=129, e=9, k=8, routing=kind) for kind in ("local", "stray", "same", "sizes")),
    *(ExpertSlots(t=200, e=1, k=k, routing="single") for k in (1, 8)),
    ExpertSlots(t=385, e=5, k=1, routing="sizes"),
    ExpertSlots(t=70, e=1000, k=8, routing="zipf"),
    ExpertSlots(t=70, e=1024, k=32, routing="stray"),
    ExpertSlots(t=90, e=33, k=7, routing="dropped"),
    # More entries than 128 programs take in one step.
    ExpertSlots(t=2080, e=16, k=8, routing="local"),
    *(
        ExpertSlots(t=t, e=32, k=4, routing=kind, capacity=capacity)
        for t, kind in ((129, "zipf"), (40, "dropped"), (129, "single"))
        for capacity in (1, 5, 200)
    ),
)
CASES = PRODUCTION + EDGES

"""Problems of unpermute_backward: training steps of DeepSeek-V3, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import values
from benchmarks.cases._deepseek_v3 import HIDDEN
from benchmarks.cases._routing import KINDS, buffer_rows, expert_rows_of, place, routed, routing
from benchmarks.compare import Exact

OUTPUTS = ("grad_rows", "grad_weights")
TOLERANCE = Exact()  # one product, and a sum whose order is stated


@dataclass(frozen=True)
class UnpermuteBackward(Case):
    """Gradients of ``t`` tokens of ``h`` channels to ``k`` of ``e`` experts each."""

    t: int
    h: int
    e: int
    k: int
    routing: str = "uniform"
    data: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        r = buffer_rows(self.t, self.k, self.e)
        if device == "meta":
            slot = torch.empty(self.t, self.k, dtype=torch.int32, device=device)
            rows = torch.empty(r, self.h, dtype=torch.bfloat16, device=device)
            grad = torch.empty(self.t, self.h, dtype=torch.bfloat16, device=device)
            weights = torch.empty(self.t, self.k, device=device)
        else:
            drawn = routing(self.routing, self.t, self.e, self.k, self.generator("cpu"))
            slot = place(drawn, self.e)[0].to(device)
            generator = self.generator(device)
            rows = expert_rows_of(slot, (r, self.h), self.data, generator)
            grad = values((self.t, self.h), self.data, generator).to(torch.bfloat16)
            weights = values((self.t, self.k), "positive", generator)
            weights[slot < 0] = float("nan")
        return {"grad": grad, "rows": rows, "slot": slot, "topk_weights": weights}

    def cost(self) -> Cost:
        rows, tokens = routed(self.routing, self.t, self.e, self.k, self.seed)
        entries = self.t * self.k
        return Cost(
            flops=0, read=(rows + tokens) * self.h * 2 + entries * 4 + rows * 4,
            written=rows * self.h * 2 + entries * 4,
        )  # fmt: skip

    def untouched(self) -> Cost:
        rows, tokens = routed(self.routing, self.t, self.e, self.k, self.seed)
        padding = buffer_rows(self.t, self.k, self.e) - rows
        read = (padding + self.t - tokens) * self.h * 2 + (self.t * self.k - rows) * 4
        return Cost(flops=0, read=read, written=padding * self.h * 2)

    def interpreter_steps(self) -> int:
        return self.t * (2 + -(-self.h // 1024))


def defined(arguments: dict[str, Any], outputs: Any) -> Any:
    """Of grad_rows the rows in which a slot stands, in their order."""
    slot = arguments["slot"].flatten()
    return outputs[0][slot[slot >= 0].long().sort().values], outputs[1]


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(gradients of the weights, the same sums in float64)."""
    grad, rows, slot = (arguments[name] for name in ("grad", "rows", "slot"))
    exact = got[1].double().zero_()
    for k in range(slot.shape[1]):
        here = slot[:, k] >= 0
        exact[here, k] = (grad[here].double() * rows[slot[here, k].long()].double()).sum(dim=1)
    return got[1], exact


PRODUCTION = (
    *(
        UnpermuteBackward(t=t, h=HIDDEN, e=256, k=8, layer="moe", bench=t in (4096, 16384))
        for t in (128, 4096, 16384)
    ),
    UnpermuteBackward(t=4096, h=HIDDEN, e=256, k=8, routing="zipf", layer="moe", bench=True),
    UnpermuteBackward(t=16384, h=HIDDEN, e=8, k=8, routing="local", layer="moe"),
    # More elements of the buffer than 32 bits can address.
    UnpermuteBackward(t=37_000, h=HIDDEN, e=256, k=8, layer="moe"),
)
EDGES = (
    *(UnpermuteBackward(t=t, h=256, e=16, k=8) for t in (0, 1, 7, 129)),
    *(
        UnpermuteBackward(t=12, h=256, e=16, k=4, routing=kind)
        for kind in KINDS
        if kind not in ("uniform", "sizes", "zipf", "local")
    ),
    UnpermuteBackward(t=33, h=256, e=9, k=8, routing="local"),
    UnpermuteBackward(t=49, h=128, e=5, k=8, routing="sizes"),
    *(
        UnpermuteBackward(t=7, h=h, e=8, k=k, routing="dropped")
        for h, k in ((128, 1), (1152, 3), (2176, 6))
    ),
    *(
        UnpermuteBackward(t=12, h=1280, e=16, k=8, data=data)
        for data in ("wide", "cancelling", "nonfinite", "zero")
    ),
    UnpermuteBackward(t=3, h=128, e=64, k=32),
    UnpermuteBackward(t=16, h=1024, e=32, k=4, bench=True),
)
CASES = PRODUCTION + EDGES

"""Problems of unpermute: DeepSeek-V3's experts' results back to their tokens, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import values
from benchmarks.cases._deepseek_v3 import HIDDEN
from benchmarks.cases._routing import KINDS, buffer_rows, expert_rows_of, place, routed, routing
from benchmarks.compare import Exact

OUTPUTS = ("out",)
TOLERANCE = Exact()  # sums in the order of k, each term rounded once


@dataclass(frozen=True)
class Unpermute(Case):
    """``k`` rows of ``h`` channels for each of ``t`` tokens, from ``e`` experts; the rows drawn from
    the distribution ``data``, with NaN in the padding."""

    t: int
    h: int
    e: int
    k: int
    weights: bool = False
    routing: str = "uniform"
    data: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        r = buffer_rows(self.t, self.k, self.e)
        if device == "meta":
            slot = torch.empty(self.t, self.k, dtype=torch.int32, device=device)
            rows = torch.empty(r, self.h, dtype=torch.bfloat16, device=device)
            weights = torch.empty(self.t, self.k, device=device)
        else:
            drawn = routing(self.routing, self.t, self.e, self.k, self.generator("cpu"))
            slot = place(drawn, self.e)[0].to(device)
            generator = self.generator(device)
            rows = expert_rows_of(slot, (r, self.h), self.data, generator)
            weights = values((self.t, self.k), "positive", generator)
            # What has no slot has no weight either, and none must be looked at.
            weights[slot < 0] = float("nan")
        return {"rows": rows, "slot": slot, "topk_weights": weights if self.weights else None}

    def cost(self) -> Cost:
        rows, _ = routed(self.routing, self.t, self.e, self.k, self.seed)
        entries = self.t * self.k
        return Cost(
            flops=0, read=rows * self.h * 2 + entries * 4 + rows * 4 * self.weights,
            written=self.t * self.h * 2,
        )  # fmt: skip

    def untouched(self) -> Cost:
        rows, _ = routed(self.routing, self.t, self.e, self.k, self.seed)
        padding = buffer_rows(self.t, self.k, self.e) - rows
        weights = (self.t * self.k - rows) * 4 * self.weights
        return Cost(flops=0, read=padding * self.h * 2 + weights, written=0)

    def interpreter_steps(self) -> int:
        return -(-self.t * -(-self.h // 1024) * (self.k + 1) // 4)


@dataclass(frozen=True)
class UnpermuteAdd(Unpermute):
    """With rows of the distribution ``addend`` added to the sums, as the layer adds the shared expert."""

    addend: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        shape = (self.t, self.h)
        if device == "meta":
            addend = torch.empty(shape, dtype=torch.bfloat16, device=device)
        else:
            generator = self.generator(device)
            values((1, 997), "normal", generator)  # other numbers than those of the rows
            addend = values(shape, self.addend, generator).to(torch.bfloat16)
        return super().inputs(device) | {"addend": addend}

    def cost(self) -> Cost:
        plain = super().cost()
        return Cost(flops=0, read=plain.read + self.t * self.h * 2, written=plain.written)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(result, sum in float64): the error of the sum and of its rounding to bf16."""
    rows, slot, weights = (arguments[name] for name in ("rows", "slot", "topk_weights"))
    exact = got.new_zeros(got.shape, dtype=got.dtype).double()
    for k in range(slot.shape[1]):
        here = slot[:, k] >= 0
        term = rows[slot[here, k].long()].double()
        exact[here] += term if weights is None else term * weights[here, k, None]
    return got, exact if arguments.get("addend") is None else exact + arguments["addend"].double()


PRODUCTION = (
    *(
        Unpermute(t=t, h=HIDDEN, e=256, k=8, layer="moe", bench=t in (1, 128, 4096, 16384))
        for t in (1, 64, 128, 4096, 16384)
    ),
    Unpermute(t=4096, h=HIDDEN, e=256, k=8, weights=True, layer="moe", bench=True),
    Unpermute(t=4096, h=HIDDEN, e=256, k=8, routing="zipf", layer="moe", bench=True),
    *(
        Unpermute(t=16384, h=HIDDEN, e=e, k=8, routing="local", layer="moe", bench=e == 8)
        for e in (8, 9, 16)
    ),
    *(
        UnpermuteAdd(t=t, h=HIDDEN, e=256, k=8, layer="moe", bench=t in (1, 4096))
        for t in (1, 128, 4096)
    ),
    # More elements of the buffer than 32 bits can address.
    Unpermute(t=37_000, h=HIDDEN, e=256, k=8, weights=True, layer="moe"),
)
EDGES = (
    *(Unpermute(t=t, h=256, e=16, k=8, weights=True) for t in (0, 1, 7, 129)),
    *(
        Unpermute(t=16, h=256, e=16, k=4, weights=True, routing=kind)
        for kind in KINDS
        if kind not in ("uniform", "sizes", "zipf", "local")
    ),
    Unpermute(t=33, h=256, e=9, k=8, routing="local"),
    Unpermute(t=49, h=128, e=5, k=8, routing="sizes"),
    *(
        Unpermute(t=9, h=h, e=8, k=k, weights=weights, routing="dropped")
        for h, k in ((128, 1), (1152, 3), (2176, 6))
        for weights in (False, True)
    ),
    *(
        Unpermute(t=12, h=256, e=16, k=8, weights=weights, data=data)
        for data in ("wide", "cancelling", "nonfinite", "zero")
        for weights in (False, True)
    ),
    *(
        UnpermuteAdd(t=t, h=h, e=8, k=3, weights=weights, routing="dropped")
        for t, h, weights in ((0, 128, False), (1, 1152, False), (9, 2176, True), (17, 128, False))
    ),
    *(
        UnpermuteAdd(t=12, h=256, e=16, k=8, data=data, addend=data)
        for data in ("wide", "cancelling", "nonfinite", "zero")
    ),
    Unpermute(t=3, h=128, e=64, k=32),
    Unpermute(t=16, h=1024, e=32, k=4, weights=True, bench=True),
)
CASES = PRODUCTION + EDGES

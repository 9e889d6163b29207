"""Problems of permute: DeepSeek-V3's tokens before the experts, quantised or not, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import dtype, payload, scales, values
from benchmarks.cases._deepseek_v3 import HIDDEN
from benchmarks.cases._routing import KINDS, buffer_rows, place, routed, routing
from benchmarks.compare import Exact

OUTPUTS = ("rows", "rows_scale", "row_weight")
TOLERANCE = Exact()  # nothing is computed
BYTES = {"bf16": 2, "e4m3": 1}


@dataclass(frozen=True)
class Permute(Case):
    """``t`` tokens of ``h`` channels of dtype ``x`` to ``k`` of ``e`` experts each."""

    t: int
    h: int
    e: int
    k: int
    x: str = "e4m3"
    weights: bool = True
    routing: str = "uniform"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        if device == "meta":
            slot = torch.empty(self.t, self.k, dtype=torch.int32, device=device)
            x = torch.empty(self.t, self.h, dtype=dtype(self.x), device=device)
            scale = torch.empty(self.h // 128, self.t, device=device).T
            weights = torch.empty(self.t, self.k, device=device)
        else:
            drawn = routing(self.routing, self.t, self.e, self.k, self.generator("cpu"))
            slot = place(drawn, self.e)[0].to(device)
            generator = self.generator(device)
            x = self._draw(generator)
            scale = scales((self.h // 128, self.t), generator).T
            weights = values((self.t, self.k), "positive", generator)
        return {
            "x": x, "x_scale": scale if self.x == "e4m3" else None, "slot": slot,
            "num_rows": buffer_rows(self.t, self.k, self.e),
            "topk_weights": weights if self.weights else None,
        }  # fmt: skip

    def _draw(self, generator: Any) -> Any:
        """Every bit pattern: NaN is moved like any other number."""
        import torch

        if self.x == "e4m3":
            drawn = payload((self.t, self.h), "normal", generator)
        else:
            drawn = values((self.t, self.h), "normal", generator).to(torch.bfloat16)
        drawn[1::5, 3::7] = float("nan")
        return drawn

    def _row_bytes(self) -> int:
        """Bytes of a row, with its scales."""
        return self.h * BYTES[self.x] + (self.h // 128 * 4 if self.x == "e4m3" else 0)

    def _moved(self) -> tuple[int, int]:
        """(rows written, tokens read)."""
        return routed(self.routing, self.t, self.e, self.k, self.seed)

    def cost(self) -> Cost:
        rows, tokens = self._moved()
        weight = 4 * self.weights
        return Cost(
            flops=0, read=tokens * self._row_bytes() + self.t * self.k * 4 + rows * weight,
            written=rows * (self._row_bytes() + weight),
        )  # fmt: skip

    def untouched(self) -> Cost:
        rows, tokens = self._moved()
        padding = buffer_rows(self.t, self.k, self.e) - rows
        weight = 4 * self.weights
        return Cost(
            flops=0, read=(self.t - tokens) * self._row_bytes() + (self.t * self.k - rows) * weight,
            written=padding * (self._row_bytes() + weight),
        )  # fmt: skip

    def interpreter_steps(self) -> int:
        return -(-self.t * -(-self.h // 1024) * 4 // 3)


def defined(arguments: dict[str, Any], outputs: Any) -> Any:
    """The rows in which a slot stands, in their order."""
    slot = arguments["slot"].flatten().long()
    taken = slot[(slot >= 0) & (slot < arguments["num_rows"])].sort().values
    return tuple(None if part is None else rows_at(part, taken) for part in outputs)


def rows_at(tensor: Any, rows: Any) -> Any:
    """``tensor[rows]``; FP8 as bytes, since torch does not index it on every device."""
    import torch

    if tensor.itemsize > 1:
        return tensor[rows]
    return tensor.view(torch.uint8)[rows].view(tensor.dtype)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(what the rows hold, their tokens): there is no error but a wrong one."""
    slot, x = arguments["slot"], arguments["x"]
    inside = slot >= 0
    moved, tokens = slot[inside].long(), inside.nonzero()[:, 0]
    return rows_at(got[0], moved).float(), rows_at(x, tokens).float()


PRODUCTION = (
    *(
        Permute(t=t, h=HIDDEN, e=256, k=8, layer="moe", bench=t in (1, 128, 4096, 16384))
        for t in (1, 64, 128, 4096, 16384)
    ),
    Permute(t=4096, h=HIDDEN, e=256, k=8, x="bf16", weights=False, layer="moe", bench=True),
    Permute(t=4096, h=HIDDEN, e=256, k=8, routing="zipf", layer="moe", bench=True),
    Permute(t=4096, h=HIDDEN, e=256, k=8, routing="correlated", layer="moe"),
    *(
        Permute(t=16384, h=HIDDEN, e=e, k=8, routing="local", layer="moe", bench=e == 8)
        for e in (8, 9, 16)
    ),
    # More elements of the buffer than 32 bits can address.
    Permute(t=37_000, h=HIDDEN, e=256, k=8, layer="moe"),
    Permute(t=37_000, h=HIDDEN, e=256, k=8, x="bf16", weights=False, layer="moe"),
)
EDGES = (
    *(Permute(t=t, h=256, e=16, k=8) for t in (0, 1, 7, 129)),
    *(
        Permute(t=24, h=256, e=16, k=4, routing=kind)
        for kind in KINDS
        if kind not in ("uniform", "sizes", "zipf", "local")
    ),
    Permute(t=33, h=256, e=9, k=8, routing="local"),
    Permute(t=49, h=128, e=5, k=8, routing="sizes"),
    *(
        Permute(t=9, h=h, e=8, k=k, x=x, weights=weights)
        for h, k in ((256, 1), (1152, 3), (2176, 6))
        for x, weights in (("e4m3", False), ("bf16", True), ("bf16", False))
    ),
    Permute(t=3, h=128, e=64, k=32),
    Permute(t=16, h=1024, e=32, k=4, bench=True),
    # Enough tokens for a program to take each whole, and for scales in two steps.
    *(Permute(t=1030, h=h, e=32, k=4, routing="dropped") for h in (256, 1152, 8320)),
)
CASES = PRODUCTION + EDGES

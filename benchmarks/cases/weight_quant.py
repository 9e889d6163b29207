"""Problems of weight_quant: DeepSeek-V3's linear weights, two of them ragged, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import KINDS, dtype, values
from benchmarks.cases._deepseek_v3 import LINEAR
from benchmarks.compare import Exact

OUTPUTS = ("q", "scale")
TOLERANCE = Exact()  # a maximum, an IEEE division and a cast: nothing may differ
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class WeightQuant(Case):
    """[n, k] weight of dtype ``w``, drawn from the distribution ``data``."""

    n: int
    k: int
    w: str = "bf16"
    pow2: bool = False
    floor: float | None = None
    data: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        w = torch.empty(self.n, self.k, dtype=dtype(self.w), device=device)
        if device != "meta":
            generator = self.generator(device)
            rows = max(1, (1 << 24) // max(1, self.k))
            for start in range(0, self.n, rows):
                stop = min(start + rows, self.n)
                w[start:stop] = values((stop - start, self.k), self.data, generator).to(w.dtype)
        return {"w": w, "pow2_scale": self.pow2, "amax_floor": self.floor}

    def blocks(self) -> int:
        return -(-self.n // 128) * -(-self.k // 128)

    def cost(self) -> Cost:
        elements = self.n * self.k
        return Cost(flops=0, read=elements * BYTES[self.w], written=elements + self.blocks() * 4)

    def interpreter_steps(self) -> int:
        return self.blocks()


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(dequantised result, input): the error of quantising."""
    q, scale = got
    n, k = q.shape
    spread = scale.double().repeat_interleave(128, dim=0)[:n].repeat_interleave(128, dim=1)[:, :k]
    return q.double() * spread, arguments["w"]


PRODUCTION = tuple(
    WeightQuant(n=n, k=k, layer=layer, bench=layer in ("q_a+kv_a", "o", "expert_gate+up", "kv_a"))
    for layer, (n, k) in LINEAR.items()
)
EDGES = (
    *(
        WeightQuant(n=n, k=k)
        for n, k in ((0, 128), (128, 0), (1, 1), (128, 128), (129, 127), (576, 256))
    ),
    WeightQuant(n=64, k=320, bench=True),
    *(WeightQuant(n=200, k=136, w=w, pow2=pow2) for w in BYTES for pow2 in (False, True)),
    *(
        WeightQuant(n=130, k=260, w=w, pow2=pow2, data=data)
        for data in KINDS
        if data not in ("normal", "positive", "saturating")
        for w, pow2 in (("fp32", False), ("fp32", True), ("bf16", False))
    ),
    WeightQuant(n=130, k=256, floor=1e-4, data="tiny", w="fp32"),
    WeightQuant(n=130, k=256, floor=1e-4, data="zero"),
    # More elements than 32 bits can address.
    WeightQuant(n=300_001, k=7168, layer="q_a+kv_a"),
)
CASES = PRODUCTION + EDGES

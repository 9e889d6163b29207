"""Problems of act_quant: the activations in front of DeepSeek-V3's linear layers, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import KINDS, dtype, values
from benchmarks.cases._deepseek_v3 import LINEAR, TOKENS
from benchmarks.compare import Exact

OUTPUTS = ("q", "scale")
TOLERANCE = Exact()  # a maximum, an IEEE division and a cast: nothing may differ
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class ActQuant(Case):
    """[m, k] activations of dtype ``x``, drawn from the distribution ``data``."""

    m: int
    k: int
    x: str = "bf16"
    pow2: bool = False
    floor: float | None = None
    data: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        if device == "meta":
            x = torch.empty(self.m, self.k, dtype=dtype(self.x), device=device)
        else:
            x = self._draw(device)
        return {"x": x, "pow2_scale": self.pow2, "amax_floor": self.floor}

    def _draw(self, device: str) -> Any:
        import torch

        generator = self.generator(device)
        out = torch.empty(self.m, self.k, dtype=dtype(self.x), device=device)
        rows = max(1, (1 << 24) // max(1, self.k))
        for start in range(0, self.m, rows):
            stop = min(start + rows, self.m)
            out[start:stop] = values((stop - start, self.k), self.data, generator).to(out.dtype)
        return out

    def cost(self) -> Cost:
        elements = self.m * self.k
        return Cost(flops=0, read=elements * BYTES[self.x], written=elements + elements // 128 * 4)

    def interpreter_steps(self) -> int:
        return -(-self.m // 32) * (self.k // 128)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(dequantised result, input): the error of quantising."""
    q, scale = got
    return q.double() * scale.double().repeat_interleave(128, dim=1), arguments["x"]


WIDTHS = {k: name for name, (_, k) in reversed(LINEAR.items())}
PRODUCTION = tuple(
    ActQuant(m=m, k=k, layer=layer, bench=k in (2048, 7168, 16384))
    for k, layer in sorted(WIDTHS.items())
    for m in TOKENS
)
EDGES = (
    *(ActQuant(m=m, k=256) for m in (0, 1, 7, 31, 32, 33, 127, 129)),
    ActQuant(m=4001, k=7168, layer="q_a+kv_a"),
    ActQuant(m=16, k=0),
    ActQuant(m=64, k=512, bench=True),
    *(ActQuant(m=33, k=384, x=x, pow2=pow2) for x in BYTES for pow2 in (False, True)),
    *(
        ActQuant(m=40, k=512, x=x, pow2=pow2, data=data)
        for data in KINDS
        if data not in ("normal", "positive", "saturating")
        for x, pow2 in (("fp32", False), ("fp32", True), ("bf16", False))
    ),
    ActQuant(m=33, k=256, floor=1e-4),
    ActQuant(m=33, k=256, floor=1e-4, data="tiny", x="fp32"),
    ActQuant(m=33, k=256, floor=1e-4, data="zero", pow2=True),
    ActQuant(m=33, k=256, floor=1e-4, data="nonfinite"),
    # More elements than 32 bits can address.
    ActQuant(m=300_001, k=7168, layer="q_a+kv_a"),
)
CASES = PRODUCTION + EDGES

"""Problems of weight_dequant: DeepSeek-V3's linear weights, two of them ragged, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import dtype, payload, scales
from benchmarks.cases._deepseek_v3 import LINEAR
from benchmarks.compare import Exact

OUTPUTS = ("out",)
TOLERANCE = Exact()  # one fp32 multiplication and one rounding: nothing may differ
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class WeightDequant(Case):
    """[n, k] e4m3 weight with 128x128 scales, to dtype ``out``."""

    n: int
    k: int
    out: str = "bf16"
    data: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        blocks = (-(-self.n // 128), -(-self.k // 128))
        if device == "meta":
            q = torch.empty(self.n, self.k, dtype=torch.float8_e4m3fn, device=device)
            scale = torch.empty(blocks, device=device)
        else:
            generator = self.generator(device)
            q = payload((self.n, self.k), self.data, generator)
            scale = scales(blocks, generator)
        return {"q": q, "scale": scale, "out_dtype": dtype(self.out)}

    def cost(self) -> Cost:
        elements = self.n * self.k
        blocks = -(-self.n // 128) * -(-self.k // 128)
        return Cost(flops=0, read=elements + blocks * 4, written=elements * BYTES[self.out])

    def interpreter_steps(self) -> int:
        return -(-self.n // 64) * -(-self.k // 128)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(result, product of payload and scale in float64): the error of rounding to the output."""
    q, scale = arguments["q"], arguments["scale"].double()
    n, k = q.shape
    spread = scale.repeat_interleave(128, dim=0)[:n].repeat_interleave(128, dim=1)[:, :k]
    return got, q.double() * spread


PRODUCTION = tuple(
    WeightDequant(n=n, k=k, layer=layer, bench=layer in ("q_a+kv_a", "o", "expert_gate+up", "kv_a"))
    for layer, (n, k) in LINEAR.items()
)
EDGES = (
    *(
        WeightDequant(n=n, k=k)
        for n, k in ((0, 128), (128, 0), (1, 1), (63, 128), (129, 127), (576, 256))
    ),
    WeightDequant(n=64, k=320, bench=True),
    *(WeightDequant(n=200, k=136, out=out, data="wide") for out in BYTES),
    WeightDequant(n=130, k=260, data="subnormal"),
    WeightDequant(n=130, k=260, data="nonfinite"),
    WeightDequant(n=300_001, k=7168, layer="q_a+kv_a"),
)
CASES = PRODUCTION + EDGES

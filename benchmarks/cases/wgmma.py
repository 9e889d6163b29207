"""Problems of wgmma: every length and format of the instruction, on operands that strain its sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import dtype, payload
from benchmarks.compare import Exact

OUTPUTS = ("out",)
# The reference models the instruction to the bit.  In Triton's interpreter, where there is no
# tensor core, both sides take exact sums instead (tests/conftest.py), and again nothing may differ.
TOLERANCE = Exact()


@dataclass(frozen=True)
class Wgmma(Case):
    """[m, k] of format ``x`` times [n, k] of format ``w`` transposed."""

    m: int
    n: int
    k: int
    x: str = "e4m3"
    w: str = "e4m3"
    data: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        if device == "meta":
            x = torch.empty(self.m, self.k, dtype=dtype(self.x), device=device)
            return {"x": x, "w": torch.empty(self.n, self.k, dtype=dtype(self.w), device=device)}
        generator = self.generator(device)
        return {
            "x": payload((self.m, self.k), self.data, generator, self.x),
            "w": payload((self.n, self.k), self.data, generator, self.w),
        }

    def cost(self) -> Cost:
        read = (self.m + self.n) * self.k
        return Cost(flops=2 * self.m * self.n * self.k, read=read, written=self.m * self.n * 4)

    def interpreter_steps(self) -> int:
        return -(-self.m // 64) * -(-self.n // 64)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(result, product in float64): the error of the tensor core's accumulation."""
    return got, arguments["x"].double() @ arguments["w"].double().T


KINDS = (
    "normal", "positive", "outlier", "wide", "subnormal", "cancelling", "saturating", "sparse", "zero",
)  # fmt: skip
CASES = (
    *(Wgmma(m=128, n=256, k=k, data=data) for k in (32, 64, 128, 256) for data in KINDS),
    *(
        Wgmma(m=128, n=256, k=k, x=x, w=w, data=data)
        for k in (32, 128)
        for x, w in (("e5m2", "e5m2"), ("e4m3", "e5m2"), ("e5m2", "e4m3"))
        for data in KINDS
    ),
    *(Wgmma(m=m, n=n, k=128) for m, n in ((0, 64), (1, 1), (65, 63), (7, 129))),
    Wgmma(m=64, n=64, k=128, bench=True),
)

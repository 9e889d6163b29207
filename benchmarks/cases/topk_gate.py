"""Problems of topk_gate: DeepSeek-V3's router, other routers, ties and numbers that rank nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import dtype
from benchmarks.cases._router import CHOSEN, EXPERTS, GROUPS, LIMITED_GROUPS, bias, logits
from benchmarks.compare import Exact

OUTPUTS = ("topk_idx", "topk_weights", "counts")
TOLERANCE = Exact()  # scores and sums are stated operation by operation
ROUTE_SCALE = 2.5


@dataclass(frozen=True)
class TopkGate(Case):
    """``t`` tokens choose ``k`` of ``e`` experts, out of the best ``limit`` of ``groups`` groups.

    data, bias: kinds of benchmarks/cases/_router.py.  dtype: of the logits.
    """

    t: int
    e: int = EXPERTS
    k: int = CHOSEN
    groups: int = GROUPS
    limit: int = LIMITED_GROUPS
    dtype: str = "fp32"
    bias: str = "normal"
    scoring: str = "sigmoid"
    normalise: bool = True
    data: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        generator = self.generator("cpu" if device == "meta" else device)
        if device == "meta":
            drawn = torch.empty(self.t, self.e, device=device)
        else:
            drawn = logits(self.t, self.e, self.data, generator)
        shift = bias(self.e, self.bias, generator)
        return {
            "logits": drawn.to(dtype(self.dtype)), "bias": None if shift is None else shift.to(device),
            "topk": self.k, "num_groups": self.groups, "num_limited_groups": self.limit,
            "route_scale": ROUTE_SCALE, "scoring": self.scoring, "normalise": self.normalise,
        }  # fmt: skip

    def cost(self) -> Cost:
        size = 2 if self.dtype == "bf16" else 4
        read = self.t * self.e * size + (0 if self.bias == "none" else self.e * 4)
        return Cost(flops=0, read=read, written=self.t * self.k * (8 + 4) + self.e * 4)

    def interpreter_steps(self) -> int:
        # A program a token: about 10 ms, and 0.8 ms for each expert chosen.
        return 1 + self.t * (27 + 2 * self.k) // 8


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(weights, the weights of the same experts by the plain formula in float64)."""
    topk_idx, weights, _ = got
    x = arguments["logits"].double()
    scores = x.sigmoid() if arguments["scoring"] == "sigmoid" else x.softmax(dim=1)
    exact = scores.gather(1, topk_idx)
    if arguments["normalise"]:
        exact = exact / exact.sum(dim=1, keepdim=True)
    return weights, exact * arguments["route_scale"]


PRODUCTION = (
    *(
        TopkGate(t=t, layer="moe", bench=t in (1, 128, 4096, 16384))
        for t in (1, 64, 128, 256, 4096, 16384)
    ),
    TopkGate(t=4096, dtype="bf16", layer="moe", bench=True),
    TopkGate(t=4096, groups=1, limit=1, layer="moe", bench=True),
    TopkGate(t=4096, bias="none", scoring="softmax", groups=1, limit=1, layer="moe", bench=True),
)
EDGES = (
    TopkGate(t=0),
    *(TopkGate(t=t) for t in (2, 7, 17)),
    TopkGate(t=65, e=8, k=2, groups=1, limit=1),  # counts that lie apart
    *(TopkGate(t=8, data=data) for data in ("ties", "equal", "saturated", "bottom", "nonfinite")),
    *(TopkGate(t=8, bias=bias) for bias in ("none", "negative", "locked", "ties")),
    TopkGate(t=12, bias="ties", data="ties"),
    TopkGate(t=12, bias="locked", data="nonfinite"),
    TopkGate(t=8, dtype="bf16"),
    TopkGate(t=8, dtype="bf16", bias="none"),
    *(
        TopkGate(t=12, scoring="softmax", normalise=normalise, data=data)
        for normalise in (True, False)
        for data in ("normal", "nonfinite", "saturated")
    ),
    TopkGate(t=12, normalise=False, data="ties"),
    # Groups and lists whose lengths are no powers of two; the softmax router of DeepSeek-V2.
    TopkGate(t=6, e=160, k=6, groups=8, limit=3, bias="none", scoring="softmax", normalise=False),
    TopkGate(t=6, e=100, k=5, groups=5, limit=2, data="ties"),
    TopkGate(t=6, e=72, k=3, groups=3, limit=2, scoring="softmax"),
    TopkGate(t=6, e=72, k=7, groups=1, limit=1, scoring="softmax", dtype="bf16"),
    TopkGate(t=6, e=128, k=8, groups=4, limit=4),  # no group is left out
    TopkGate(t=6, e=16, k=4, groups=16, limit=6, data="ties"),  # groups of one expert
    TopkGate(t=6, e=16, k=8, groups=8, limit=4),  # as many as there are in the kept groups
    TopkGate(t=6, e=16, k=8, groups=8, limit=4, bias="locked", data="nonfinite"),
    TopkGate(t=6, e=64, k=8, groups=8, limit=1, bias="locked"),  # its -Inf before others' numbers
    TopkGate(t=6, e=8, k=8, groups=1, limit=1, data="nonfinite"),
    TopkGate(t=3, e=1, k=1, groups=1, limit=1),
    TopkGate(t=1, e=24, k=2, groups=3, limit=2, bias="locked", data="nonfinite"),
    TopkGate(t=4, e=1024, k=32, groups=16, limit=8),
    TopkGate(t=4, e=1000, k=31, groups=1, limit=1, scoring="softmax"),
)
CASES = PRODUCTION + EDGES

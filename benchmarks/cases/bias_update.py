"""Problems of bias_update: DeepSeek-V3's experts, loads at the mean, and loads past fp32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._router import CHOSEN, EXPERTS, bias
from benchmarks.compare import Exact

OUTPUTS = ("bias",)
TOLERANCE = Exact()  # one addition

# Loads of the experts.
LOADS = (
    "drawn",  # around 128 tokens of 8 for each
    "mean",  # one expert in two at the mean, the others one above or below
    "huge",  # E counts is past int32, and counts differ by less than fp32 tells apart
    "single",  # all to one expert
    "none",  # nobody came
)


@dataclass(frozen=True)
class BiasUpdate(Case):
    """``e`` experts.  bias: kind of benchmarks/cases/_router.py.  load: one of LOADS."""

    e: int = EXPERTS
    load: str = "drawn"
    bias: str = "normal"
    gamma: float = 1e-3

    def inputs(self, device: str) -> dict[str, Any]:
        generator = self.generator("cpu")
        found = bias(self.e, self.bias, generator)
        assert found is not None
        return {
            "bias": found.to(device), "counts": self._counts(generator).to(device),
            "gamma": self.gamma,
        }  # fmt: skip

    def _counts(self, generator: Any) -> Any:
        import torch

        if self.load == "drawn":
            return torch.randint(128 * CHOSEN * 2, (self.e,), generator=generator).int()
        counts = torch.zeros(self.e, dtype=torch.int32)
        if self.load == "single":
            counts[self.e // 3] = 4096
        if self.load in ("mean", "huge"):
            counts += 100 if self.load == "mean" else 2_000_000_001
            # As many above as below, so that the rest is exactly at the mean.
            counts[1::4] += 1
            counts[3::4] -= 1
            if len(counts[1::4]) != len(counts[3::4]):
                counts[1] -= 1
        return counts

    def cost(self) -> Cost:
        return Cost(flops=0, read=8 * self.e, written=4 * self.e)

    def interpreter_steps(self) -> int:
        return 2


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(new bias, the formula in float64)."""
    load = arguments["counts"].double()
    sign = (load.sum() - load * len(load)).sign()
    return got, arguments["bias"].double() + arguments["gamma"] * sign


PRODUCTION = (
    BiasUpdate(layer="moe", bench=True),
    BiasUpdate(load="mean", layer="moe"),
    BiasUpdate(load="huge", layer="moe"),
)
EDGES = (
    *(BiasUpdate(load=load) for load in ("single", "none")),
    *(BiasUpdate(bias=bias) for bias in ("negative", "locked", "ties")),
    *(BiasUpdate(gamma=gamma) for gamma in (0.0, 1.0, 1e-12)),
    BiasUpdate(bias="locked", load="mean"),
    *(BiasUpdate(e=e, load=load) for e in (1, 2, 7, 160) for load in ("drawn", "mean")),
    *(BiasUpdate(e=e, load="huge") for e in (1000, 1024)),
)
CASES = PRODUCTION + EDGES

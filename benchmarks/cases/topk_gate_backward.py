"""Problems of topk_gate_backward: DeepSeek-V3's router, other routers, scores at their ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import dtype
from benchmarks.cases._router import CHOSEN, EXPERTS, different, logits
from benchmarks.compare import Exact

OUTPUTS = ("grad_logits",)
TOLERANCE = Exact()  # scores and sums are stated operation by operation
ROUTE_SCALE = 2.5


@dataclass(frozen=True)
class TopkGateBackward(Case):
    """``t`` tokens with any lists of ``k`` of ``e`` experts; of ``missing`` tokens every third entry is
    no expert.

    data: kind of logits of benchmarks/cases/_router.py.  dtype: of the logits.
    """

    t: int
    e: int = EXPERTS
    k: int = CHOSEN
    dtype: str = "fp32"
    scoring: str = "sigmoid"
    normalise: bool = True
    data: str = "normal"
    missing: bool = False

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        generator = self.generator("cpu" if device == "meta" else device)
        if device == "meta":
            drawn = torch.empty(self.t, self.e, device=device)
            chosen = torch.empty(self.t, self.k, dtype=torch.int64, device=device)
            grad = torch.empty(self.t, self.k, device=device)
        else:
            drawn = logits(self.t, self.e, self.data, generator)
            chosen = different(self.t, self.e, self.k, generator)
            grad = torch.randn(self.t, self.k, generator=generator, device=device)
            if self.missing:
                strays = chosen.new_tensor([-1, self.e, 2**32 + 1, -(2**63)])
                chosen.view(-1)[::3] = strays.repeat(chosen.numel())[: len(chosen.view(-1)[::3])]
        return {
            "grad_weights": grad, "logits": drawn.to(dtype(self.dtype)), "topk_idx": chosen,
            "route_scale": ROUTE_SCALE, "scoring": self.scoring, "normalise": self.normalise,
        }  # fmt: skip

    def cost(self) -> Cost:
        size = 2 if self.dtype == "bf16" else 4
        logits = self.t * (self.e if self.scoring == "softmax" else self._looked_at()) * size
        return Cost(
            flops=0, read=self.t * self.k * (8 + 4) + logits, written=self.t * self.e * size
        )

    def untouched(self) -> Cost:
        size = 2 if self.dtype == "bf16" else 4
        skipped = 0 if self.scoring == "softmax" else self.e - self._looked_at()
        return Cost(flops=0, read=self.t * skipped * size, written=0)

    def _looked_at(self) -> int:
        """Logits of a token that are looked at: by sigmoid, those of its experts."""
        return min(self.k, self.e)

    def interpreter_steps(self) -> int:
        return 1 + 3 * self.t


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(gradient, that by torch's autograd of the plain formula in float64)."""
    import torch

    x = arguments["logits"].double().requires_grad_()
    topk_idx = arguments["topk_idx"]
    here = (topk_idx >= 0) & (topk_idx < x.shape[1])
    with torch.enable_grad():
        scores = x.sigmoid() if arguments["scoring"] == "sigmoid" else x.softmax(dim=1)
        weights = scores.gather(1, topk_idx.where(here, 0)).where(here, 0.0)
        if arguments["normalise"]:
            weights = weights / weights.sum(dim=1, keepdim=True)
        weights = weights * arguments["route_scale"]
        grad = arguments["grad_weights"].double().where(here, 0.0)
        (exact,) = torch.autograd.grad(weights, x, grad)
    return got, exact


PRODUCTION = (
    *(
        TopkGateBackward(t=t, layer="moe", bench=t in (128, 4096, 16384))
        for t in (1, 128, 4096, 16384)
    ),
    TopkGateBackward(t=4096, dtype="bf16", layer="moe", bench=True),
    TopkGateBackward(t=4096, scoring="softmax", layer="moe", bench=True),
    TopkGateBackward(t=4096, scoring="softmax", normalise=False, layer="moe"),
)
EDGES = (
    TopkGateBackward(t=0),
    *(TopkGateBackward(t=t) for t in (2, 7, 33)),
    *(
        TopkGateBackward(t=12, scoring=scoring, normalise=normalise, data=data)
        for scoring in ("sigmoid", "softmax")
        for normalise in (True, False)
        for data in ("normal", "saturated", "bottom", "nonfinite")
    ),
    *(
        TopkGateBackward(t=12, dtype="bf16", scoring=scoring, normalise=normalise)
        for scoring in ("sigmoid", "softmax")
        for normalise in (True, False)
    ),
    *(
        TopkGateBackward(t=12, scoring=scoring, normalise=False, missing=True)
        for scoring in ("sigmoid", "softmax")
    ),
    TopkGateBackward(t=12, missing=True),
    TopkGateBackward(t=9, e=160, k=6, scoring="softmax", normalise=False),
    TopkGateBackward(t=9, e=72, k=7, dtype="bf16"),
    TopkGateBackward(t=9, e=5, k=5, scoring="softmax"),
    TopkGateBackward(t=3, e=1, k=1),
    TopkGateBackward(t=3, e=1, k=1, scoring="softmax"),
    TopkGateBackward(t=4, e=1024, k=32),
    TopkGateBackward(t=4, e=1000, k=31, scoring="softmax", normalise=False),
)
CASES = PRODUCTION + EDGES

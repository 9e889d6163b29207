"""Problems of sequence_balance_loss: sequences of 4096 tokens, short and ragged ones, experts in and out
of balance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import dtype
from benchmarks.cases._router import CHOSEN, EXPERTS, logits
from benchmarks.cases._routing import routing
from benchmarks.compare import Exact

OUTPUTS = ("loss", "grad_logits")
TOLERANCE = Exact()  # scores and sums are stated operation by operation, that over tokens in int64


@dataclass(frozen=True)
class SequenceBalanceLoss(Case):
    """``b`` sequences of ``s`` tokens with lists of ``k`` of ``e`` experts, drawn by ``routing``.

    data: kind of logits of benchmarks/cases/_router.py.  dtype: of the logits.
    """

    b: int
    s: int
    e: int = EXPERTS
    k: int = CHOSEN
    dtype: str = "fp32"
    routing: str = "uniform"
    data: str = "normal"
    alpha: float = 1e-4

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        generator = self.generator("cpu")
        tokens = self.b * self.s
        if device == "meta":
            drawn = torch.empty(tokens, self.e, device=device)
            chosen = torch.empty(tokens, self.k, dtype=torch.int64, device=device)
        else:
            drawn = logits(tokens, self.e, self.data, generator)
            chosen = routing(self.routing, tokens, self.e, self.k, generator)
        return {
            "logits": drawn.to(device, dtype(self.dtype)), "topk_idx": chosen.to(device),
            "sequence_length": None if self.b == 1 or self.s == 0 else self.s, "alpha": self.alpha,
        }  # fmt: skip

    def cost(self) -> Cost:
        tokens, size = self.b * self.s, 2 if self.dtype == "bf16" else 4
        return Cost(
            flops=0, read=tokens * (self.e * size + self.k * 8),
            written=self.b * 4 + tokens * self.e * size,
        )  # fmt: skip

    def interpreter_steps(self) -> int:
        width = max(32, 1 << (self.e - 1).bit_length())
        return 1 + 12 * self.b * -(-self.s * width // 4096)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(gradient, that by torch's autograd of the plain formula in float64)."""
    import torch

    x = arguments["logits"].double().requires_grad_()
    chosen = arguments["topk_idx"]
    tokens, experts = x.shape
    length = arguments["sequence_length"] or max(1, tokens)
    # Entries that are no expert are counted in a column that is cut off.
    chosen = chosen.where((chosen >= 0) & (chosen < experts), experts)
    shape = (tokens // length, length * chosen.shape[1])
    counts = x.new_zeros(shape[0], experts + 1).scatter_add_(
        1, chosen.reshape(shape), x.new_ones(shape)
    )[:, :experts]
    with torch.enable_grad():
        scores = x.sigmoid()
        shares = scores / scores.sum(dim=1, keepdim=True)
        means = shares.reshape(-1, length, experts).mean(dim=1)
        loss = arguments["alpha"] * experts / shape[1] * (counts * means).sum()
        (exact,) = torch.autograd.grad(loss, x)
    return got[1], exact


PRODUCTION = (
    *(SequenceBalanceLoss(b=b, s=4096, layer="moe", bench=True) for b in (1, 4)),
    SequenceBalanceLoss(b=1, s=4096, routing="zipf", layer="moe"),
    SequenceBalanceLoss(b=4, s=4096, dtype="bf16", routing="correlated", layer="moe", bench=True),
    SequenceBalanceLoss(b=1, s=128, layer="moe", bench=True),
)
EDGES = (
    SequenceBalanceLoss(b=0, s=16),
    SequenceBalanceLoss(b=0, s=0),
    *(SequenceBalanceLoss(b=b, s=s) for b, s in ((1, 1), (2, 1), (3, 5), (2, 16), (2, 33), (1, 65))),
    *(
        SequenceBalanceLoss(b=2, s=20, data=data)
        for data in ("ties", "saturated", "bottom", "nonfinite")
    ),
    *(
        SequenceBalanceLoss(b=2, s=20, routing=kind)
        for kind in ("zipf", "single", "same", "none", "dropped", "stray", "no_last")
    ),
    SequenceBalanceLoss(b=2, s=20, dtype="bf16"),
    SequenceBalanceLoss(b=2, s=20, dtype="bf16", data="nonfinite", routing="stray"),
    *(SequenceBalanceLoss(b=2, s=20, alpha=alpha) for alpha in (0.0, 1.0)),
    SequenceBalanceLoss(b=2, s=20, e=160, k=6),
    SequenceBalanceLoss(b=2, s=150, e=9, k=3, routing="zipf"),
    SequenceBalanceLoss(b=2, s=3, e=1, k=1),
    SequenceBalanceLoss(b=2, s=5, e=1000, k=31),
    SequenceBalanceLoss(b=1, s=5, e=1024, k=32, dtype="bf16"),
)  # fmt: skip
CASES = PRODUCTION + EDGES

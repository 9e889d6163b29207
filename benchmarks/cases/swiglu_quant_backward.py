"""Problems of swiglu_quant_backward: training steps of DeepSeek-V3, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases._deepseek_v3 import DENSE_INTERMEDIATE, EXPERT_INTERMEDIATE
from benchmarks.cases._expert_rows import (
    ExpertRows,
    at,
    dequantised,
    draw,
    powers,
    stored_scales,
    taken_rows,
    weights,
)
from benchmarks.cases._routing import KINDS
from benchmarks.compare import Exact

OUTPUTS = ("grad_gate_up_q", "grad_gate_up_scale", "grad_row_weight")
TOLERANCE = Exact()  # every operation is stated, exp and the order of the sum as well


@dataclass(frozen=True)
class SwigluQuantBackward(ExpertRows):
    """Gradients of 2c channels from those of ``c``."""

    weights: bool = False
    pow2: bool = False

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        shape, counts = (self.rows, 2 * self.c), self.counts(device)
        bf16, e4m3 = torch.bfloat16, torch.float8_e4m3fn
        if device == "meta":
            grad = torch.empty(self.rows, self.c, dtype=bf16, device=device)
            gate_up = torch.empty(shape, dtype=e4m3, device=device)
            scale = stored_scales(self.rows, shape[1] // 128)
            weight = torch.empty(self.rows, device=device)
        else:
            generator = self.generator(device)
            taken = taken_rows(counts, self.rows, device)
            grad = draw((self.rows, self.c), taken, self.data, bf16, generator)
            gate_up = draw(shape, taken, self.data, e4m3, generator)
            scale = powers((self.rows, shape[1] // 128), taken, -9, -4, generator)
            weight = weights(self.rows, taken, generator)
        return {
            "grad_h": grad, "gate_up_q": gate_up, "gate_up_scale": scale, "counts": counts,
            "row_weight": weight if self.weights else None, "pow2_scale": self.pow2,
        }  # fmt: skip

    def _row_bytes(self) -> tuple[int, int]:
        """(read, written) for a row."""
        gate_up = 2 * self.c + self.c // 64 * 4
        return 2 * self.c + gate_up + 4 * self.weights, gate_up + 4 * self.weights

    def interpreter_steps(self) -> int:
        return self.tile_steps(rows=16, steps=7)


def defined(arguments: dict[str, Any], outputs: Any) -> Any:
    """The rows that are an expert's."""
    taken = taken_rows(arguments["counts"], outputs[0].shape[0], outputs[0].device)
    return tuple(None if part is None else at(part, taken) for part in outputs)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(dequantised gradients, the same in float64): the error of quantising, and of exp."""
    counts, weight = arguments["counts"], arguments["row_weight"]
    taken = taken_rows(counts, got[0].shape[0], got[0].device)
    wide = dequantised(arguments["gate_up_q"], arguments["gate_up_scale"], taken)
    gate, up = wide.chunk(2, dim=1)
    grad = arguments["grad_h"][taken].double()
    if weight is not None:
        grad = grad * weight[taken, None].double()
    one = gate.sigmoid()
    slope = one * (1 + gate * (1 - one))
    exact = gate.new_empty(len(taken), 2 * gate.shape[1])
    exact[:, : gate.shape[1]] = grad * up * slope
    exact[:, gate.shape[1] :] = grad * gate * one
    return dequantised(got[0], got[1], taken), exact


EXPERTS: dict[str, Any] = {
    "c": EXPERT_INTERMEDIATE,
    "k": 8,
    "weights": True,
    "pow2": True,
    "layer": "moe",
}
PRODUCTION = (
    *(
        SwigluQuantBackward(t=t, e=256, bench=t in (4096, 16384), **EXPERTS)
        for t in (128, 4096, 16384)
    ),
    SwigluQuantBackward(t=4096, e=256, routing="zipf", **EXPERTS),
    *(SwigluQuantBackward(t=16384, e=e, routing="local", bench=e == 8, **EXPERTS) for e in (8, 16)),
    *(
        SwigluQuantBackward(t=4096, c=c, pow2=True, layer=layer, bench=True)
        for c, layer in ((EXPERT_INTERMEDIATE, "shared"), (DENSE_INTERMEDIATE, "dense"))
    ),
    # More elements of the buffer than 32 bits can address.
    SwigluQuantBackward(t=64_000, e=256, **EXPERTS),
)
EDGES = (
    SwigluQuantBackward(t=2, c=128),
    *(SwigluQuantBackward(t=t, c=256) for t in (0, 1, 15, 17)),
    *(SwigluQuantBackward(t=t, c=256, e=8, k=2, weights=w) for t in (0, 1, 13) for w in (False, True)),
    *(
        SwigluQuantBackward(t=6, c=128, e=8, k=4, routing=kind, weights=True, pow2=True)
        for kind in KINDS
        if kind not in ("uniform", "sizes", "zipf", "local")
    ),
    SwigluQuantBackward(t=17, c=128, e=9, k=8, routing="local", weights=True),
    SwigluQuantBackward(t=49, c=128, e=5, k=8, routing="sizes", weights=True),
    *(
        SwigluQuantBackward(t=9, c=384, weights=weights_, pow2=pow2)
        for weights_ in (False, True)
        for pow2 in (False, True)
    ),
    *(
        SwigluQuantBackward(t=16, c=256, pow2=pow2, weights=pow2, data=data)
        for data in (
            "wide", "outlier", "subnormal", "cancelling", "saturating", "sparse", "zero", "tiny",
            "nonfinite",
        )
        for pow2 in (False, True)
    ),
    SwigluQuantBackward(t=64, c=512, bench=True),
)  # fmt: skip
CASES = PRODUCTION + EDGES

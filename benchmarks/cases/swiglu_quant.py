"""Problems of swiglu_quant: DeepSeek-V3's experts, its shared expert and dense layers, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases._data import dtype
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

OUTPUTS = ("h_q", "h_scale")
TOLERANCE = Exact()  # every operation is stated, exp as well
BYTES = {"bf16": 2, "e4m3": 1}


@dataclass(frozen=True)
class SwigluQuant(ExpertRows):
    """``c`` channels of h from 2c of dtype ``x``."""

    x: str = "bf16"
    weights: bool = False
    pow2: bool = False

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        shape, counts = (self.rows, 2 * self.c), self.counts(device)
        if device == "meta":
            gate_up = torch.empty(shape, dtype=dtype(self.x), device=device)
            scale = stored_scales(self.rows, shape[1] // 128)
            weight = torch.empty(self.rows, device=device)
        else:
            generator = self.generator(device)
            taken = self._drawn_rows(counts, device)
            gate_up = draw(shape, taken, self.data, dtype(self.x), generator)
            # Times 2^-9 to 2^-5: gates from a hundredth to ten.
            scale = powers((self.rows, shape[1] // 128), taken, -9, -4, generator)
            weight = weights(self.rows, taken, generator)
        return {
            "gate_up": gate_up, "gate_up_scale": scale if self.x == "e4m3" else None,
            "counts": counts, "row_weight": weight if self.weights else None,
            "pow2_scale": self.pow2,
        }  # fmt: skip

    def _drawn_rows(self, counts: Any, device: Any) -> Any:
        return taken_rows(counts, self.rows, device)

    def _row_bytes(self) -> tuple[int, int]:
        """(read, written) for a row."""
        scales = self.c // 128 * 4
        read = 2 * self.c * BYTES[self.x] + (2 * scales if self.x == "e4m3" else 0)
        return read + 4 * self.weights, self.c + scales

    def interpreter_steps(self) -> int:
        return self.tile_steps(rows=16, steps=4)


@dataclass(frozen=True)
class SwigluQuantMasked(SwigluQuant):
    """A masked buffer of ``capacity`` rows an expert, of which it may have more entries than that."""

    capacity: int = 1

    @property
    def rows(self) -> int:
        return self.e * self.capacity

    @property
    def taken(self) -> int:
        counts = self.counts("cpu")
        return 0 if counts is None else int(counts.clamp(max=self.capacity).sum())

    def inputs(self, device: str) -> dict[str, Any]:
        return super().inputs(device) | {"capacity": self.capacity}

    def _drawn_rows(self, counts: Any, device: Any) -> Any:
        del device  # of the counts
        return masked_rows(counts, self.capacity)

    def interpreter_steps(self) -> int:
        tiles, groups = self.c // 128, self.e * -(-self.capacity // 16)
        return 4 * min(groups, self.taken) * tiles + groups * tiles


def masked_rows(counts: Any, capacity: int) -> Any:
    """Indices of the rows that are an expert's in a masked buffer."""
    import torch

    places = torch.arange(len(counts) * capacity, device=counts.device).view(-1, capacity)
    return places[places % capacity < counts[:, None]]


def _taken(arguments: dict[str, Any]) -> Any:
    counts, gate_up = arguments["counts"], arguments["gate_up"]
    if arguments.get("capacity"):
        return masked_rows(counts, arguments["capacity"])
    return taken_rows(counts, gate_up.shape[0], gate_up.device)


def defined(arguments: dict[str, Any], outputs: Any) -> Any:
    """The rows that are an expert's."""
    taken = _taken(arguments)
    return tuple(at(part, taken) for part in outputs)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(dequantised result, h in float64): the error of quantising, and of exp."""
    weight, taken = arguments["row_weight"], _taken(arguments)
    wide = dequantised(arguments["gate_up"], arguments["gate_up_scale"], taken)
    gate, up = wide.chunk(2, dim=1)
    exact = gate * gate.sigmoid() * up
    if weight is not None:
        exact = exact * weight[taken, None].double()
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
        SwigluQuant(t=t, e=256, bench=t in (128, 4096), **EXPERTS)
        for t in (1, 16, 128, 4096, 16384)
    ),
    SwigluQuant(t=4096, e=256, x="e4m3", bench=True, **EXPERTS),
    SwigluQuant(t=4096, e=256, routing="zipf", **EXPERTS),
    *(SwigluQuant(t=16384, e=e, routing="local", bench=e == 8, **EXPERTS) for e in (8, 16)),
    *(
        SwigluQuant(t=t, c=EXPERT_INTERMEDIATE, pow2=True, layer="shared", bench=t == 4096)
        for t in (1, 16, 128, 4096)
    ),
    *(
        SwigluQuant(t=t, c=DENSE_INTERMEDIATE, pow2=True, layer="dense", bench=t == 4096)
        for t in (1, 128, 4096)
    ),
    SwigluQuant(t=4096, c=DENSE_INTERMEDIATE, layer="dense"),
    # More elements of the buffer than 32 bits can address.
    SwigluQuant(t=64_000, e=256, **EXPERTS),
)
EDGES = (
    SwigluQuant(t=2, c=128),
    *(SwigluQuant(t=t, c=256) for t in (0, 1, 15, 17, 33)),
    *(
        SwigluQuant(t=t, c=128, e=8, k=2, x=x, weights=x == "e4m3")
        for t in (0, 1, 19)
        for x in BYTES
    ),
    *(
        SwigluQuant(t=6, c=128, e=8, k=4, routing=kind, weights=True, pow2=True)
        for kind in KINDS
        if kind not in ("uniform", "sizes", "zipf", "local")
    ),
    SwigluQuant(t=33, c=128, e=9, k=8, routing="local", weights=True),
    SwigluQuant(t=49, c=128, e=5, k=8, routing="sizes", weights=True),
    SwigluQuant(t=5, c=128, e=3, k=1),
    *(
        SwigluQuant(t=9, c=384, x=x, weights=weights_, pow2=pow2)
        for x in BYTES
        for weights_ in (False, True)
        for pow2 in (False, True)
    ),
    *(
        SwigluQuant(t=16, c=256, x=x, pow2=pow2, weights=pow2, data=data)
        for data in ("wide", "outlier", "subnormal", "saturating", "sparse", "zero", "tiny", "nonfinite")
        for x, pow2 in (("bf16", False), ("bf16", True), ("e4m3", True))
    ),
    SwigluQuant(t=64, c=512, bench=True),
)  # fmt: skip
MASKED = tuple(
    SwigluQuantMasked(t=t, capacity=t, e=256, bench=t == 128, **EXPERTS) for t in (1, 16, 128, 256)
)
MASKED_EDGES = (
    *(SwigluQuantMasked(t=t, c=128, e=8, k=2, capacity=t, weights=True) for t in (1, 5, 17)),
    SwigluQuantMasked(t=19, c=256, e=4, k=2, capacity=3, pow2=True),
    SwigluQuantMasked(t=9, c=128, e=8, k=2, capacity=33, x="e4m3", routing="no_middle"),
    SwigluQuantMasked(t=6, c=128, e=3, k=2, capacity=16, routing="none"),
    SwigluQuantMasked(t=13, c=128, e=3, k=1, capacity=13, routing="single"),
)
CASES = (*PRODUCTION, *MASKED, *EDGES, *MASKED_EDGES)

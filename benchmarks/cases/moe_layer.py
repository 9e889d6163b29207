"""Problems of moe_layer: DeepSeek-V3's layer in prefill and training, and edges.

Of a production problem the reference models some 64 tokens, with all experts' weights: a token's result
depends on no other one.  Which rows of a buffer the others have is not compared then; the small
problems are compared whole, and so is each operator at its true size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import _tokens
from benchmarks.cases._moe import Layer, exact
from benchmarks.cases._routed import Routed
from benchmarks.compare import Exact

OUTPUTS = ("out",)
TOLERANCE = Exact()  # of each operator, and the last sum is one rounding
parts, sample = _tokens.parts, _tokens.sample


@dataclass(frozen=True)
class MoeLayer(Layer):
    """cache: whether SwiGLU reads what training caches."""

    cache: bool = False

    def inputs(self, device: str) -> dict[str, Any]:
        return super().inputs(device) | {"from_cache": self.cache}

    def interpreter_steps(self) -> int:
        return self.forward_steps() + self.cache * self.cache_steps()


@dataclass(frozen=True)
class MoeLayerRouted(Routed, MoeLayer):
    """As in a model."""


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(result, the layer in float64 that quantises no activation): the error of FP8 in all."""
    return got, exact(arguments)


SMALL: dict[str, Any] = {
    "h": 128, "i": 128, "shared": 128, "e": 4, "k": 2, "groups": 2, "limit": 1,
}  # fmt: skip
PRODUCTION = (
    *(MoeLayer(t=t, layer="moe", bench=True) for t in (4096, 16384)),
    MoeLayer(t=4096, cache=True, layer="moe", bench=True),
    MoeLayer(t=4096, logits="bf16", layer="moe"),
    MoeLayerRouted(t=4096, layer="moe", bench=True),
    MoeLayerRouted(t=4096, routing="correlated", cache=True, layer="moe"),
)
EDGES = (
    MoeLayer(t=18, bench=True, **SMALL),
    MoeLayer(t=0, **SMALL),
    MoeLayer(t=1, **SMALL),
    MoeLayer(t=17, cache=True, logits="bf16", **SMALL | {"groups": 4, "limit": 3}),
    MoeLayer(t=19, data="spoiled", **SMALL),
    MoeLayer(t=17, bias="one", **SMALL | {"k": 1}),
    MoeLayer(t=20, **SMALL | {"h": 256, "shared": 256, "e": 2, "groups": 1}),
    MoeLayerRouted(t=18, **SMALL),
    MoeLayerRouted(t=9, routing="correlated", cache=True, **SMALL | {"e": 2, "k": 1}),
    # Those for a GPU.
    MoeLayer(t=130, h=512, i=256, shared=128, e=16, k=4),
    *(MoeLayer(t=300, h=256, i=256, shared=384, e=32, k=8, cache=cache) for cache in (False, True)),
    MoeLayer(t=513, h=256, i=128, shared=128, e=8, k=1, groups=1, limit=1, bias="one"),
    MoeLayer(t=200, h=256, i=128, shared=128, e=256, data="spoiled", cache=True),
    MoeLayer(t=1030, **SMALL),  # scales moved in two steps
    *(
        MoeLayerRouted(t=300, h=1152, i=256, shared=384, e=32, k=8, routing=kind)
        for kind in ("zipf", "correlated")
    ),
)
CASES = PRODUCTION + EDGES

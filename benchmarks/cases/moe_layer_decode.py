"""Problems of moe_layer_decode: DeepSeek-V3's layer for 1 to 256 tokens, and edges.

As of moe_layer, large problems are compared by a sample of tokens; their buffers are as large as the whole
problem's, so that nobody is cut off who was not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Part, _tokens
from benchmarks.cases._moe import Layer, exact
from benchmarks.cases._routed import Routed
from benchmarks.compare import Exact

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTPUTS = ("out",)
TOLERANCE = Exact()  # of each operator, and the last sum is one rounding
sample = _tokens.sample


@dataclass(frozen=True)
class MoeLayerDecode(Layer):
    """capacity: rows of each expert, 0 for as many as there are tokens.

    With fewer than tokens a result depends on the others: no sample of it may be taken.
    """

    capacity: int = 0

    def inputs(self, device: str) -> dict[str, Any]:
        return super().inputs(device) | {"capacity": self.capacity or None}

    def _rows(self) -> int:
        return self.e * (self.capacity or self.t)

    def interpreter_steps(self) -> int:
        return self.forward_steps()


@dataclass(frozen=True)
class MoeLayerDecodeRouted(Routed, MoeLayerDecode):
    """As in a model."""


def parts(arguments: dict[str, Any], elements: int) -> Iterator[Part]:
    """64 tokens or a multiple of it at a time; all at once where an expert may be full."""
    if arguments["capacity"] is not None:
        yield Part("all tokens", arguments, lambda result: result)
        return
    yield from _tokens.parts(arguments, elements)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(result, the layer in float64 that quantises no activation): the error of FP8 in all."""
    return got, exact(arguments)


SMALL: dict[str, Any] = {
    "h": 128, "i": 128, "shared": 128, "e": 4, "k": 2, "groups": 2, "limit": 1,
}  # fmt: skip
PRODUCTION = (
    # Drawing 11 GB of weights takes a second, compiling and comparing some 10 s of an H200 a case.
    *(MoeLayerDecode(t=t, layer="moe", bench=True) for t in (1, 16, 64, 128, 256)),
    MoeLayerDecodeRouted(t=128, routing="correlated", layer="moe"),
)
EDGES = (
    MoeLayerDecode(t=17, bench=True, **SMALL),
    MoeLayerDecode(t=0, **SMALL),
    MoeLayerDecode(t=1, **SMALL),
    MoeLayerDecode(t=1, capacity=3, **SMALL),
    MoeLayerDecode(t=18, logits="bf16", **SMALL | {"groups": 4, "limit": 3}),
    MoeLayerDecode(t=17, bias="one", **SMALL | {"k": 1}),
    MoeLayerDecode(t=19, data="spoiled", **SMALL),
    MoeLayerDecode(t=17, bias="one", capacity=5, **SMALL),  # an expert that is full
    MoeLayerDecodeRouted(t=9, capacity=7, **SMALL),
    MoeLayerDecode(t=33, h=512, i=256, shared=128, e=16, k=4),
    MoeLayerDecode(t=200, h=256, i=128, shared=128, e=32, capacity=40),
    MoeLayerDecode(t=1, **SMALL | {"h": 640}),  # K of a product split
)
CASES = PRODUCTION + EDGES

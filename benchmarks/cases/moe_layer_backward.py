"""Problems of moe_layer_backward: training steps of a layer, and edges.

At true size, 256 experts of 7168 and 2048, the operands and results are 68 GB with the transposed
payloads, and the gradients of the weights depend on every token: the timed problem has 32 experts, what
one of 8 GPUs holds.  There some 64 tokens are modelled, whose grad_x and grad_logits depend on no
other; the weights' gradients are compared whole in the small problems, those of grouped_gemm_wgrad
at their true size, and with all 256 experts those of some by harness.exact_backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Cost, Part
from benchmarks.cases._data import values
from benchmarks.cases._moe import Layer, exact_grad_x
from benchmarks.cases._routed import Routed
from benchmarks.cases._tokens import rows_of, sampled, slabs
from benchmarks.compare import Exact

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTPUTS = (
    "grad_x", "grad_logits", "grad_gate_up", "grad_down", "grad_shared_gate_up", "grad_shared_down",
)  # fmt: skip
TOLERANCE = Exact()  # of each operator


@dataclass(frozen=True)
class MoeLayerBackward(Layer):
    """The gradients from [t, h] bf16."""

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        grad = torch.empty(self.t, self.h, dtype=torch.bfloat16, device=device)
        if device != "meta":
            grad.copy_(values((self.t, self.h), "normal", self.generator(device).manual_seed(1)))
        return {"grad": grad} | super().inputs(device)

    def cost(self) -> Cost:
        forward = super().cost()
        elements = 3 * self.h * (self.e * self.i + self.shared)
        size = 2 if self.logits == "bf16" else 4
        return Cost(
            # Gate and up once more, two thirds; then twice all products.
            flops=forward.flops * 8 // 3,
            read=forward.read + 2 * self.t * self.h,
            written=forward.written + size * self.t * self.e + 4 * elements,
        )

    def interpreter_steps(self) -> int:
        return self.forward_steps() + self.cache_steps() + self.backward_steps()


@dataclass(frozen=True)
class MoeLayerBackwardRouted(Routed, MoeLayerBackward):
    """As in a model."""


def _tokens(arguments: dict[str, Any], rows: Any, name: str) -> Part:
    """What some tokens' gradients are; those of the weights are of all tokens and left out."""
    tokens = arguments["x"].shape[0]

    def take(result: Any) -> Any:
        # Not whole: left as it is, for the comparator to say so.
        if any(part is None or part.shape[0] != tokens for part in result[:2]):
            return result
        return (*(part[rows] for part in result[:2]), *(None for _ in result[2:]))

    return Part(name, rows_of(arguments, rows) | {"weight_gradients": False}, take)


def parts(arguments: dict[str, Any], elements: int) -> Iterator[Part]:
    """64 tokens or a multiple of it at a time."""
    for rows in slabs(arguments, elements):
        yield _tokens(arguments, rows, f"tokens from {rows.start}")


def sample(arguments: dict[str, Any]) -> Part:
    """Some 64 tokens."""
    return _tokens(arguments, sampled(arguments), "sampled tokens")


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(grad_x, the same in float64 without quantising activations or gradients)."""
    return got[0], exact_grad_x(arguments)


SMALL: dict[str, Any] = {
    "h": 128, "i": 128, "shared": 128, "e": 2, "k": 1, "groups": 2, "limit": 1,
}  # fmt: skip
ONE = SMALL | {"e": 1, "groups": 1}
PRODUCTION = (
    MoeLayerBackward(t=4096, e=32, layer="moe", bench=True),
    MoeLayerBackwardRouted(t=4096, e=32, routing="correlated", layer="moe"),
)
EDGES = (
    MoeLayerBackward(t=17, bench=True, **ONE),
    MoeLayerBackward(t=0, **SMALL),
    MoeLayerBackward(t=1, logits="bf16", **SMALL),
    MoeLayerBackward(t=18, data="spoiled", **ONE),
    MoeLayerBackwardRouted(t=17, **ONE),
    # Those for a GPU; tests/test_moe_layer.py has a layer of 8 experts for the interpreter.
    MoeLayerBackward(t=18, **SMALL),
    MoeLayerBackward(t=19, bias="one", logits="bf16", **SMALL),
    MoeLayerBackward(t=17, **SMALL | {"k": 2, "groups": 1}),
    MoeLayerBackward(t=130, h=512, i=256, shared=128, e=16, k=4),
    MoeLayerBackward(t=300, h=256, i=256, shared=384, e=32, k=8),
    MoeLayerBackward(t=513, h=256, i=128, shared=128, e=8, k=1, groups=1, limit=1, bias="one"),
    MoeLayerBackward(t=200, h=256, i=128, shared=128, e=256, data="spoiled"),
    MoeLayerBackward(t=1030, **SMALL),  # scales moved in two steps
    MoeLayerBackwardRouted(t=150, h=1152, i=256, shared=384, e=32, k=8),
)
CASES = PRODUCTION + EDGES

"""A small model that trains alike on two devices: of what is not of this repository, the order is stated.

Residual layers of ``MoELayer``, squares as the loss, SGD.  Why each step has the same bits on a CPU and
on a GPU: docs/numerics.md, "Training on two devices".
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch

# A power of two: its product with a gradient is exact, and so no compiler's fma changes a step.
RATE = 2.0
HIDDEN, INTERMEDIATE = 128, 128


class Size(NamedTuple):
    """``layers`` with a residual each, of ``experts`` of which a token takes two."""

    steps: int
    layers: int
    tokens: int
    experts: int


class Ordered(torch.autograd.Function):
    """a b^T of fp32 matrices [M, K] and [N, K]: terms are added one after the other."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return in_order(a, b)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = ctx.saved_tensors
        return in_order(grad, b.T), in_order(grad.T, a.T)


def in_order(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b^T, a product and a sum at a time, each one IEEE operation an element on any device."""
    out = a.new_zeros(a.shape[0], b.shape[0])
    for k in range(a.shape[1]):
        out = out + a[:, k, None] * b[:, k]
    return out


def logits(layer: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The router's product, in place of ``MoELayer.logits``."""
    found: torch.Tensor = Ordered.apply(tokens.float(), layer.router)  # type: ignore[no-untyped-call]
    return found


def model(module: Any, size: Size, device: str) -> list[Any]:
    """The layers of either package's ``moe_layer``; the same parameters for one size, large enough to
    matter."""
    torch.manual_seed(11)
    groups = {"num_groups": 1 + (size.experts > 3), "num_limited_groups": 1}
    made = [
        module.MoELayer(HIDDEN, INTERMEDIATE, size.experts, topk=2, **groups)
        for _ in range(size.layers)
    ]
    for layer in made:
        with torch.no_grad():
            for part in layer.parameters():
                part.mul_(8)
        layer.to(device)
        layer.logits = partial(logits, layer)
    return made


def train(layers: list[Any], size: Size, device: str) -> list[float]:
    """Losses before each step of SGD and after the last.

    The loss is the sum of squares over the number of elements, rounded up to a power of two.
    """
    generator = torch.Generator().manual_seed(12)
    drawn = (torch.randn(size.tokens, HIDDEN, generator=generator) for _ in range(2))
    x, target = (part.to(device) for part in drawn)
    weight = 2.0 ** -math.ceil(math.log2(x.numel()))

    def terms() -> torch.Tensor:
        h = x.bfloat16()
        for layer in layers:
            h = h + layer(h)
        squares: torch.Tensor = (h.float() - target).square() * weight
        return squares

    losses = []
    for _ in range(size.steps):
        found = terms()
        losses.append(math.fsum(found.flatten().tolist()))  # exact, in any order
        found.sum().backward()  # whose gradient is that of its terms, whatever their order
        for layer in layers:
            with torch.no_grad():
                for part in layer.parameters():
                    part.sub_(part.grad, alpha=RATE)
                    part.grad = None
            layer.update_bias()
    with torch.no_grad():
        return [*losses, math.fsum(terms().flatten().tolist())]


def state(layers: list[Any]) -> dict[str, torch.Tensor]:
    """All parameters and biases, on the CPU."""
    return {
        f"layer {number}, {name}": part.detach().cpu()
        for number, layer in enumerate(layers)
        for name, part in [*layer.named_parameters(), ("bias", layer.bias)]
    }

"""The mixture of experts layer once more: a loop over tokens in float64 that rounds where the layer does.

Quantising is the identity to autograd, as in the layer; where the layer quantises or rounds a gradient,
``Backward`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cases._moe import dequantised, options, route

Rounding = Callable[[torch.Tensor], torch.Tensor]


def fp8(x: torch.Tensor) -> torch.Tensor:
    """float64 of the last dimension in tiles of 128, in e4m3 with a power-of-two scale, and back."""
    tiles = x.unflatten(-1, (-1, 128))
    amax = tiles.abs().amax(dim=-1, keepdim=True)
    scale = torch.where(amax == 0, 1.0, torch.exp2(torch.ceil(torch.log2(amax / 448))))
    q = (tiles / scale).float().to(torch.float8_e4m3fn)
    wide: torch.Tensor = q.double() * scale
    return wide.flatten(-2)


def bf16(x: torch.Tensor) -> torch.Tensor:
    """Of float64, and back."""
    return x.float().bfloat16().double()


class Forward(torch.autograd.Function):
    """Rounds on the way forward only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rounding: Rounding) -> torch.Tensor:
        return rounding(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


class Backward(torch.autograd.Function):
    """Rounds on the way backward only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rounding: Rounding) -> torch.Tensor:
        ctx.rounding = rounding
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.rounding(grad), None


def there(x: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    found: torch.Tensor = Forward.apply(x, rounding)  # type: ignore[no-untyped-call]
    return found


def back(x: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    found: torch.Tensor = Backward.apply(x, rounding)  # type: ignore[no-untyped-call]
    return found


def expert(
    x: torch.Tensor, weight: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, *, cache: bool
) -> torch.Tensor:
    """One token through one expert: x [H] quantised, to [H]."""
    # The gradient of gate and up is quantised; what comes of it is rounded to bf16.
    inner = there(back(back(x, bf16) @ gate_up.T, fp8), bf16)
    if cache:
        inner = there(inner, fp8)
    gate, up = inner.chunk(2)
    h = there(gate * gate.sigmoid() * up * weight, fp8)
    return there(back(h, bf16) @ down.T, bf16)


def layer(
    arguments: dict[str, Any], weights: dict[str, torch.Tensor], *, cache: bool
) -> torch.Tensor:
    """[T, H] float64.  weights: the dequantised ones, by name; arguments: x and logits in float64."""
    x = there(arguments["x"], fp8)
    idx, routing = route(arguments["logits"], arguments["bias"], *options(arguments))
    out = []
    one = torch.ones((), dtype=torch.float64)
    for t, token in enumerate(x):
        rows = [
            expert(token, routing[t, k], weights["gate_up"][e], weights["down"][e], cache=cache)
            for k, e in enumerate(idx[t].tolist())
        ]
        # The gradient is quantised once, for all products that take it.
        routed = there(torch.stack(rows).sum(dim=0), bf16)
        shared = expert(token, one, weights["shared_gate_up"], weights["shared_down"], cache=cache)
        out.append(back(routed + shared, fp8))
    return there(torch.stack(out), bf16)


def wide(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(arguments with x and logits in float64, dequantised weights), leaves that want gradients."""
    leaves = {name: arguments[name].double().requires_grad_() for name in ("x", "logits")}
    weights = {}
    for name in ("gate_up", "down", "shared_gate_up", "shared_down"):
        every = range(len(arguments[name])) if arguments[name].dim() == 3 else [...]
        found = [dequantised(arguments, name, which) for which in every]
        weights[name] = (torch.stack(found) if len(found) > 1 else found[0]).requires_grad_()
    return arguments | leaves, weights


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Root of the mean square of the difference, relative to that of ``exact``."""
    return float((got.double() - exact).norm() / exact.norm())

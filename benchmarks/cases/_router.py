"""Logits and biases of a router, as they are and as they may come."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# DeepSeek-V3: n_routed_experts, n_activated_experts, n_expert_groups, n_limited_groups.
EXPERTS, CHOSEN, GROUPS, LIMITED_GROUPS = 256, 8, 8, 4

# What ``logits`` knows, and what each is for.
KINDS = {
    "normal": "randn",
    "ties": "multiples of a half between -1 and 1: five different scores",
    "equal": "all alike: nothing but the index decides",
    "saturated": "100 times randn: most scores are 1 or at the sigmoid's other end",
    "bottom": "all below -87: every score is the least there is",
    "nonfinite": "randn; one in eight is NaN, Inf or -Inf, and every fourth token is all NaN",
}
BIASES = {
    "none": "no bias",
    "normal": "0.1 times randn, as updates make it",
    "negative": "near -1.5: every biased score is below 0",
    "locked": "randn, but -Inf for three experts in four, and NaN for one in sixteen",
    "ties": "minus one half of either sign, so that scores and biases meet in ties",
}


def logits(tokens: int, experts: int, kind: str, generator: torch.Generator) -> torch.Tensor:
    """[T, E] fp32 of a kind of ``KINDS``, on the generator's device."""
    import torch

    shape = (tokens, experts)
    drawn = torch.randn(shape, generator=generator, device=generator.device)
    if kind == "normal":
        return drawn
    if kind == "ties":
        return (drawn * 2).round().clamp(-2, 2) / 2
    if kind == "equal":
        return torch.full_like(drawn, 0.25)
    if kind == "saturated":
        return drawn * 100
    if kind == "bottom":
        return -90 - drawn.abs()
    if kind == "nonfinite":
        numbers = drawn.new_tensor([float("nan"), float("inf"), -float("inf")])
        which = torch.randint(24, shape, generator=generator, device=generator.device)
        drawn = torch.where(which < 3, numbers[which.clamp(max=2)], drawn)
        drawn[3::4] = float("nan")
        return drawn
    raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")


def bias(experts: int, kind: str, generator: torch.Generator) -> torch.Tensor | None:
    """[E] fp32 of a kind of ``BIASES``, on the generator's device, or None."""
    import torch

    drawn = torch.randn(experts, generator=generator, device=generator.device)
    which = torch.randint(16, (experts,), generator=generator, device=generator.device)
    if kind == "none":
        return None
    if kind == "normal":
        return drawn * 0.1
    if kind == "negative":
        return drawn * 0.1 - 1.5
    if kind == "locked":
        locked = torch.where(which < 12, -float("inf"), drawn)
        return torch.where(which == 15, float("nan"), locked)
    if kind == "ties":
        return drawn.sign() / 2
    raise ValueError(f"kind: expected one of {', '.join(BIASES)}, got {kind!r}")


def different(tokens: int, experts: int, topk: int, generator: torch.Generator) -> torch.Tensor:
    """[T, K] int64: lists of different experts, every list as likely."""
    import torch

    drawn = torch.rand(tokens, experts, generator=generator, device=generator.device)
    return drawn.topk(topk, dim=1).indices

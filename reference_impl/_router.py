"""What the router's operators share: a token's scores and the order of its sums; the twin of
kernels/_router.py."""

from __future__ import annotations

import torch

from reference_impl._fp32 import exp, sigmoid


def pair_sum(x: torch.Tensor) -> torch.Tensor:
    """Sums of the rows of an fp32 tensor [N, C], as [N, 1]: in pairs, neighbours first.

    Zeros are put behind the columns, up to a power of two; then C / 2 sums of two, C / 4 of four, ...
    and at last one.
    """
    width = 1 << max(0, x.shape[1] - 1).bit_length()
    x = torch.nn.functional.pad(x, (0, width - x.shape[1]))
    while x.shape[1] > 1:
        x = x[:, 0::2] + x[:, 1::2]
    return x


def scores(logits: torch.Tensor, scoring: str) -> torch.Tensor:
    """[T, E] fp32: sigmoid of each logit, or exp(logit - the token's highest) over their sum."""
    x = logits.float()
    if scoring == "sigmoid":
        return sigmoid(x)
    powers = exp(x - x.amax(dim=1, keepdim=True))
    return powers / pair_sum(powers)

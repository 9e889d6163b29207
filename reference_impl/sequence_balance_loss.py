"""The loss that keeps experts in balance within each sequence, and its gradient (report, equations 17
to 20).

T tokens are B sequences of S tokens, one after the other.  For a sequence, in fp32::

    s[t, e] = sigmoid(logit[t, e])
    p[t, e] = s[t, e] / sum over experts of s[t]        the sum in pairs, neighbours first
    P[e]    = mean over tokens of p[t, e]
    f[e]    = E * count[e] / (K S)                      count: entries of the sequence's lists that are e
    loss    = alpha * sum over experts of f[e] * P[e]   the sum in pairs, neighbours first

With every expert chosen as often f is 1 and the loss alpha.  f is a count, without a gradient::

    a[e]  = alpha * f[e] / S
    m[t]  = sum over experts of a[e] * p[t, e]          in pairs, neighbours first
    grad_logits[t, e] = (a[e] - m[t]) * p[t, e] * (1 - s[t, e])         rounded once more, to their dtype

in this order, each product, quotient and difference rounded.  E count and K S are whole numbers, rounded
once to fp32.  The sum over tokens has no order: p, truncated to a multiple of 2^-40, is added in int64.
That sum is rounded to fp32 and divided by S.  Of p from 2^-17 on nothing is cut off.

A NaN among a token's logits makes that token's gradient NaN, and its sequence's loss; no other gradient.
Logits of +-Inf are those of the sigmoid's ends.  An entry of topk_idx that is no expert is not counted.

Shapes: E experts, K experts a token.
"""

from __future__ import annotations

import torch

from reference_impl._fp32 import sigmoid
from reference_impl._router import pair_sum

UNIT = 2.0**-40


def sequence_balance_loss(
    logits: torch.Tensor, topk_idx: torch.Tensor, sequence_length: int | None = None,
    alpha: float = 1e-4,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Balance loss of each sequence, and the gradient of their sum.

    logits: [T, E] fp32 or bf16, stride 1 along E; E from 1 to 1024.
    topk_idx: [T, K] int64, contiguous; what ``topk_gate`` chose.
    sequence_length: S, a divisor of T, up to 2^22; None if all tokens are one sequence.
    alpha: weight of the loss, taken as fp32.  For the mean of B sequences give alpha / B.

    Returns (loss [B] fp32, grad_logits [T, E] of the logits' dtype).
    """
    tokens, experts = logits.shape
    topk = topk_idx.shape[1]
    length = sequence_length or max(1, tokens)
    losses, gradients = (
        [logits.new_zeros(0, 1, dtype=torch.float32)],
        [logits.new_zeros(0, experts)],
    )
    for start in range(0, tokens, length):
        mine = slice(start, start + length)
        score = sigmoid(logits[mine].float())
        share = score / pair_sum(score)
        chosen = topk_idx[mine]
        chosen = chosen[(chosen >= 0) & (chosen < experts)]
        count = chosen.bincount(minlength=experts)
        number = score.new_tensor
        frequency = (count * experts).float() / number(float(topk * length))
        units = (share.nan_to_num() / UNIT).long().sum(dim=0)
        mean = (units.float() * UNIT / number(length)).where(~share.isnan().any(), torch.nan)
        losses.append(number(alpha) * pair_sum((frequency * mean)[None]))
        slope = number(alpha) * frequency / number(length)
        gradient = (slope - pair_sum(slope * share)) * share * (1 - score)
        gradients.append(gradient.to(logits.dtype))
    return torch.cat(losses)[:, 0].contiguous(), torch.cat(gradients)

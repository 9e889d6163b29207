"""Which experts a token goes to, and with what weights (report, section 2.1.2, equations 12 to 16).

For each token, in fp32::

    s[e] = sigmoid(logit[e])        or exp(logit[e] - highest) / sum of these: scoring "softmax"
    b[e] = s[e] + bias[e]           which only selects
    group score = sum of the two highest b of a group of E / num_groups neighbouring experts
    kept        = the num_limited_groups groups with the highest group scores
    topk_idx    = the K experts of kept groups with the highest b, the highest first
    weight[k]   = s[topk_idx[k]] / sum * route_scale            one division, one product

The sum of the K scores is in pairs, neighbours first, of the list's order; that of the softmax as
well, over all experts.  Without ``normalise`` the weight is s * route_scale.

Ties go to the lowest index, of groups and of experts.  An expert of a group that is not kept is
never chosen, whatever the others have: biased scores may be negative, or -Inf to lock experts out.
A group of one expert has that one's b as its score; if all groups are kept there is no such step.

No epsilon: by sigmoid a score is at least 1.6e-38 (reference_impl/_fp32.py), so no sum is 0, and eight
scores that are all at the bottom have weights of an eighth each.

NaN.  A b or a group score that is NaN (a NaN logit or bias; Inf - Inf) ranks as -Inf: such an expert
is chosen when too few others are left, so there always are K different experts.  Its score is
not touched: where one that is NaN is chosen, all the token's weights are NaN.  Logits of +-Inf are
those of the sigmoid's ends; with softmax a NaN, an Inf, or -Inf alone make all of a token's scores NaN.

``counts`` says how many tokens chose each expert; its sum is T K, as nobody is dropped.

Shapes: T tokens, E experts, K = topk.
"""

from __future__ import annotations

import torch

from reference_impl._router import pair_sum, scores


def topk_gate(  # noqa: PLR0913, PLR0917 (options of a router)
    logits: torch.Tensor, bias: torch.Tensor | None = None, topk: int = 8, num_groups: int = 8,
    num_limited_groups: int = 4, route_scale: float = 2.5, scoring: str = "sigmoid",
    normalise: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Choose each token's experts among a few groups, and weigh them by their scores.

    logits: [T, E] fp32 or bf16, stride 1 along E; E from 1 to 1024.
    bias: [E] fp32, or None for none; it moves the choice and never a weight.
    topk: K, from 1 to 32, and no more than there are experts in the kept groups.
    num_groups, num_limited_groups: groups of neighbouring experts, and how many of them a token may use;
    num_groups divides E, and 1 of 1 is no grouping.
    route_scale: positive; taken as fp32.
    scoring: "sigmoid" or "softmax".
    normalise: whether the weights are divided by their sum.

    Returns (topk_idx [T, K] int64, topk_weights [T, K] fp32, counts [E] int32).
    """
    experts = logits.shape[1]
    found = scores(logits, scoring)
    ranked = _nan_is_lowest(found if bias is None else found + bias)
    order = ranked.sort(dim=1, descending=True, stable=True).indices
    if num_limited_groups < num_groups:
        # Those of kept groups to the front, in their order.
        kept = _kept(ranked, num_groups, num_limited_groups).gather(1, order)
        order = order.gather(1, kept.int().sort(dim=1, descending=True, stable=True).indices)
    topk_idx = order[:, :topk].contiguous()
    weights = found.gather(1, topk_idx)
    if normalise:
        weights = weights / pair_sum(weights)
    counts = topk_idx.flatten().bincount(minlength=experts).int()
    return topk_idx, weights * weights.new_tensor(route_scale), counts


def _kept(ranked: torch.Tensor, num_groups: int, limit: int) -> torch.Tensor:
    """[T, E] bool: experts of the groups that a token may use."""
    tokens, experts = ranked.shape
    groups = ranked.reshape(tokens, num_groups, experts // num_groups)
    group_score = _nan_is_lowest(groups.topk(min(2, groups.shape[2])).values.sum(dim=2))
    best = group_score.sort(dim=1, descending=True, stable=True).indices[:, :limit]
    kept = torch.zeros_like(group_score, dtype=torch.bool).scatter(1, best, True)
    return kept[:, :, None].expand_as(groups).reshape(tokens, experts)


def _nan_is_lowest(x: torch.Tensor) -> torch.Tensor:
    return x.where(~x.isnan(), -torch.inf)

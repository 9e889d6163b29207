"""The gradient of ``topk_gate``: through the weights to the logits.

Nothing goes through the choice, and nothing to the bias, which only chooses.  For each token, in fp32,
with s, the sum S of the K chosen scores and route_scale c as ``topk_gate`` has them, g = grad_weights::

    p[k] = s[k] / S                     with normalise; without it p[k] = s[k]
    t    = sum over k of g[k] * p[k]    in pairs, neighbours first; 0 where nothing ties the weights
                                        together: sigmoid without normalise
    d[k] = c * (g[k] - t) * p[k]        a subtraction and two products, in this order

    grad_logits[topk_idx[k]] = d[k] * (1 - s[k])      sigmoid
                               d[k]                   softmax

and rounded once more, to the logits' dtype.  All other experts have 0; only with softmax and without
normalise every score shares in the sum of all, and an expert that is not chosen has c * (0 - t) * s.
(With normalise that sum cancels.)  Dividing by S first and multiplying with s, which is the same
formula, would overflow where all scores are at the sigmoid's lower end.

Inf and NaN go where IEEE 754 sends them, and to no other token.  An entry of topk_idx that is no expert
is left out: its score counts as 0 and its gradient is not looked at.

Shapes: T tokens, E experts, K chosen ones, which differ.
"""

from __future__ import annotations

import torch

from reference_impl._router import pair_sum, scores


def topk_gate_backward(
    grad_weights: torch.Tensor, logits: torch.Tensor, topk_idx: torch.Tensor,
    route_scale: float = 2.5, scoring: str = "sigmoid", normalise: bool = True,
) -> torch.Tensor:  # fmt: skip
    """Gradient of the logits from that of the weights.

    grad_weights: [T, K] fp32, contiguous; K from 1 to 32.
    logits: [T, E] fp32 or bf16, stride 1 along E, as ``topk_gate`` had them; E from 1 to 1024.
    topk_idx: [T, K] int64, contiguous; what ``topk_gate`` gave: no expert twice for a token.
    route_scale, scoring, normalise: as ``topk_gate`` had them.

    Returns grad_logits [T, E] of the logits' dtype.
    """
    experts = logits.shape[1]
    every = scores(logits, scoring)
    here = (topk_idx >= 0) & (topk_idx < experts)
    places = topk_idx.where(here, 0)
    found = every.gather(1, places).where(here, 0.0)
    grad = grad_weights.where(here, 0.0)
    scale = grad.new_tensor(route_scale)
    share = found / pair_sum(found) if normalise else found
    tied = normalise or scoring == "softmax"
    mean = pair_sum(grad * share) if tied else grad.new_zeros(())
    gradient = scale * (grad - mean) * share
    if scoring == "sigmoid":
        gradient = gradient * (1 - found)
    out = torch.zeros_like(every) if normalise or not tied else scale * (0 - mean) * every
    # Entries that are no expert's go to a column that is cut off.
    out = torch.nn.functional.pad(out, (0, 1)).scatter(1, topk_idx.where(here, experts), gradient)
    return out[:, :experts].to(logits.dtype).contiguous()

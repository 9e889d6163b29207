"""The gradient of ``unpermute`` with weights (report, equation 12, taken backward).

    grad_rows[slot[t, k]] = bf16(topk_weights[t, k] * grad[t])         one product in fp32, rounded
    grad_weights[t, k] = sum over channels of grad[t] * rows[slot[t, k]]

The sum, in fp32, goes over the channels in steps of 1024, one sum for each place h mod 1024::

    lane[i] = 0;  for h = i, i + 1024, ...:  lane[i] = fma(grad[t, h], row[h], lane[i])

(places without a channel stay 0) and the 1024 sums are then added in pairs, neighbours first: 512
sums of two, 256 of four, ... and at last one.

A slot that is negative or past the buffer stands nowhere: no row is read or written for it and its
weight's gradient is 0.  Rows in which no slot stands are not written.  Inf and NaN go where IEEE 754
sends them.  Without weights the gradient of ``unpermute`` is ``permute`` of grad.

Shapes: T tokens, H channels, K experts a token, R rows of the buffer.
"""

from __future__ import annotations

import torch

from reference_impl._fp32 import fma
from reference_impl._grouped import standing

LANES = 1024


def unpermute_backward(
    grad: torch.Tensor, rows: torch.Tensor, slot: torch.Tensor, topk_weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the rows and of the weights from that of the tokens' sums.

    grad: [T, H] bf16, stride 1 along H; H a multiple of 128.
    rows: [R, H] bf16, stride 1 along H, as ``unpermute`` had it.
    slot: [T, K] int32, contiguous; no row stands in it twice.
    topk_weights: [T, K] fp32, contiguous.

    Returns (grad_rows [R, H] bf16, grad_weights [T, K] fp32).
    """
    grad_rows = torch.empty(rows.shape, dtype=torch.bfloat16, device=rows.device)
    grad_weights = torch.zeros(slot.shape, device=rows.device)
    inside = standing(slot, rows.shape[0])
    for k in range(slot.shape[1]):
        here = inside[:, k]
        row, mine = slot[here, k].long(), grad[here].float()
        grad_rows[row] = (topk_weights[here, k, None] * mine).bfloat16()
        grad_weights[here, k] = dot(mine, rows[row].float())
    return grad_rows, grad_weights


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[N] fp32: products of the rows of two [N, H] tensors, summed in the order stated above."""
    lanes = a.new_zeros(a.shape[0], LANES)
    for start in range(0, a.shape[1], LANES):
        one, other = (part[:, start : start + LANES] for part in (a, b))
        lanes[:, : one.shape[1]] = fma(one, other, lanes[:, : one.shape[1]])
    while lanes.shape[1] > 1:
        lanes = lanes[:, 0::2] + lanes[:, 1::2]
    return lanes[:, 0]

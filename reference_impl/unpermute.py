"""Rows of experts back to their tokens: the combine of the mixture of experts (report, equation 12).

    out[t] = bf16(sum over k of topk_weights[t, k] * rows[slot[t, k]])

summed in fp32 in the order of k, from 0, one rounding a term::

    acc = 0
    for k = 0, 1, ...:  acc = fma(topk_weights[t, k], rows[slot[t, k]], acc)

and without weights acc = acc + rows[slot[t, k]].  So a token's result depends on its own rows alone.

A slot that is negative or past the buffer stands nowhere: it is skipped, and its weight is not
looked at (0 * NaN never happens).  The sum of a token without any is 0.  Inf and NaN of a row that is
summed go where IEEE 754 sends them; a sum of zeros is +0, since 0 is where it starts.

With an addend the result is out[t] = bf16(out[t] + addend[t]), from the out[t] above: two roundings.

Shapes: T tokens, H channels, K experts a token, R rows of the buffer.
"""

from __future__ import annotations

import torch

from reference_impl._fp32 import fma
from reference_impl._grouped import standing


def unpermute(
    rows: torch.Tensor,
    slot: torch.Tensor,
    topk_weights: torch.Tensor | None = None,
    addend: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum up each token's rows, weighted.

    rows: [R, H] bf16, stride 1 along H; H a multiple of 128.
    slot: [T, K] int32, contiguous: the row of each of a token's experts.
    topk_weights: [T, K] fp32, contiguous; None where ``swiglu_quant`` has applied them.
    addend: [T, H] bf16, stride 1 along H, to be added to the sum once this is bf16; or None.

    Returns out [T, H] bf16.
    """
    acc = torch.zeros(slot.shape[0], rows.shape[1], device=rows.device)
    inside = standing(slot, rows.shape[0])
    for k in range(slot.shape[1]):
        here = inside[:, k]
        row = rows[slot[here, k].long()].float()
        if topk_weights is None:
            acc[here] += row
        else:
            acc[here] = fma(topk_weights[here, k, None], row, acc[here])
    out = acc.bfloat16()
    return out if addend is None else out + addend

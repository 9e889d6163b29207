"""Tokens to expert order: the dispatch of the mixture of experts on one GPU (report, section 3.4).

    rows[slot[t, k]] = x[t]                              and the token's scales beside it
    row_weight[slot[t, k]] = topk_weights[t, k]

Rows are moved, not computed: payloads and scales keep their bits, so tokens are quantised first and
then moved, at half the bytes.  A token of K experts is read once and written K times.

A slot that is negative or past the buffer stands nowhere and nothing is written for it.  Rows of the
buffer in which no slot stands, the padding of docs/decisions/0004, are not written.

The gradient of x is the sum of its rows' gradients: ``unpermute`` without weights.  The gradient of
topk_weights is that of row_weight, taken at the slots.

Shapes: T tokens, H channels, K experts a token, R rows of the buffer.
"""

from __future__ import annotations

import torch

from reference_impl._grouped import standing


def permute(
    x: torch.Tensor,
    x_scale: torch.Tensor | None,
    slot: torch.Tensor,
    num_rows: int,
    topk_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Write each token's row wherever one of its experts reads it.

    x: [T, H] e4m3 or bf16, stride 1 along H; H a multiple of 128.
    x_scale: [T, H/128] fp32, of any strides, for e4m3; None for bf16.
    slot: [T, K] int32, contiguous, as ``expert_slots`` gives it; no row stands in it twice.
    num_rows: R, such as ``expert_rows`` gives it.
    topk_weights: [T, K] fp32, contiguous, or None.

    Returns (rows [R, H] of x's dtype, rows_scale [R, H/128] fp32 or None without x_scale, row_weight
    [R] fp32 or None without topk_weights).  Scales are stored as ``act_quant`` stores them: stride 1
    along R, columns padded to a multiple of 4 rows.
    """
    inside = standing(slot, num_rows)
    target = slot[inside].long()
    token, _ = inside.nonzero(as_tuple=True)
    rows = torch.empty(num_rows, x.shape[1], dtype=x.dtype, device=x.device)
    # As bytes: torch does not index FP8 on every device.
    rows.view(torch.uint8)[target] = x.contiguous().view(torch.uint8)[token]
    rows_scale = row_weight = None
    if x_scale is not None:
        padded = torch.empty(x_scale.shape[1], (num_rows + 3) // 4 * 4, device=x.device)
        rows_scale = padded.T[:num_rows]
        rows_scale[target] = x_scale[token]
    if topk_weights is not None:
        row_weight = torch.empty(num_rows, device=x.device)
        row_weight[target] = topk_weights[inside]
    return rows, rows_scale, row_weight

"""The experts' linear layers on rows that lie expert after expert (DeepSeek-V3 report, 3.3).

For each expert e, with the rows of its segment (reference_impl/_grouped.py)::

    out[rows] = fp8_gemm(x[rows], x_scale[rows], w[e], w_scale[e])     to the bit

so the sum leaves the tensor core every 128 channels and goes on in fp32, as reference_impl/fp8_gemm.py
states it.  Rows of padding are neither read nor written, whatever they hold; nor are rows that do not
fit the buffer, nor the weight of an expert that has no rows.  A negative count counts as 0.

Shapes: R rows of the buffer, E experts, N output channels, K input channels.
"""

from __future__ import annotations

import torch

from reference_impl._grouped import segment_starts
from reference_impl._grouped_gemm import of_one_size, picked, products


def grouped_gemm_contiguous(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    counts: torch.Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """out = (x * x_scale) (w[e] * w_scale[e])^T, e the expert of the row, for e4m3 operands.

    x: [R, K] e4m3fn, K a multiple of 128.  x_scale: [R, K/128] fp32, one per 1x128 tile.
    w: [E, N, K] e4m3fn.  w_scale: [E, ceil(N/128), K/128] fp32, one per 128x128 block.
    counts: [E] int32, rows of each expert.  A negative count counts as 0.
    out_dtype: bf16 or fp32.

    Returns [R, N] of out_dtype, row-major; rows of padding are not written.
    """
    rows = x.shape[0]
    counts = counts.long().clamp(min=0)
    starts = segment_starts(counts)[:-1]
    fitting = torch.minimum(counts, (rows - starts).clamp(min=0))
    out = torch.empty(rows, w.shape[1], dtype=out_dtype, device=x.device)
    for count, experts in of_one_size(fitting):
        places = starts[experts, None] + torch.arange(count, device=x.device)
        found = products(picked(x, places), x_scale[places], w, w_scale, experts)
        out[places] = found.to(out_dtype)
    return out

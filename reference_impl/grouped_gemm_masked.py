"""The experts' linear layers on a buffer of its own for each expert (decode in a CUDA graph).

For each expert e, with its first counts[e] rows::

    out[e, rows] = fp8_gemm(x[e, rows], x_scale[e, rows], w[e], w_scale[e])     to the bit

A count above the capacity C counts as C, a negative one as 0.  Other rows are neither read nor
written, whatever they hold, nor is the weight of an expert that has no rows.

Shapes: E experts, C rows of each one's buffer, N output channels, K input channels.
"""

from __future__ import annotations

import torch

from reference_impl._grouped_gemm import of_one_size, picked, products


def grouped_gemm_masked(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    counts: torch.Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """out[e] = (x[e] * x_scale[e]) (w[e] * w_scale[e])^T for e4m3 operands.

    x: [E, C, K] e4m3fn, K a multiple of 128.  x_scale: [E, C, K/128] fp32, one per 1x128 tile.
    w: [E, N, K] e4m3fn.  w_scale: [E, ceil(N/128), K/128] fp32, one per 128x128 block.
    counts: [E] int32, rows of each expert.  A count above C counts as C, a negative one as 0.
    out_dtype: bf16 or fp32.

    Returns [E, C, N] of out_dtype, row-major; rows from counts[e] on are not written.
    """
    out = torch.empty(*x.shape[:2], w.shape[1], dtype=out_dtype, device=x.device)
    for count, experts in of_one_size(counts.long().clamp(max=x.shape[1])):
        rows = slice(count)
        found = products(
            picked(x, experts, rows), x_scale[experts, rows], w, w_scale, experts
        )  # fmt: skip
        out[experts, rows] = found.to(out_dtype)
    return out

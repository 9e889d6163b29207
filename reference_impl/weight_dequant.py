"""The inverse of weight_quant: w = q * scale, one fp32 multiplication, then one rounding.

Shapes: N output rows, K input channels.
"""

from __future__ import annotations

import torch

from reference_impl._quant import TILE


def weight_dequant(
    q: torch.Tensor, scale: torch.Tensor, out_dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """Dequantise a weight held in 128x128 blocks.

    q: [N, K] e4m3fn.  scale: [ceil(N/128), ceil(K/128)] fp32.
    out_dtype: bf16, fp16 or fp32.

    Returns [N, K] of out_dtype, row-major.
    """
    n, k = q.shape
    spread = scale.repeat_interleave(TILE, dim=0)[:n].repeat_interleave(TILE, dim=1)[:, :k]
    return (q.float() * spread).to(out_dtype)

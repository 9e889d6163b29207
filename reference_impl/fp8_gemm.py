"""FP8 matrix product with fine-grained scales and promotion to fp32 (DeepSeek-V3 report, 3.3.2).

The tensor core's accumulator keeps too few bits for a long K, so the sum leaves it every 128
channels, is scaled there, and goes on in fp32::

    acc = 0
    for each k-block of 128 channels, in order:
        partial = x[:, block] w[:, block]^T          in the tensor core, from zero
        acc = fma(partial, x_scale * w_scale, acc)   in fp32, x_scale * w_scale rounded first
    out = acc rounded once to out_dtype

What ``partial`` is, is set by reference_impl.wgmma.partials; by default it is the bit-accurate
model of Hopper, and then a correct kernel on Hopper equals this in every bit.

Shapes: M tokens, N output rows, K input channels.
"""

from __future__ import annotations

import torch

from reference_impl._fp32 import fma
from reference_impl._quant import TILE
from reference_impl.wgmma import wgmma


def fp8_gemm(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """out = (x * x_scale) (w * w_scale)^T for e4m3 operands.

    x: [M, K] e4m3fn, K a multiple of 128.  x_scale: [M, K/128] fp32, one per 1x128 tile.
    w: [N, K] e4m3fn.  w_scale: [ceil(N/128), K/128] fp32, one per 128x128 block.
    out_dtype: bf16 or fp32.

    Returns [M, N] of out_dtype, row-major.
    """
    m, k = x.shape
    n = w.shape[0]
    w_scale_rows = w_scale.repeat_interleave(TILE, dim=0)[:n]
    acc = x.new_zeros(m, n, dtype=torch.float32)
    for block in range(k // TILE):
        channels = slice(block * TILE, (block + 1) * TILE)
        partial = wgmma(x[:, channels], w[:, channels])
        scale = x_scale[:, block, None] * w_scale_rows[None, :, block]
        acc = fma(partial, scale, acc)
    return acc.to(out_dtype)

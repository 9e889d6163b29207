"""Online quantisation of activations to FP8 in 1x128 tiles (DeepSeek-V3 report, section 3.3.2).

A tile is one token by 128 channels::

    amax = max |x|             over the tile
    scale = amax / 448         fp32; 448 is the largest e4m3 number
    q = e4m3(x / scale)        round to nearest even

so that x ~ q * scale.  A tile's scale depends on that tile alone, so an outlier costs precision
nowhere else, and Inf or NaN spoils its own tile only: a tile that holds Inf has scale Inf, payload
0 where x is finite and NaN where it is not; a tile that holds NaN has scale and payload NaN.

Shapes: M tokens, K channels.
"""

from __future__ import annotations

import torch

from reference_impl._quant import TILE, payload, scale_from_amax


def act_quant(
    x: torch.Tensor, pow2_scale: bool = False, amax_floor: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise activations to e4m3 with one fp32 scale per 1x128 tile.

    x: [M, K] bf16, fp16 or fp32; K a multiple of 128.
    pow2_scale: round every scale up to a power of two, so that re-tiling later is lossless.
    amax_floor: smallest amax assumed, None for none (DeepSeek's inference code uses 1e-4).

    Returns (q [M, K] e4m3fn row-major, scale [M, K/128] fp32).  The scales are stored with stride 1
    along M, columns padded to a multiple of 4 rows, as TMA and cuBLASLt want to read them.
    """
    m, k = x.shape
    tiles = x.float().reshape(m, k // TILE, TILE)
    scale = scale_from_amax(tiles.abs().amax(dim=-1), pow2_scale, amax_floor)
    q = payload(tiles, scale[:, :, None]).reshape(m, k)
    columns = scale.new_empty(k // TILE, (m + 3) // 4 * 4).T[:m]
    return q, columns.copy_(scale)

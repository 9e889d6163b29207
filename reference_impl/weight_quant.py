"""Quantisation of weights to FP8 in 128x128 blocks (DeepSeek-V3 report, section 3.3.2).

As act_quant, with one scale per block of 128 output rows by 128 input channels.  The last block in
either direction may be ragged (q_a+kv_a has 2112 = 16.5 x 128 rows): it is as if the weight were
padded with zeros, quantised and cropped (DeepSeek-V3, README_WEIGHTS.md).

Shapes: N output rows, K input channels.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from reference_impl._quant import TILE, payload, scale_from_amax


def weight_quant(
    w: torch.Tensor, pow2_scale: bool = False, amax_floor: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a weight to e4m3 with one fp32 scale per 128x128 block.

    w: [N, K] bf16, fp16 or fp32.
    pow2_scale: round every scale up to a power of two.
    amax_floor: smallest amax assumed, None for none.

    Returns (q [N, K] e4m3fn, scale [ceil(N/128), ceil(K/128)] fp32), both row-major.
    """
    n, k = w.shape
    padded = pad(w.float(), (0, -k % TILE, 0, -n % TILE))
    blocks = padded.reshape(padded.shape[0] // TILE, TILE, padded.shape[1] // TILE, TILE)
    scale = scale_from_amax(blocks.abs().amax(dim=(1, 3)), pow2_scale, amax_floor)
    q = payload(blocks, scale[:, None, :, None]).reshape(padded.shape)[:n, :k]
    return q.contiguous(), scale

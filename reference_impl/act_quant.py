"""Online quantisation of activations to FP8 in 1x128 tiles (DeepSeek-V3 report, section 3.3.2).

A tile is one token by 128 channels::

    amax = max |x|             over the tile
    scale = amax / 448         fp32; 448 is the largest e4m3 number
    q = e4m3(x / scale)        round to nearest even

so that x ~ q * scale.  A tile's scale depends on that tile alone, so an outlier costs precision
nowhere else, and Inf or NaN spoils its own tile only: a tile that holds Inf has scale Inf, payload
0 where x is finite and NaN where it is not; a tile that holds NaN has scale and payload NaN.

With ``counts`` the tokens are rows of experts (docs/decisions/0004), as the cache of SwiGLU's inputs
has them.

Shapes: M tokens, K channels, E experts.
"""

from __future__ import annotations

import torch

from reference_impl._grouped import rows_of_experts
from reference_impl._quant import TILE, payload, scale_from_amax


def act_quant(
    x: torch.Tensor,
    pow2_scale: bool = False,
    amax_floor: float | None = None,
    counts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise activations to e4m3 with one fp32 scale per 1x128 tile.

    x: [M, K] bf16, fp16 or fp32; K a multiple of 128.
    pow2_scale: round every scale up to a power of two, so that re-tiling later is lossless.
    amax_floor: smallest amax assumed, None for none (DeepSeek's inference code uses 1e-4).
    counts: [E] int32, contiguous: rows of each expert (docs/decisions/0004); None where all rows count.
        A negative count counts as 0, and rows past M are nobody's.  E up to 1024, E * M up to 2^32.

    Returns (q [M, K] e4m3fn row-major, scale [M, K/128] fp32).  The scales are stored with stride 1
    along M, columns padded to a multiple of 4 rows, as TMA and cuBLASLt want to read them.  With
    ``counts`` rows that are no expert's are neither read nor written.
    """
    if counts is not None:
        return _of_experts(x, pow2_scale, amax_floor, counts)
    m, k = x.shape
    tiles = x.float().reshape(m, k // TILE, TILE)
    scale = scale_from_amax(tiles.abs().amax(dim=-1), pow2_scale, amax_floor)
    q = payload(tiles, scale[:, :, None]).reshape(m, k)
    columns = scale.new_empty(k // TILE, (m + 3) // 4 * 4).T[:m]
    return q, columns.copy_(scale)


def _of_experts(
    x: torch.Tensor, pow2_scale: bool, amax_floor: float | None, counts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of experts, quantised; memory as it came elsewhere."""
    m, k = x.shape
    rows = torch.cat(rows_of_experts(counts, m))
    found, found_scale = act_quant(x[rows], pow2_scale, amax_floor)
    q = torch.empty(m, k, dtype=found.dtype, device=x.device)
    scale = torch.empty(k // TILE, (m + 3) // 4 * 4, device=x.device).T[:m]
    # As bytes: torch does not index FP8 on every device.
    q.view(torch.uint8)[rows] = found.view(torch.uint8)
    scale[rows] = found_scale
    return q, scale

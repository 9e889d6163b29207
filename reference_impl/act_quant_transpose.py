"""Activations quantised along tokens and transposed, as the product over tokens reads them (report,
sections 3.3.1 and 3.3.3: Wgrad in FP8, 1x128 tiles of the forward turned into 128x1 tiles).

A tile is 128 tokens of one channel; its scale and payload are those of ``act_quant``::

    v = x                                of bf16
    v = q * scale                        of e4m3, one rounding to fp32: none for powers of two
    new scale = max |v| / 448            over the tile; the next power of two for pow2_scale
    new q = e4m3(v / new scale)          stored transposed

A tile takes in 128 scales of the payload.  With ``pow2_scale``, and an input whose scales are powers
of two, the re-tile is exact wherever any power of two could be (docs/decisions/0006): only what lies
below the new tile's smallest payload, 2^-9 of its scale, is rounded.  ``lost`` counts, in each block
of 128 tokens by 128 channels, the elements for which new q * new scale = v does not hold in fp32: a
NaN is one, and so is each number that shares a tile with Inf or NaN.

With ``counts`` tiles begin with the experts' segments (docs/decisions/0004).  The padding of a segment
is written as zeros and never read.  Columns past the last segment, and their scales, are not written.

Shapes: R rows, C channels, E experts.
"""

from __future__ import annotations

import torch

from reference_impl._grouped import rows_of_experts, segment_starts
from reference_impl._quant import E4M3, TILE, payload, scale_from_amax

SLAB = 32  # tiles along tokens worked on at a time


def act_quant_transpose(
    x: torch.Tensor,
    x_scale: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
    pow2_scale: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Quantise to e4m3 with one fp32 scale for 128 tokens of a channel, and transpose.

    x: [R, C] bf16 or e4m3, stride 1 along C.  C: for bf16 a multiple of 16, for e4m3 of 128.
    x_scale: [R, C/128] fp32, of any strides, for e4m3; None for bf16.
    counts: [E] int32, contiguous: rows of each expert (docs/decisions/0004); None where all rows count.
        A negative count counts as 0, and rows past R are nobody's.  E up to 1024, E * R up to 2^32.
    pow2_scale: round every scale up to a power of two, without which a re-tile is not exact.

    Returns (q_t [C, R] e4m3, scale [R/128, C] fp32 contiguous, lost [R/128, C/128] int32 contiguous,
    or None for bf16), R/128 rounded up.  The rows of q_t lie R apart, rounded up to 128, as TMA wants
    them; what is between R and there is zero.
    """
    rows, channels = x.shape
    groups = -(-rows // TILE)
    q_t = torch.empty(channels, groups * TILE, dtype=E4M3, device=x.device)
    scale = torch.empty(groups, channels, device=x.device)
    lost = None
    if x_scale is not None:
        lost = torch.zeros(groups, channels // TILE, dtype=torch.int32, device=x.device)
    inside = _inside(counts, groups * TILE, rows, x.device)
    used = groups
    if counts is not None:
        used = min(groups, int(segment_starts(counts)[-1]) // TILE)
    for first in range(0, used, SLAB):
        tiles = slice(first, min(first + SLAB, used))
        places = slice(tiles.start * TILE, tiles.stop * TILE)
        v = _numbers(x, x_scale, places, inside[places]).unflatten(0, (-1, TILE))
        scale[tiles] = scale_from_amax(v.abs().amax(dim=1), pow2_scale, None)
        q = payload(v, scale[tiles, None])
        if lost is not None:
            changed = q.float() * scale[tiles, None] != v
            changed &= inside[places].unflatten(0, (-1, TILE, 1))
            lost[tiles] = changed.unflatten(2, (-1, TILE)).sum(dim=(1, 3), dtype=torch.int32)
        bits = q.view(torch.uint8).flatten(0, 1) * inside[places, None]
        q_t.view(torch.uint8)[:, places] = bits.T
    return q_t[:, :rows], scale, lost


def _inside(
    counts: torch.Tensor | None, places: int, rows: int, device: torch.device
) -> torch.Tensor:
    """[places] bool: the rows of the buffer that are an expert's, or all of them."""
    if counts is None:
        return torch.arange(places, device=device) < rows
    inside = torch.zeros(places, dtype=torch.bool, device=device)
    inside[torch.cat(rows_of_experts(counts, rows))] = True
    return inside


def _numbers(
    x: torch.Tensor, x_scale: torch.Tensor | None, places: slice, inside: torch.Tensor
) -> torch.Tensor:
    """[N, C] fp32: rows of bf16, or of e4m3 times their scales; 0 for what is not inside."""
    v = torch.zeros(len(inside), x.shape[1], device=x.device)
    taken = inside.nonzero()[:, 0]
    part = x[places]
    if x_scale is None:
        v[taken] = part[taken].float()
    else:
        q = part.view(torch.uint8)[taken].view(E4M3).float()
        v[taken] = q * x_scale[places][taken].repeat_interleave(TILE, dim=1)
    return v

"""What ``swiglu_quant`` and its backward share: rows that are there, as fp32 numbers, and silu.

Shapes: R rows of a buffer, N of them at a time, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from reference_impl._fp32 import sigmoid
from reference_impl._grouped import rows_of_experts
from reference_impl._quant import E4M3, TILE, payload, scale_from_amax

SLAB = 8192  # rows worked on at a time: exp on float64 takes memory


def rows_in_slabs(
    counts: torch.Tensor | None, like: torch.Tensor, capacity: int | None = None
) -> Iterator[torch.Tensor]:
    """Indices, int64, of the rows of ``like`` that are an expert's, or of all of them without
    ``counts``; at most SLAB at a time.  With a capacity the buffer has so many rows an expert."""
    if counts is None:
        rows = torch.arange(like.shape[0], device=like.device)
    elif capacity is not None:
        places = torch.arange(like.shape[0], device=like.device).view(-1, capacity)
        rows = places[places % capacity < counts[:, None]]
    else:
        rows = torch.cat(rows_of_experts(counts, like.shape[0]))
    if len(rows):
        yield from rows.split(SLAB)


def numbers(x: torch.Tensor, scale: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """[N, C] fp32: rows of bf16 as they are, rows of e4m3 times their scales, rounded to fp32."""
    if scale is None:
        return x[rows].float()
    # As bytes: torch does not index FP8 on every device.
    q = x.view(torch.uint8)[rows].view(E4M3).float()
    return q * scale[rows].repeat_interleave(TILE, dim=1)


def silu(gate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(gate * sigmoid(gate), sigmoid(gate)), the product rounded to fp32."""
    one = sigmoid(gate)
    return gate * one, one


class Quantised:
    """[R, C] e4m3 and [R, C/128] fp32 scales as ``act_quant`` stores them, written a few rows at a
    time."""

    def __init__(self, rows: int, channels: int, pow2_scale: bool, device: torch.device) -> None:
        self.q = torch.empty(rows, channels, dtype=E4M3, device=device)
        columns = torch.empty(channels // TILE, (rows + 3) // 4 * 4, device=device)
        self.scale = columns.T[:rows]
        self.pow2_scale = pow2_scale

    def write(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Quantise ``values`` [N, C] fp32 into ``rows``."""
        tiles = values.reshape(len(rows), -1, TILE)
        scale = scale_from_amax(tiles.abs().amax(dim=-1), self.pow2_scale, None)
        q = payload(tiles, scale[:, :, None]).reshape(values.shape)
        self.q.view(torch.uint8)[rows] = q.view(torch.uint8)
        self.scale[rows] = scale

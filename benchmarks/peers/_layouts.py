"""Layouts of operands as DeepGEMM's kernels for Hopper read them.

Shapes: E experts, R rows of a contiguous buffer, C rows of each expert's own.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TILE = 128  # rows of the largest tile, and what the experts' segments are aligned to


def segments(counts: torch.Tensor, rows: int) -> list[int]:
    """Rows of each expert's segment, padding included, as far as a buffer of ``rows`` holds them."""
    lengths = [-(-max(0, count) // TILE) * TILE for count in counts.tolist()]
    ends = [min(end, rows) for end in accumulate(lengths, initial=0)]
    return [end - start for start, end in pairwise(ends)]


def experts(counts: torch.Tensor, rows: int) -> torch.Tensor:
    """[R] int32: the expert of each row, -1 where it is padding."""
    import torch

    found, start = torch.full((rows,), -1, dtype=torch.int32), 0
    for expert, count in enumerate(counts.clamp(min=0).tolist()):
        found[start : start + count] = expert
        start += -(-count // TILE) * TILE
    return found.to(counts.device)


def with_rows(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """[E, C, ...] with ``rows`` rows for each expert, the further ones 0."""
    import torch

    if tensor.shape[1] == rows:
        return tensor
    flat = tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
    found = flat.new_zeros(flat.shape[0], rows, flat.shape[2])
    found[:, : flat.shape[1]] = flat
    return found.view(tensor.dtype)


def by_columns(scale: torch.Tensor) -> torch.Tensor:
    """[..., M, B] fp32 with stride 1 along M, in columns of a multiple of 4, whose rest is 0.

    Of the rest, 0 times a scale must not be NaN: the gradient's tile past N is added to the next expert.
    """
    *groups, m, blocks = scale.shape
    columns = scale.new_zeros(*groups, blocks, -(-m // 4) * 4).mT[..., :m, :]
    return columns.copy_(scale)


def by_expert(
    fp8: torch.Tensor, scale: torch.Tensor, sizes: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """([channels x rows of all segments], [channels, R'/128]) of a [channels, R] and its [R/128, channels].

    Each segment is a matrix of its own, [channels, its rows], and they lie one after the other.
    """
    import torch

    used = fp8.view(torch.uint8)[:, : sum(sizes)]
    flat = torch.cat([part.flatten() for part in used.split(sizes, dim=1)])
    return flat.view(fp8.dtype), by_columns(scale[: sum(sizes) // TILE].T)

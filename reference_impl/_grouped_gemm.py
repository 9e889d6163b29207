"""What the grouped products share: FP8 products of several experts, each promoted in fp32.

Experts with as many rows as each other are multiplied at once: nothing is summed over experts, so
that changes no bit, and 256 experts of a few rows each take as long as one of them.

Shapes: E experts, G of them at once, M rows of each, N output columns, K input channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from reference_impl._fp32 import fma
from reference_impl._quant import TILE
from reference_impl.wgmma import wgmma


def of_one_size(sizes: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(size, indices [G] int64 of those that have it) for each positive size of ``sizes`` [E]."""
    for size in sizes[sizes > 0].unique().tolist():
        yield size, (sizes == size).nonzero()[:, 0]


def picked(fp8: torch.Tensor, *index: torch.Tensor | slice) -> torch.Tensor:
    """``fp8[index]`` as bytes, since torch does not index FP8 on every device."""
    return fp8.view(torch.uint8)[index].view(fp8.dtype)


def products(
    x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
    experts: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Each group of rows times its expert's weight, transposed, as reference_impl/fp8_gemm.py has it.

    x: [G, M, K] e4m3fn.  x_scale: [G, M, K/128] fp32.
    w: [E, N, K] e4m3fn.  w_scale: [E, ceil(N/128), K/128] fp32.
    experts: [G] int64, the expert of each group.

    Returns [G, M, N] fp32, not rounded further.
    """
    n = w.shape[1]
    every = slice(None)
    acc = x.new_zeros(*x.shape[:2], n, dtype=torch.float32)
    for block in range(x.shape[2] // TILE):
        channels = slice(block * TILE, (block + 1) * TILE)
        partial = wgmma(x[:, :, channels], picked(w, experts, every, channels))
        columns = w_scale[experts, :, block].repeat_interleave(TILE, dim=1)[:, :n]
        acc = fma(partial, x_scale[:, :, block, None] * columns[:, None, :], acc)
    return acc

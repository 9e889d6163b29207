"""The gradient of the experts' weights (DeepSeek-V3 report, 3.3.1: Wgrad in FP8).

A sum over an expert's tokens, so both operands lie with the tokens along their rows, quantised 128x1
(act_quant_transpose).  The sum leaves the tensor core every 128 rows::

    acc = out[e], or 0 without it
    for each block of 128 rows of expert e's segment, in order:
        partial = grad_t[:, block] x_t[:, block]^T                     in the tensor core, from zero
        acc = fma(partial, grad_scale[block, n] * x_scale[block, k], acc)     fp32, scales' product first
    out[e] = acc

With ``out`` the gradients of several micro-batches are one sum in the order of the calls: what it
holds is where the sum starts, not something added at the end.

A block is multiplied whole, its padding included: payloads there must be 0 in both operands, as
act_quant_transpose writes them, and its scales are those of the block's rows.  What lies behind the
last segment is not read.  An expert without rows has the gradient 0, or keeps what ``out`` holds.  A
negative count counts as 0, and blocks that do not fit the buffer are left out.

Shapes: R rows of the buffer, a multiple of 128; E experts, N output channels, K input channels.
"""

from __future__ import annotations

import torch

from reference_impl._fp32 import fma
from reference_impl._grouped import ALIGNMENT, segment_starts
from reference_impl._grouped_gemm import of_one_size, picked
from reference_impl.wgmma import wgmma


def grouped_gemm_wgrad(
    grad_t: torch.Tensor,
    grad_scale: torch.Tensor,
    x_t: torch.Tensor,
    x_scale: torch.Tensor,
    counts: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[e] += the sum over expert e's rows of grad x^T, from e4m3 operands.

    grad_t: [N, R] e4m3fn.  grad_scale: [R/128, N] fp32, one per 128 rows and channel.
    x_t: [K, R] e4m3fn.  x_scale: [R/128, K] fp32.
    counts: [E] int32, rows of each expert.  A negative count counts as 0.
    out: [E, N, K] fp32, written in place; without it the sums start from 0.

    Returns ``out``, or a new [E, N, K] fp32.
    """
    (n, rows), k = grad_t.shape, x_t.shape[0]
    counts = counts.long().clamp(min=0)
    first = segment_starts(counts)[:-1] // ALIGNMENT
    blocks = torch.minimum(-(-counts // ALIGNMENT), (rows // ALIGNMENT - first).clamp(min=0))
    if out is None:
        out = grad_t.new_zeros(len(counts), n, k, dtype=torch.float32)
    for size, experts in of_one_size(blocks):
        acc = out[experts]
        for step in range(size):
            block = first[experts] + step
            partial = wgmma(_columns(grad_t, block), _columns(x_t, block))
            scale = grad_scale[block, :, None] * x_scale[block, None, :]
            acc = fma(partial, scale, acc)
        out[experts] = acc
    return out


def _columns(fp8: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """[G, channels, 128] of a [channels, R]: the columns of each group's block."""
    cut = fp8.unflatten(1, (-1, ALIGNMENT))
    return picked(cut, slice(None), block).transpose(0, 1)

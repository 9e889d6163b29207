"""The gradient of ``swiglu_quant`` from the cached e4m3 gate and up (report, section 3.3.3).

With h = w * silu(g) * u and silu'(g) = sigmoid(g) * (1 + g * (1 - sigmoid(g)))::

    g, u = q * scale                         the cache
    p = sigmoid(g)                           as reference_impl/_fp32.py states it
    s = g * p                                silu(g)
    d = grad_h * w                           grad_h without weights
    grad_up = d * s
    grad_gate = (d * u) * fma(s, 1 - p, p)   silu'(g) = p + s * (1 - p)
    grad_w = sum over channels of grad_h * (s * u)

In fp32, a rounding after each operation that is written; fma is one.  Gradients are quantised in 1x128
tiles as ``act_quant`` does, those of gate in the first half of the channels.  s and s * u have the
bits that the forward's recompute has.

The sum has a sum for each of the 128 places in a tile, over the tiles in their order::

    lane[i] = 0;  for c = i, i + 128, ...:  lane[i] = fma(grad_h[r, c], (s * u)[r, c], lane[i])

and the 128 sums are then added in pairs, neighbours first: 64 sums of two, 32 of four, ... and at
last one.

Inf and NaN go where IEEE 754 sends them: they stay in their 128 channels of gate and of up, and
their row of grad_w.

Shapes: R rows, I channels of h, E experts.
"""

from __future__ import annotations

import torch

from reference_impl._fp32 import fma
from reference_impl._quant import TILE
from reference_impl._swiglu import Quantised, numbers, rows_in_slabs, silu


def swiglu_quant_backward(
    grad_h: torch.Tensor,
    gate_up_q: torch.Tensor,
    gate_up_scale: torch.Tensor,
    counts: torch.Tensor | None = None,
    row_weight: torch.Tensor | None = None,
    pow2_scale: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of gate and up, in e4m3 with one fp32 scale per 1x128 tile, and of the weights.

    grad_h: [R, I] bf16, stride 1 along I; I a multiple of 128.
    gate_up_q: [R, 2I] e4m3, stride 1 along 2I: gate and up as they were cached.
    gate_up_scale: [R, 2I/128] fp32, of any strides.
    counts: [E] int32, contiguous: rows of each expert (docs/decisions/0004); None where all rows count.
        A negative count counts as 0, and rows past R are nobody's.  E up to 1024, E * R up to 2^32.
    row_weight: [R] fp32, contiguous, as ``swiglu_quant`` had it, or None.
    pow2_scale: round every scale up to a power of two, so that re-tiling later is lossless.

    Returns (grad_gate_up_q [R, 2I] e4m3, grad_gate_up_scale [R, 2I/128] fp32, stored as ``act_quant``
    stores them, grad_row_weight [R] fp32 or None without row_weight).  With ``counts`` rows that are
    no expert's are neither read nor written.
    """
    rows_, channels = grad_h.shape
    out = Quantised(rows_, 2 * channels, pow2_scale, grad_h.device)
    grad_weight = None
    if row_weight is not None:
        grad_weight = torch.empty(rows_, device=grad_h.device)
    for rows in rows_in_slabs(counts, grad_h):
        grad = numbers(grad_h, None, rows)
        gate, up = numbers(gate_up_q, gate_up_scale, rows).split(channels, dim=1)
        s, p = silu(gate)
        d = grad
        if row_weight is not None and grad_weight is not None:
            grad_weight[rows] = dot(grad, s * up)
            d = grad * row_weight[rows, None]
        grad_gate = (d * up) * fma(s, 1.0 - p, p)
        out.write(rows, torch.cat([grad_gate, d * s], dim=1))
    return out.q, out.scale, grad_weight


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[N] fp32: products of the rows of two [N, I] tensors, summed in the order stated above."""
    lanes = a.new_zeros(a.shape[0], TILE)
    for one, other in zip(a.split(TILE, dim=1), b.split(TILE, dim=1), strict=True):
        lanes = fma(one, other, lanes)
    while lanes.shape[1] > 1:
        lanes = lanes[:, 0::2] + lanes[:, 1::2]
    return lanes[:, 0]

"""SwiGLU between an expert's projections, quantised for the second one (report, section 3.3.3).

    silu(g) = g * sigmoid(g)                 sigmoid as reference_impl/_fp32.py states it
    h = silu(gate) * up                      gate is the first half of the channels, up the second
    h = h * row_weight[r]                    where there are weights
    q, scale = h in 1x128 tiles              as ``act_quant``

In fp32.  There is a rounding after each operation that is written: the product with sigmoid, the
product with up, the product with the weight.  Of an e4m3 input gate and up are first q * scale, one
rounding, and none where the scale is a power of two and nothing under- or overflows.

The function on the cached e4m3 gate_up is the recompute of the backward: same operands, same bits.

sigmoid is never below 1.6e-38, so silu(g) is g * 1.6e-38 below -87, and -Inf for -Inf.  Inf and NaN
go where IEEE 754 sends them, and stay in their 128 channels of h.

Shapes: R rows, I channels of h, E experts.
"""

from __future__ import annotations

import torch

from reference_impl._swiglu import Quantised, numbers, rows_in_slabs, silu


def swiglu_quant(
    gate_up: torch.Tensor,
    gate_up_scale: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
    row_weight: torch.Tensor | None = None,
    pow2_scale: bool = False,
    capacity: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """silu(gate) * up, times the routing weight, in e4m3 with one fp32 scale per 1x128 tile.

    gate_up: [R, 2I] bf16 or e4m3, stride 1 along 2I; I a multiple of 128.
    gate_up_scale: [R, 2I/128] fp32, of any strides, for e4m3; None for bf16.
    counts: [E] int32, contiguous: rows of each expert (docs/decisions/0004); None where all rows count.
        A negative count counts as 0, and rows past R are nobody's.  E up to 1024, E * R up to 2^32.
    row_weight: [R] fp32, contiguous, or None.
    pow2_scale: round every scale up to a power of two, so that re-tiling later is lossless.
    capacity: C of a masked buffer (docs/decisions/0004), of R = E C rows; None for segments.

    Returns (h_q [R, I] e4m3, h_scale [R, I/128] fp32).  Scales are stored as ``act_quant`` stores
    them: stride 1 along R, columns padded to a multiple of 4 rows.  With ``counts`` rows that are no
    expert's are neither read nor written.
    """
    channels = gate_up.shape[1] // 2
    out = Quantised(gate_up.shape[0], channels, pow2_scale, gate_up.device)
    for rows in rows_in_slabs(counts, gate_up, capacity):
        gate, up = numbers(gate_up, gate_up_scale, rows).split(channels, dim=1)
        h = silu(gate)[0] * up
        if row_weight is not None:
            h = h * row_weight[rows, None]
        out.write(rows, h)
    return out.q, out.scale

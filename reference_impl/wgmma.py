"""A bit-accurate model of Hopper's FP8 tensor core instruction, wgmma with an fp32 accumulator.

One instruction multiplies 32 pairs per output element and adds them to the accumulator.  The
tensor core does not do so in fp32 (section 3.5.2 of the DeepSeek-V3 report; measured on the chip):

1. every product is exact, with exponent exponent(a) + exponent(b), not normalised; a subnormal has
   its format's smallest exponent (-6 for e4m3, -14 for e5m2);
2. the 32 products and the accumulator are aligned at the largest exponent among them, and each is
   truncated toward zero to 13 fractional bits below it;
3. the 33 terms are summed exactly, and the sum is truncated toward zero to 13 mantissa bits.

A longer K is a chain of such instructions.  The same effect is described in MMA-Sim
(arXiv 2511.10909); docs/numerics.md says how this model was checked against the chip.

``partials`` chooses what every FP8 GEMM of this package uses for its products of 128 channels.

Shapes: M by K times (N by K) transposed; any dimensions before these are several such products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

STEP = 32  # products of one instruction
FRACTION = 13  # bits kept below the largest exponent, and in the result's mantissa
EXPONENT = {
    torch.float8_e4m3fn: (3, 0x0F, 7),
    torch.float8_e5m2: (2, 0x1F, 15),
}  # mantissa bits, mask, bias
NOTHING = -(2**14)  # exponent of a term that is 0

MODES = ("hopper", "exact", "fp32")
_mode = "hopper"


@contextmanager
def partials(mode: str) -> Iterator[None]:
    """Choose how products are summed inside the block: ``hopper`` (this model), ``exact`` (float64,
    rounded once to fp32; its sums are exact for e4m3, those of e5m2 may carry float64 roundings) or
    ``fp32`` (torch.matmul, whose order is the library's)."""
    global _mode  # noqa: PLW0603 (a setting of the module, by design)
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    before, _mode = _mode, mode
    try:
        yield
    finally:
        _mode = before


def wgmma(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x w^T as a chain of FP8 wgmma instructions from a zero accumulator would give it.

    x: [..., M, K], w: [..., N, K], each e4m3fn or e5m2; K a multiple of 32.

    Returns [..., M, N] fp32.
    """
    if _mode == "exact":
        return (x.double() @ w.double().mT).float()
    if _mode == "fp32":
        return x.float() @ w.float().mT
    accumulator = x.new_zeros(*x.shape[:-1], w.shape[-2], dtype=torch.float32)
    for k in range(0, x.shape[-1], STEP):
        accumulator = _instruction(accumulator, x[..., k : k + STEP], w[..., k : k + STEP])
    return accumulator


def _instruction(accumulator: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """One wgmma: [..., M, N] fp32 plus [..., M, 32] times [..., N, 32] transposed.

    Works on one of the 32 products at a time, all of [..., M, N] at once.  fp32 holds the sum exactly:
    an aligned term is an integer below 4 x 2^13 (two significands below 2) and there are 33.
    """
    x_value, x_exponent = _decode(x)
    w_value, w_exponent = _decode(w)
    largest = torch.where(accumulator == 0, NOTHING, _exponent(accumulator))
    for k in range(x.shape[-1]):
        largest = torch.maximum(largest, x_exponent[..., k, None] + w_exponent[..., None, :, k])
    unit = torch.exp2((FRACTION - largest).clamp(-126, 127).float())
    total = torch.trunc(accumulator * unit)
    for k in range(x.shape[-1]):
        total += torch.trunc(x_value[..., k, None] * w_value[..., None, :, k] * unit)
    return _truncate(total / unit)


def _decode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Value (fp32) and exponent (int32) of FP8 numbers; zeros have exponent ``NOTHING`` / 2."""
    mantissa_bits, mask, bias = EXPONENT[x.dtype]
    field = (x.view(torch.uint8).int() >> mantissa_bits) & mask
    value = x.float()
    # A zero takes no part in the alignment: half of NOTHING, so that a sum of two stays in range.
    return value, torch.where(value == 0, NOTHING // 2, field.clamp(min=1) - bias)


def _exponent(x: torch.Tensor) -> torch.Tensor:
    """Exponent (int32) of normal fp32 numbers."""
    return ((x.view(torch.int32) >> 23) & 0xFF) - 127


def _truncate(x: torch.Tensor) -> torch.Tensor:
    """fp32 with the mantissa cut to 13 bits, toward zero."""
    return (x.view(torch.int32) & ~((1 << (23 - FRACTION)) - 1)).view(torch.float32)

"""What the quantisers share: from the largest magnitude of a group to its scale and its payload."""

from __future__ import annotations

import torch

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
TILE = 128  # channels of an activation tile, and the side of a weight block


def scale_from_amax(amax: torch.Tensor, pow2_scale: bool, amax_floor: float | None) -> torch.Tensor:
    """The fp32 multiplier that dequantises a group whose largest magnitude is ``amax`` (fp32).

    scale = amax / 448, by IEEE division, or the next normal power of two at or above it (2^-126 for
    subnormal ones).  Where that is 0
    (an all-zero group, or one so small that the division underflows) the scale is 1 and so every
    payload is 0.  No other floor is applied unless ``amax_floor`` gives one; DeepSeek-V3's
    inference/kernel.py floors at 1e-4.  Inf gives an infinite scale, NaN a NaN scale.
    """
    if amax_floor is not None:
        amax = torch.maximum(
            amax, torch.tensor(amax_floor, dtype=torch.float32, device=amax.device)
        )
    # By a tensor: a division by a Python number is a product with its inverse on a GPU.
    scale = amax / torch.full_like(amax, E4M3_MAX)
    if pow2_scale:
        # On the bits, since log2 is off by an ulp near powers of two: adding all mantissa bits
        # carries into the exponent unless the mantissa was 0, and then the mantissa is cleared.
        bits = (scale.view(torch.int32) + 0x007F_FFFF) & 0x7F80_0000
        scale = torch.where(scale.isnan(), scale, bits.view(torch.float32))
    return torch.where(scale == 0, 1.0, scale)


def payload(groups: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """e4m3 payload of ``groups`` (fp32), rounded to nearest even after IEEE division by ``scale``.

    Clamped to +-448 first, since e4m3fn has no infinity and what a cast does beyond its range
    changed between versions of torch.  NaN (0 / NaN, Inf / Inf) stays NaN.
    """
    return (groups / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)

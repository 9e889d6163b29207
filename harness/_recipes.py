"""Errors of FP8 recipes on given activations, and how far these are from normal ones.

Shapes: x [M, K] activations, w [N, K] weight, fp32, K a multiple of 128.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks.compare import errors_against_exact
from reference_impl._quant import E4M3, E4M3_MAX, TILE
from reference_impl.act_quant import act_quant
from reference_impl.fp8_gemm import fp8_gemm
from reference_impl.weight_dequant import weight_dequant
from reference_impl.weight_quant import weight_quant

if TYPE_CHECKING:
    from collections.abc import Callable

LOUD = 4.0  # an outlier channel's rms, in medians of all channels'


class Shape(NamedTuple):
    """How numbers are distributed.

    peak: amax / rms.  tile_peak: the same of a 1x128 tile, the median of those that are not all 0.
    largest: share of all squares that the largest element of each tile has.
    kurtosis: mean fourth power over squared variance, about the mean; 3 for normal numbers.
    loud: share of channels of which the rms is more than ``LOUD`` times the median channel's.
    """

    peak: float
    tile_peak: float
    largest: float
    kurtosis: float
    loud: float


class Error(NamedTuple):
    """rms of the error over rms of what was quantised: of all, and of the worst 1x128 tile.

    lost: share of the elements other than 0 that became 0.
    """

    rms: float
    worst_tile: float
    lost: float


class Products(NamedTuple):
    """rms errors of x w^T against float64, each relative to the exact one's rms.

    fp32_scales, pow2_scales: quantised in tiles and blocks, multiplied by ``fp8_gemm``, in bf16.
    per_tensor: one scale for x and one for w, in float64, so without the tensor core's part.
    accumulating: ``fp8_gemm`` in fp32 against the exact product of the same payloads and scales.
    bf16: both operands rounded to bf16, multiplied in float64, rounded to bf16.
    rounding: the exact product, rounded to bf16.
    """

    fp32_scales: float
    pow2_scales: float
    per_tensor: float
    accumulating: float
    bf16: float
    rounding: float


def shape_of(x: torch.Tensor) -> Shape:
    """Statistics of x."""
    x = x.double()
    tiles = x.reshape(-1, TILE)
    largest = tiles.abs().amax(dim=1)
    peaks = largest / rms(tiles, 1)
    apart = x - x.mean()
    channels = rms(x, 0)
    return Shape(
        float(x.abs().max() / rms(x)),
        float(peaks[peaks.isfinite()].median()),
        float(largest.square().sum() / tiles.square().sum()),
        float(apart.pow(4).mean() / apart.square().mean().square()),
        float((channels > LOUD * channels.median()).double().mean()),
    )


def rms(x: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Root of the mean square, over one dimension or over all."""
    return x.square().mean(dim=dim).sqrt()


def tiled(x: torch.Tensor, pow2_scale: bool = False) -> torch.Tensor:
    """x in 1x128 tiles, as ``act_quant`` leaves it: payload times scale, float64."""
    q, scale = act_quant(x, pow2_scale)
    return q.double() * scale.double().repeat_interleave(TILE, dim=1)


def per_token(x: torch.Tensor) -> torch.Tensor:
    """x with one scale a token."""
    return _scaled(x, x.abs().amax(dim=1, keepdim=True))


def per_tensor(x: torch.Tensor) -> torch.Tensor:
    """x with one scale."""
    return _scaled(x, x.abs().max())


def in_bf16(x: torch.Tensor) -> torch.Tensor:
    """x rounded to bf16."""
    return x.bfloat16().double()


def _scaled(x: torch.Tensor, amax: torch.Tensor) -> torch.Tensor:
    scale = amax / E4M3_MAX
    scale = torch.where(scale == 0, 1.0, scale)
    q = (x / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)
    return q.double() * scale.double()


RECIPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "1x128": tiled,
    "1x128, pow2": lambda x: tiled(x, pow2_scale=True),
    "per token": per_token,
    "per tensor": per_tensor,
    "bf16": in_bf16,
}


def error_of(dequantised: torch.Tensor, x: torch.Tensor) -> Error:
    """Errors of what a recipe made of x.  Tiles that are all 0 are left out."""
    x = x.double()
    tile, wrong = rms(x.reshape(-1, TILE), 1), rms((dequantised - x).reshape(-1, TILE), 1)
    kept = tile > 0
    return Error(
        float(rms(dequantised - x) / rms(x)),
        float((wrong[kept] / tile[kept]).max()),
        float((dequantised[x != 0] == 0).double().mean()),
    )


def products(x: torch.Tensor, w: torch.Tensor) -> Products:
    """Errors of the layer's output, without its bias."""
    exact = x.double() @ w.double().T

    def error(out: torch.Tensor) -> float:
        return errors_against_exact(out, exact)[1]

    q, q_scale = act_quant(x)
    v, v_scale = weight_quant(w)
    summed = fp8_gemm(q, q_scale, v, v_scale, torch.float32)
    payloads = tiled(x) @ weight_dequant(v, v_scale, torch.float32).double().T
    powers = fp8_gemm(*act_quant(x, pow2_scale=True), *weight_quant(w, pow2_scale=True))
    return Products(
        error(summed.bfloat16()),  # what fp8_gemm rounds to bf16 is its fp32 sum
        error(powers),
        error(per_tensor(x) @ per_tensor(w).T),
        errors_against_exact(summed, payloads)[1],
        error((in_bf16(x) @ in_bf16(w).T).bfloat16()),
        error(exact.bfloat16()),
    )

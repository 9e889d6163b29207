"""An FP8 GEMM written out in torch, right in several ways, and wrong in each way a kernel can be.

Shares no code with reference_impl/: the comparator is tested with these results, so they must not
come from what it will later compare.  Operands are held dequantised to fp32 numbers of e4m3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch

from benchmarks.compare import Bound

M, N, K = 512, 256, 1024
BLOCKS = K // 128
TILE = (slice(128, 256), slice(128, 256))


@dataclass(frozen=True)
class Operands:
    """x: [M, K], x_scale: [M, K/128], w: [N, K], w_scale: [N/128, K/128]; all fp32."""

    x: torch.Tensor
    x_scale: torch.Tensor
    w: torch.Tensor
    w_scale: torch.Tensor


def quantise(
    x: torch.Tensor, rows: int, *, pow2: bool = False, whole: bool = False, truncate: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Payload (as fp32 numbers) and scales in groups of ``rows`` by 128, or one for the whole."""
    groups = x.reshape(x.shape[0] // rows, rows, -1, 128)
    amax = groups.abs().amax(dim=(1, 3), keepdim=True)
    scale = (amax.max().expand_as(amax) if whole else amax) / 448
    if pow2:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    exact = groups / scale
    payload = exact.to(torch.float8_e4m3fn)
    if truncate:
        beyond = payload.float().abs() > exact.abs()
        payload = (payload.view(torch.uint8) - beyond.to(torch.uint8)).view(torch.float8_e4m3fn)
    return payload.float().reshape(x.shape), scale[:, 0, :, 0].contiguous()


@cache
def _numbers() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(M, K, generator=generator), torch.randn(N, K, generator=generator)


@cache
def operands(*, pow2: bool = False, whole: bool = False, truncate: bool = False) -> Operands:
    """Normal numbers, quantised."""
    x, w = _numbers()
    quantised_x = quantise(x, 1, pow2=pow2, whole=whole, truncate=truncate)
    return Operands(*quantised_x, *quantise(w, 128, pow2=pow2))


def gemm(
    given: Operands,
    *,
    order: str = "library",
    fused: bool = True,
    promote: torch.dtype = torch.float32,
    channels: int = K,
) -> torch.Tensor:
    """[M, N] in fp32 before the last rounding; ``channels``: how many of K are used.

    order: of the 128 products of a block: "library" (fp32, whatever torch does), "reversed" (fp32,
    last 32 first) or "exact".  fused: multiply and add with one rounding.  promote: type in which
    the sum over blocks is kept.
    """
    acc = torch.zeros(M, N, dtype=promote)
    for block in range(BLOCKS):
        columns = slice(block * 128, min((block + 1) * 128, channels))
        partial = _partial(given.x[:, columns], given.w[:, columns], order)
        scale = given.x_scale[:, block, None] * given.w_scale[:, block].repeat_interleave(128)
        if fused:
            acc = (acc.double() + partial.double() * scale.double()).to(promote)
        else:
            acc = (acc.float() + partial * scale).to(promote)
    return acc.float()


def _partial(x: torch.Tensor, w: torch.Tensor, order: str) -> torch.Tensor:
    if order == "exact":
        return (x.double() @ w.double().T).float()
    if order == "library":
        return x @ w.T
    pieces = [slice(start, start + 32) for start in range(0, x.shape[1], 32)]
    total = torch.zeros(M, N)
    for piece in reversed(pieces):
        total += x[:, piece].flip(1) @ w[:, piece].flip(1).T
    return total


@cache
def expected(dtype: torch.dtype) -> torch.Tensor:
    """The right result."""
    return gemm(operands()).to(dtype)


@cache
def tolerance(dtype: torch.dtype) -> tuple[Bound, torch.Tensor]:
    """(bound, magnitude) for two right results that sum in fp32 in different orders.

    With S = sum of |x| |w| |scales|, n = 128 + K/128 roundings in any one sum (128 products, which
    are exact in fp32, and a multiplication or an addition for each block) and u = 2^-24:

    fp32 results differ by at most 2 gamma_n S, gamma_n = n u / (1 - n u) (Higham, chapter 3): that
    is ``max`` in units of S.  Each rounding errs by at most u S and they are independent, so the
    rms of the difference is at most sqrt(2 n) u S: that is ``rms``.  Roundings are uniform rather
    than extreme and partial sums far below S, which leaves more than a tile's sampling error.

    bf16 results are these, rounded: beyond the above they differ by at most one spacing of bf16,
    which is at most 2^-7 of the value.  In units of the sum of both, ``max`` is 1.  Results that
    differ by d before that rounding differ after it with a chance of at most p = d / spacing, and
    then by at most 1; so the mean square is at most p, plus what chance adds: among k elements with
    sum(p) = s, more than s + t differ with probability exp(-t^2 / (2 s + 2 t / 3)) (Bernstein),
    held to 1e-9 here.
    """
    given = operands()
    sizes = Operands(given.x.abs(), given.x_scale, given.w.abs(), given.w_scale)
    size = gemm(sizes)
    n, u = 128 + BLOCKS, 2.0**-24
    gamma = n * u / (1 - n * u)
    rms = math.sqrt(2 * n) * u
    if dtype == torch.float32:
        return Bound(2 * gamma, rms, rms, "order of fp32 sums: 2 gamma_n, sqrt(2 n) u, of S"), size
    value = expected(dtype).float().abs()
    spacing = torch.exp2(torch.floor(torch.log2(value)) - 7)
    chance = (rms * size / spacing).clamp(max=1).double()
    tile = chance.reshape(M, -1, 128).sum(dim=2).max().item()
    bound = Bound(
        max=1.0,
        rms=math.sqrt(_at_most(chance.sum().item()) / value.numel()),
        tile_rms=math.sqrt(_at_most(tile) / 128),
        why="order of fp32 sums, 2 gamma_n S, then a spacing of bf16 where that crosses a tie",
    )
    # Sizes are those of the rounded value, hence the factor.
    return bound, (2 * gamma * size + 2.0**-7 * value) * (1 + 2.0**-7)


def _at_most(mean: float) -> float:
    """What a sum of independent 0 and 1 with this mean exceeds with probability below 1e-9."""
    level = math.log(1e9)
    return mean + level / 3 + math.sqrt(level**2 / 9 + 2 * level * mean)

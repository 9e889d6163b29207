"""Random operands: payloads and scales made directly, so that no implementation feeds its own test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPES = {
    "bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2",
}  # fmt: skip
# Distributions that ``values`` and ``payload`` know, and what each is for.
KINDS = (
    "normal",  # randn
    "positive",  # uniform on [0, 1): a truncating accumulator is biased here
    "outlier",  # normal, one element in 512 times 1000
    "wide",  # normal times 2 to a uniform power: the whole range of exponents
    "subnormal",  # below the format's smallest normal number
    "cancelling",  # neighbours of opposite sign and nearly equal magnitude
    "saturating",  # at the format's largest magnitude
    "sparse",  # seven of eight are zero
    "zero",  # all zero
    "ties",  # exactly halfway between two e4m3 numbers, once divided by the tile's scale
    "tiny",  # near and below fp32's smallest normal number
    "nonfinite",  # normal, with an Inf and a NaN here and there
    "powers",  # tile maxima exactly 448 times a power of two
    "loud",  # normal, and in every row the same few channels are 20 times as large
)
# In language models from some billions of parameters on, about one channel in 1000 of an activation is
# up to 20 times as large as the others, the same one for most tokens (Dettmers et al., LLM.int8(),
# arXiv 2208.07339).  One number in 1000 that is no multiple of 128: they lie all over their tiles.
LOUD, FIRST_LOUD, EACH_LOUD = 20.0, 77, 1000


def dtype(name: str) -> torch.dtype:
    """torch's dtype of a short name (``bf16``, ``e4m3`` ...)."""
    import torch

    found: torch.dtype = getattr(torch, DTYPES[name])
    return found


def values(  # noqa: C901, PLR0911, PLR0912 (one branch a kind)
    shape: tuple[int, int], kind: str, generator: torch.Generator
) -> torch.Tensor:
    """fp32 numbers of a distribution of ``KINDS``, on the generator's device."""
    import torch

    device = generator.device

    def normal() -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    def chance(one_in: int) -> torch.Tensor:
        return torch.randint(one_in, shape, generator=generator, device=device) == 0

    if kind == "normal":
        return normal()
    if kind == "positive":
        return torch.rand(shape, generator=generator, device=device)
    if kind == "outlier":
        return normal().mul_(torch.where(chance(512), 1000.0, 1.0))
    if kind == "wide":
        powers = torch.randint(-12, 9, shape, generator=generator, device=device)
        return torch.ldexp(normal(), powers)
    if kind == "subnormal":
        return normal() * 2.0**-8
    if kind == "cancelling":
        base = normal()
        base[:, 1::2] = -base[:, 0 : 2 * (shape[1] // 2) : 2] * 1.03
        return base
    if kind == "saturating":
        return torch.where(chance(2), 448.0, -448.0)
    if kind == "sparse":
        return normal() * chance(8)
    if kind == "zero":
        return torch.zeros(shape, device=device)
    if kind == "ties":
        # 17/16, 19/16 ... times a power of two lie between e4m3 numbers; 448 in each tile of 128
        # makes its scale 1, so that they reach the cast as they are.
        odd = torch.randint(8, shape, generator=generator, device=device) * 2 + 17
        powers = torch.randint(-9, 8, shape, generator=generator, device=device)
        tied = torch.ldexp(odd.float() / 16, powers) * torch.where(chance(2), 1.0, -1.0)
        tied[:, ::128] = 448.0
        return tied.clamp_(-448.0, 448.0)
    if kind == "tiny":
        powers = torch.randint(-149, -118, shape, generator=generator, device=device)
        return torch.ldexp(torch.ldexp(normal(), powers // 2), powers - powers // 2)
    if kind == "nonfinite":
        found = normal()
        found[chance(1024)] = float("inf")
        found[chance(1024)] = float("-inf")
        found[chance(1024)] = float("nan")
        return found
    if kind == "powers":
        spread = normal().clamp_(-3.0, 3.0)
        spread[:, ::128] = 448.0
        powers = torch.randint(-20, 20, (shape[0], 1), generator=generator, device=device)
        return torch.ldexp(spread, powers)
    if kind == "loud":
        found = normal()
        found[:, FIRST_LOUD::EACH_LOUD] *= LOUD
        return found
    raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")


def payload(
    shape: tuple[int, int], kind: str, generator: torch.Generator, fp8: str = "e4m3"
) -> torch.Tensor:
    """FP8 numbers of a distribution, drawn in slices so that a large weight needs no large fp32 copy.

    Normal data is scaled to where quantised data lies: its largest magnitudes near the format's.
    """
    import torch

    largest = torch.finfo(dtype(fp8)).max
    out = torch.empty(shape, dtype=dtype(fp8), device=generator.device)
    rows = max(1, (1 << 24) // max(1, shape[1]))
    factor = 100.0 if kind in ("normal", "outlier", "cancelling", "sparse", "positive") else 1.0
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])
        drawn = values((stop - start, shape[1]), kind, generator) * factor
        out[start:stop] = drawn.clamp_(-largest, largest).to(out.dtype)
    return out


def scales(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Positive fp32 scales with full mantissas, spread over two orders of magnitude."""
    import torch

    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return torch.exp(drawn * 4.6 - 9.0)

"""The quantisers' quotient: one correction of x * (1 / scale) is enough for e4m3.

With d the divisor, r = 1 / d rounded and q0 = x r rounded, the corrected quotient is the exact one
moved by less than 6 x 2^-24 of an ulp, then rounded to fp32.  It can differ from the rounded exact
quotient only where that lies so close to the middle between two fp32 numbers, and e4m3 can notice
only if one of the two is itself the middle between two e4m3 numbers: B 2^20 in 25 bits, B from 16 to
31.  There x 2^v = d (B 2^20 +- 1) + e with integers x, d of 24 bits and |e| < 6, so that d lies within
6 of a multiple of 2^20.  That leaves few enough pairs to try them all.
"""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from benchmarks.compare import Exact, assert_equal
from kernels._quant import magnitude_bits, payload, scale_from_bits
from reference_impl import _quant as reference

CLOSE = 16  # instead of 6


@triton.jit
def _payload_kernel(x_ptr, scale_ptr, q_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    scale = tl.load(scale_ptr + at, mask=at < n, other=1.0)
    tl.store(q_ptr + at, payload(x, scale), mask=at < n)


@triton.jit
def _scale_kernel(
    amax_ptr, scale_ptr, n, floor, POW2: tl.constexpr, FLOOR: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    amax = tl.load(amax_ptr + at, mask=at < n, other=1.0)
    scale = scale_from_bits(magnitude_bits(amax), floor, POW2, FLOOR)
    tl.store(scale_ptr + at, scale, mask=at < n)


def check(x: torch.Tensor, scale: torch.Tensor, device: str) -> None:
    """The kernel's payload of every pair is the reference's, but for the sign of NaN."""
    x, scale = x.to(device), scale.to(device)
    q = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=device)
    _payload_kernel[(triton.cdiv(x.numel(), 4096),)](x, scale, q, x.numel(), BLOCK=4096)
    want = reference.payload(x, scale)
    wrong = (q.view(torch.uint8) != want.view(torch.uint8)) & ~(
        q.float().isnan() & want.float().isnan()
    )
    first = wrong.nonzero()[:1].flatten().tolist()
    assert not first, (
        x[first].tolist(),
        scale[first].tolist(),
        q.float()[first],
        want.float()[first],
    )


def candidates() -> list[tuple[int, int]]:
    """(x, d), integers of 24 bits whose quotient comes close to such a middle."""
    found = []
    for multiple in range(8, 17):
        for off in range(-CLOSE, CLOSE + 1):
            d = (multiple << 20) + off
            if not 1 << 23 <= d < 1 << 24:
                continue
            for b in range(16, 32):
                # Twice B 2^20 +- 1, and half the distance below a power of two.
                for middle in ((b << 21) + 2, (b << 21) - 2, *([(b << 21) - 1] if b == 16 else [])):
                    target = d * middle
                    for shift in range(target.bit_length() - 25, target.bit_length() - 22):
                        found += [
                            (x, d)
                            for x in (target >> shift, (target >> shift) + 1)
                            if 1 << 23 <= x < 1 << 24 and abs((x << shift) - target) <= 2 * CLOSE
                        ]
    return found


def test_every_quotient_that_could_round_otherwise(device: str) -> None:
    pairs = torch.tensor(candidates(), dtype=torch.float64)
    assert len(pairs) > 100
    # Significands below 2; the quotient's exponent brings it to each binade of e4m3, and below.
    x, d = (pairs / 2**23).T
    for power in range(-13, 10):
        for sign in (1.0, -1.0):
            check((sign * x * 2.0**power).float(), d.float(), device)


@pytest.mark.parametrize("exponent", [-149, -140, -126, -100, -1, 0, 60, 119])
def test_quotients_next_to_a_rounding(exponent: int, device: str) -> None:
    """Divisors of every kind, and numerators within three ulps of a middle of e4m3."""
    draw = torch.Generator().manual_seed(exponent)
    n = 20000
    scale = ((1 + torch.rand(n, generator=draw, dtype=torch.float64)) * 2.0**exponent).float()
    codes = torch.randint(0, 126, (n,), generator=draw, dtype=torch.uint8)
    low, high = (part.view(torch.float8_e4m3fn).double() for part in (codes, codes + 1))
    middle = ((low + high) / 2 * scale.double()).float()
    step = torch.randint(-3, 4, (n,), generator=draw, dtype=torch.int32)
    x = (middle.view(torch.int32) + step).clamp(min=0).view(torch.float32)
    sign = torch.randint(0, 2, (n,), generator=draw) * 2.0 - 1
    fits = x.isfinite()
    check((x * sign)[fits], scale[fits], device)


def test_special_numbers(device: str) -> None:
    inf, nan = float("inf"), float("nan")
    numbers = [0.0, -0.0, 1e-45, -1e-45, 1.0, -3.0, 448.0, 449.0, -480.0, 1e30, inf, -inf, nan]
    x = torch.tensor(numbers).repeat_interleave(6)
    scale = torch.tensor([1.0, 1e-45, 1e-20, 2.0**119, inf, nan]).repeat(len(numbers))
    # No larger than about 448 scale, which is what a scale is made for.
    fits = (x.abs() <= 480 * scale) | ~scale.isfinite() | x.isnan()
    check(x[fits], scale[fits], device)


@pytest.mark.parametrize("floor", [None, 2.0**-149, 2.0**-140, 1e-4, 448.0])
@pytest.mark.parametrize("pow2", [False, True])
def test_scale_of_any_amax(pow2: bool, floor: float | None, device: str) -> None:
    """Those whose scale underflows, is subnormal, or is next to a power of two; Inf and NaN."""
    powers = 448 * 2.0 ** torch.arange(-126, 119, dtype=torch.float64).float()
    ends = torch.tensor([float("inf"), float("nan"), torch.finfo(torch.float32).max])
    bits = torch.arange(0, 0x7F80_0000, 99_991, dtype=torch.int32).view(torch.float32)
    around = [powers.nextafter(ends[:1] * sign) for sign in (-1, 1)]
    tiny = torch.arange(3000, dtype=torch.int32).view(torch.float32)
    amax = torch.cat([tiny, powers, *around, ends, bits]).to(device)
    scale = torch.empty_like(amax)
    n = amax.numel()
    _scale_kernel[(triton.cdiv(n, 4096),)](
        amax, scale, n, float(floor or 0.0), POW2=pow2, FLOOR=floor is not None, BLOCK=4096
    )
    assert_equal(scale, reference.scale_from_amax(amax, pow2, floor), Exact())

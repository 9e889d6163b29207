"""Scales that are powers of two, without a division, are those of the division."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from benchmarks.compare import Exact, assert_equal
from kernels._pow2 import quantised, scale_of
from kernels._quant import magnitude_bits
from reference_impl._quant import payload, scale_from_amax


@triton.jit
def _scales(amax_ptr, scale_ptr, POW2_SCALE: tl.constexpr, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bits = magnitude_bits(tl.load(amax_ptr + places))
    tl.store(scale_ptr + places, scale_of(bits, POW2_SCALE))


@triton.jit
def _payloads(x_ptr, scale_ptr, q_ptr, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    q = quantised(tl.load(x_ptr + places), tl.load(scale_ptr + places), True)
    tl.store(q_ptr + places, q)


BLOCK = 1024


def patterns() -> torch.Tensor:
    """Every exponent with the mantissas around 1, 1.75 and 2, all small subnormals, Inf and NaN."""
    mantissas = torch.tensor([0, 1, 2, 0x5FFFFE, 0x5FFFFF, 0x600000, 0x600001, 0x7FFFFE, 0x7FFFFF])
    found = (torch.arange(256)[:, None] << 23 | mantissas).flatten()
    drawn = torch.randint(0, 0x7F80_0000, (1 << 16,), generator=torch.Generator().manual_seed(1))
    bits = torch.cat([found, torch.arange(2048), drawn])
    bits = torch.nn.functional.pad(bits, (0, -len(bits) % BLOCK))
    return bits.int().view(torch.float32)


@pytest.mark.parametrize("pow2", [False, True])
def test_scales(pow2: bool, device: str) -> None:
    amax = patterns().to(device)
    got = torch.empty_like(amax)
    _scales[(len(amax) // BLOCK,)](amax, got, POW2_SCALE=pow2, BLOCK=BLOCK)
    assert_equal(got, scale_from_amax(amax, pow2, None), Exact())


def test_payloads(device: str) -> None:
    """Of each amax, its negative and what lies below it, under its own scale."""
    amax = patterns()
    scale = scale_from_amax(amax, True, None)
    generator = torch.Generator().manual_seed(2)
    for factor in (torch.ones(()), torch.tensor(-1.0), torch.rand(amax.shape, generator=generator)):
        for power in (0, -7, -16, -40):
            x = torch.ldexp(amax * factor, torch.tensor(power))
            got = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=device)
            _payloads[(len(x) // BLOCK,)](x.to(device), scale.to(device), got, BLOCK=BLOCK)
            assert_equal(got.cpu(), payload(x, scale), Exact())

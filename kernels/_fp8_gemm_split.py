"""fp8_gemm for one token or a few and few rows of the weight: K is split among programs.

Plan: operands change places, so that 64 rows of the weight, not 64 rows for one token, fill the
instruction (wgmma m64n16).  Where N has few tiles, the chain of k-blocks is what takes the time, not the
memory.  A sum over K has one order (reference_impl/fp8_gemm.py), so a program does not add its blocks up:
it writes each block's partial product, 4 bytes for 128 of the weight and token, and a second kernel
promotes them in order.  The bits are those of every other configuration.  The k-blocks of one output lie
side by side, so that the second kernel has all of them in flight, 16 bytes a load; the scales, multiplied,
are left beside them, since reading them from memory would take as long again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels._device import Plan, blueprint, describe
from kernels._product import BLOCK_K

TOKENS = 16  # the most; the smallest N that tl.dot takes
COLUMNS = 32  # of the output, a program of the second kernel
UNROLL = 64  # k-blocks in flight there


class Split(NamedTuple):
    """Tile of the weight's rows of one program.  span: k-blocks of a program, a multiple of 4 that divides
    16."""

    block_n: int
    warps: int
    stages: int
    span: int

    @property
    def instruction_n(self) -> int:
        """N of its wgmma."""
        return TOKENS

    @property
    def most_tokens(self) -> int:
        """The most that it takes."""
        return TOKENS


FINE, COARSE = Split(64, 4, 3, 4), Split(64, 4, 3, 8)
SPLIT = (FINE, COARSE)


def choose_split(m: int, n: int, k: int, sms: int) -> Split | None:
    """Split where tiles are so few that each would have to take a k-block faster than it can, and tokens
    so few that the promotion of their partial products takes less than that saves (docs/log.md)."""
    tiles = triton.cdiv(n, FINE.block_n)
    split = FINE if tiles <= 0.3 * sms else COARSE
    few = m <= TOKENS and tiles <= 0.5 * sms and m * tiles <= 0.8 * sms
    return split if few and k // BLOCK_K > split.span else None


@triton.jit
def _partials_kernel(
    x_desc, w_desc, scratch_ptr, x_scale_ptr, w_scale_ptr, m, n, k, pitch, scales_at,
    stride_xs_m, stride_xs_k, stride_ws_n, stride_ws_k,
    SPAN: tl.constexpr, EARLY: tl.constexpr, TOKENS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Writes, ``pitch`` k-blocks in a row: [m, n] partial products, then [m, n / 128] scales; zeros for
    what a span has past the last k-block, since the second kernel reads fours."""
    if EARLY:
        gdc_launch_dependents()
    tiles_n = tl.cdiv(n, BLOCK_N)
    start_n = tl.program_id(0) % tiles_n * BLOCK_N
    first = tl.program_id(0) // tiles_n * SPAN
    rows = tl.arange(0, TOKENS)
    columns = start_n + tl.arange(0, BLOCK_N)
    inside = (columns < n)[:, None] & (rows < m)[None, :]
    # Read before the loop and written behind it, so that nothing waits for them.
    spans = first + tl.arange(0, SPAN)
    there = spans < k // BLOCK_K
    known = (rows < m)[:, None] & there[None, :]
    x_scale_ptrs = x_scale_ptr + rows[:, None] * stride_xs_m + spans[None, :] * stride_xs_k
    w_scale_ptrs = w_scale_ptr + start_n // 128 * stride_ws_n + spans * stride_ws_k
    x_scale = tl.load(x_scale_ptrs, mask=known, other=0.0)
    w_scale = tl.load(w_scale_ptrs, mask=there, other=0.0)
    places = scratch_ptr + (rows.to(tl.int64)[None, :] * n + columns[:, None]) * pitch
    for block in range(first, first + SPAN):
        w = w_desc.load([start_n, block * BLOCK_K])
        x = x_desc.load([0, block * BLOCK_K])
        tl.store(places + block, tl.dot(w, x.T), mask=inside)
    # The other tile of these 128 columns writes the same.
    scale_rows = (rows.to(tl.int64) * tl.cdiv(n, 128) + start_n // 128) * pitch
    places = scratch_ptr + scales_at + scale_rows[:, None] + spans[None, :]
    tl.store(places, x_scale * w_scale[None, :], mask=(rows < m)[:, None])


@triton.jit
def _quad(at, there):
    """Four tensors of [len(at)] numbers, which lie in a row from ``at`` on: one load of 16 bytes."""
    numbers = tl.load(at[:, None] + tl.arange(0, 4)[None, :], mask=there[:, None], other=0.0)
    even, odd = tl.split(tl.reshape(numbers, (numbers.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _promote_kernel(
    scratch_ptr, out_ptr, n, k_blocks, pitch, scales_at,
    COLUMNS: tl.constexpr, UNROLL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Launched before the first kernel has ended, for whose results it waits."""
    tiles_n = tl.cdiv(n, COLUMNS)
    row = (tl.program_id(0) // tiles_n).to(tl.int64)
    columns = tl.program_id(0) % tiles_n * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < n
    partial_ptrs = scratch_ptr + (row * n + columns) * pitch
    scale_ptrs = scratch_ptr + scales_at + (row * tl.cdiv(n, 128) + columns // 128) * pitch
    acc = tl.zeros((COLUMNS,), tl.float32)
    if EARLY:
        gdc_wait()
    for start in range(0, k_blocks, UNROLL):
        # All loads before the first addition: the compiler leaves them in this order.
        partials, scales = (), ()
        for ahead in tl.static_range(0, UNROLL, 4):
            there = inside & (start + ahead < k_blocks)
            # Triton's tuples grow by sums alone.
            partials = partials + _quad(partial_ptrs + start + ahead, there)
            scales = scales + _quad(scale_ptrs + start + ahead, there)
        for ahead in tl.static_range(UNROLL):
            further = tl.fma(partials[ahead], scales[ahead], acc)
            # Not + 0 * 0, which would make +0 of -0; nor what lies past the last k-block.
            acc = tl.where(start + ahead < k_blocks, further, acc)
    tl.store(out_ptr + row * n + columns, acc.to(out_ptr.dtype.element_ty), mask=inside)


class SplitPlan:
    """Launches of one configuration for tensors like these: at most TOKENS tokens, K not 0."""

    def __init__(
        self, x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
        config: Split,
    ) -> None:  # fmt: skip
        (m, k), n = x.shape, w.shape[0]
        self.x = blueprint(x, (TOKENS, BLOCK_K))
        self.w = blueprint(w, (config.block_n, BLOCK_K))
        tiles, strides = triton.cdiv(n, config.block_n), (*x_scale.stride(), *w_scale.stride())
        block = {"TOKENS": TOKENS, "BLOCK_N": config.block_n, "BLOCK_K": BLOCK_K}
        options = {"num_warps": config.warps, "num_stages": config.stages}
        self.blocks = k // BLOCK_K
        # Places for the k-blocks of one output: a multiple of 16, so that Triton knows that four
        # numbers can be loaded at once.
        self.pitch = triton.cdiv(self.blocks, 16) * 16
        self.products, self.scales = m * n, m * triton.cdiv(n, 128)
        places = (self.pitch, self.products * self.pitch)
        early = {"EARLY": not knobs.runtime.interpret}
        self.product = Plan(
            _partials_kernel, (tiles * triton.cdiv(self.blocks, config.span),),
            (m, n, k, *places, *strides), {"SPAN": config.span} | early | block, **options,
        )  # fmt: skip
        self.promotion = Plan(
            _promote_kernel, (m * triton.cdiv(n, COLUMNS),), (n, self.blocks, *places),
            {"COLUMNS": COLUMNS, "UNROLL": min(UNROLL, 4 * triton.cdiv(self.blocks, 4))} | early,
            num_warps=1, enable_fp_fusion=False, launch_pdl=not knobs.runtime.interpret,
        )  # fmt: skip

    def __call__(
        self, x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
        out: torch.Tensor,
    ) -> None:  # fmt: skip
        """Launch into ``out``."""
        operands = (describe(self.x, x), describe(self.w, w))
        scratch = torch.empty(
            self.products + self.scales, self.pitch, dtype=torch.float32, device=out.device
        )
        self.product(x.device, *operands, scratch, x_scale, w_scale)
        self.promotion(x.device, scratch, out)

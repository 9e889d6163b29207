"""fp8_gemm where a program has one tile, whose chain of k-blocks is what takes the time.

Plan: the sum over K of kernels/_product.py, all stages of which the one program of a multiprocessor has for
itself, and two or four k-blocks an iteration.  A tile is as wide as leaves none of them with two.  For up
to 32 tokens the operands change places, so that 64 or 128 rows of the weight, not 64 rows for the tokens,
fill the instruction; then tiles are narrow enough for several programs a multiprocessor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from kernels._device import Plan, blueprint, describe
from kernels._product import BLOCK_K, sum_over_k, unrolled


class Few(NamedTuple):
    """Tile of one program, of whose operands block_m holds tokens; block_n divides 128.

    unroll: k-blocks an iteration, where it divides them.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    unroll: int

    @property
    def swapped(self) -> bool:
        """Whether the weight's rows are those of the instruction, of which there must be 64."""
        return self.block_m < 64

    @property
    def instruction_n(self) -> int:
        """N of its wgmma."""
        return self.block_m if self.swapped else self.block_n

    @property
    def most_tokens(self) -> int | None:
        """The most that it takes; None for any number."""
        return self.block_m if self.swapped else None


# By the columns of a tile.
ALONE = {
    128: Few(64, 128, 4, 4, 2),
    64: Few(64, 64, 4, 5, 2),
    32: Few(64, 32, 4, 6, 2),
    16: Few(64, 16, 4, 5, 2),
}
# By the tokens: with a multiprocessor for each tile; with many tiles; with many, and K short.
SWAPPED = {
    16: (Few(16, 64, 4, 4, 4), Few(16, 64, 4, 3, 2), Few(16, 128, 4, 4, 1)),
    32: (Few(32, 64, 4, 3, 4), Few(32, 64, 4, 3, 2), Few(32, 128, 4, 4, 1)),
}
FEW = (*ALONE.values(), *SWAPPED[16], *SWAPPED[32])


def choose_few(m: int, n: int, k: int, sms: int) -> Few | None:
    """Configuration for M x N x K on ``sms`` multiprocessors; None where there are too many tiles."""
    tokens = next((tokens for tokens in SWAPPED if m <= tokens), None)
    tiles = triton.cdiv(n, 64)
    if tokens is not None and tiles > (sms // 4 if tokens == 16 else sms // 2):
        alone, many, short = SWAPPED[tokens]
        return alone if tiles <= sms else short if k <= 1024 else many
    # Where rows of a tile are not there, all programs read the same few: fewer of them are faster.
    fitting = [
        width
        for width in ALONE
        if triton.cdiv(m, 64) * triton.cdiv(n, width) <= (sms // 2 if m < 64 > width else sms)
    ]
    return ALONE[min(fitting)] if fitting else None


@triton.jit
def _few_kernel(
    x_desc, w_desc, out_ptr, x_scale_ptr, w_scale_ptr, m, n, k,
    stride_xs_m, stride_xs_k, stride_ws_n, stride_ws_k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr, SWAP: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(n, BLOCK_N)
    start_m = tl.program_id(0) // tiles_n * BLOCK_M
    start_n = tl.program_id(0) % tiles_n * BLOCK_N
    rows = start_m + tl.arange(0, BLOCK_M)
    columns = start_n + tl.arange(0, BLOCK_N)
    # Rows past the end read the last row's scale; TMA gives them zeros and nothing stores them.
    x_scale_ptrs = x_scale_ptr + tl.minimum(rows, m - 1) * stride_xs_m
    w_scale_ptr += start_n // 128 * stride_ws_n
    acc = sum_over_k(
        x_desc, w_desc, x_scale_ptrs, w_scale_ptr, start_m, start_n, k // BLOCK_K, stride_xs_k,
        stride_ws_k, BLOCK_M, BLOCK_N, BLOCK_K, False, STAGES, UNROLL, SWAP,
    )  # fmt: skip
    out = acc.to(out_ptr.dtype.element_ty)
    starts = rows.to(tl.int64) * n
    if SWAP:
        inside = (columns < n)[:, None] & (rows < m)[None, :]
        tl.store(out_ptr + starts[None, :] + columns[:, None], out, mask=inside)
    else:
        inside = (rows < m)[:, None] & (columns < n)[None, :]
        tl.store(out_ptr + starts[:, None] + columns[None, :], out, mask=inside)


class FewPlan:
    """Launches of one configuration for tensors like these, K not 0."""

    def __init__(
        self, x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
        config: Few,
    ) -> None:  # fmt: skip
        (m, k), n = x.shape, w.shape[0]
        unroll, stages = unrolled(k, config.unroll, config.stages)
        self.x = blueprint(x, (config.block_m, BLOCK_K))
        self.w = blueprint(w, (config.block_n, BLOCK_K))
        self.plan = Plan(
            _few_kernel, (triton.cdiv(m, config.block_m) * triton.cdiv(n, config.block_n),),
            (m, n, k, *x_scale.stride(), *w_scale.stride()),
            {
                "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": BLOCK_K,
                "STAGES": stages, "UNROLL": unroll, "SWAP": config.swapped,
            },
            num_warps=config.warps, num_stages=stages, enable_fp_fusion=False,
        )  # fmt: skip

    def __call__(
        self, x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
        out: torch.Tensor,
    ) -> None:  # fmt: skip
        """Launch into ``out``."""
        self.plan(x.device, describe(self.x, x), describe(self.w, w), out, x_scale, w_scale)

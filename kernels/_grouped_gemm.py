"""The kernel of grouped_gemm_contiguous and grouped_gemm_masked, its configurations and launches.

Plan: that of kernels/fp8_gemm.py, over the tiles of all experts.  The number of tiles is known on the
device only, so every program sums the experts' tiles up once and keeps the sums in registers; it
walks over tiles in ascending order, and looks its expert up only when it leaves the last one.  An
expert's tiles are neighbours, GROUP_M tiles of rows by all of its columns, so that its weight comes
from memory once and its rows stay in the L2.  A tile at the end of an expert's rows reads what lies
behind them, which decides nothing, and stores its own rows only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton import knobs

from kernels import _chain, _check
from kernels._cache import warm_l2
from kernels._device import Plan, blueprint, describe, num_sms
from kernels._product import BLOCK_K, sum_over_k, unrolled

OUTPUTS = (torch.bfloat16, torch.float32)
MOST = (1 << 31) - 1  # rows of a buffer, of all weights; coordinates of TMA are int32
MAX_EXPERTS = 1024


class Config(NamedTuple):
    """Tile of one program.  block_n divides 128, so that a tile has one weight scale a k-block.

    scales: how they come, as in ``fp8_gemm``: ``plain``, ``staged`` or ``ahead``, before which those of the
    whole tile are brought into the L2.
    unroll: k-blocks an iteration, where it divides them.
    registers: the most a thread may have, which lets one more program stand on a multiprocessor.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    programs_per_sm: int
    group_m: int = 8
    scales: str = "plain"
    unroll: int = 1
    registers: int | None = None


LARGE = Config(128, 128, 8, 3, 1, scales="staged", unroll=2)
WIDE = Config(64, 128, 4, 4, 2, group_m=16)
TRIPLE = Config(64, 128, 4, 3, 3, group_m=16, registers=168)
SMALL = Config(64, 64, 4, 4, 3, group_m=16, scales="ahead")
CONFIGS = (LARGE, WIDE, TRIPLE, SMALL)


def choose(rows: int, experts: int, n: int, k: int, sms: int) -> Config:
    """Configuration for about ``rows`` rows an expert; in the masked layout, for as many at most.

    Up to 256 rows the weights' bytes are most of the time, and what counts is to keep many of them in
    flight (docs/log.md).
    """
    if rows > 256:
        return TRIPLE if k <= 2048 and rows <= 2048 else LARGE
    tiles = experts * triton.cdiv(rows, WIDE.block_m) * triton.cdiv(n, WIDE.block_n)
    if tiles < WIDE.programs_per_sm * sms:
        return SMALL
    return WIDE if k > 2048 and rows <= 64 else TRIPLE


@triton.jit
def _segments(counts_ptr, experts, rows, MASKED: tl.constexpr, EXPERTS: tl.constexpr):
    """([EXPERTS] int32 first row of each expert, [EXPERTS] int32 rows of it that the buffer holds);
    in the masked layout first rows are 0."""
    places = tl.arange(0, EXPERTS)
    # In 64 bits, so that counts which make no sense touch nothing outside the buffer.
    counts = tl.load(counts_ptr + places, mask=places < experts, other=0).to(tl.int64)
    counts = tl.maximum(counts, 0)
    if MASKED:
        starts = tl.zeros((EXPERTS,), tl.int64)
    else:
        lengths = (counts + 127) // 128 * 128
        starts = tl.minimum(tl.cumsum(lengths, axis=0) - lengths, rows)
    return starts.to(tl.int32), tl.minimum(counts, rows - starts).to(tl.int32)


@triton.jit
def _place(
    inner, count, tiles_n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr
):
    """(first row, first column) of tile ``inner`` of an expert with ``count`` rows: GROUP_M tiles of
    rows by all tiles of columns before its next rows."""
    group = inner // (GROUP_M * tiles_n)
    rows_in_group = tl.minimum(tl.cdiv(count, BLOCK_M) - group * GROUP_M, GROUP_M)
    inner = inner % (GROUP_M * tiles_n)
    start_m = (group * GROUP_M + inner % rows_in_group) * BLOCK_M
    return start_m, inner // rows_in_group * BLOCK_N


@triton.jit
def _warm_scales(
    x_scale_ptr, w_scale_ptr, start_m, count, k_blocks, stride_xs_m, stride_xs_k, stride_ws_k,
    BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Bring the scales of a tile, from an expert's first row and a block of its weight, to the L2."""
    lanes = tl.arange(0, 128)
    last = k_blocks - 1
    lines: tl.constexpr = (BLOCK_M + 31) // 32
    line_rows = tl.minimum(start_m + lanes % lines * 32, count - 1).to(tl.int64)
    for ahead in range(0, k_blocks, 128 // lines):
        block_of_lane = tl.minimum(ahead + lanes // lines, last).to(tl.int64)
        warm_l2(x_scale_ptr + line_rows * stride_xs_m + block_of_lane * stride_xs_k)
    warm_l2(w_scale_ptr + tl.minimum(lanes * 32, last).to(tl.int64) * stride_ws_k)


@triton.jit
def _grouped_gemm_kernel(
    x_desc, w_desc, out_ptr, x_scale_ptr, w_scale_ptr, counts_ptr, experts, rows, n, k,
    stride_xs_e, stride_xs_m, stride_xs_k, stride_ws_e, stride_ws_n, stride_ws_k,
    MASKED: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    NUM_PROGRAMS: tl.constexpr, AHEAD: tl.constexpr, WARM: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    _chain.begin(CHAIN)
    tiles_n = tl.cdiv(n, BLOCK_N)
    k_blocks = k // BLOCK_K
    places = tl.arange(0, EXPERTS)
    starts, valid = _segments(counts_ptr, experts, rows, MASKED, EXPERTS)
    tiles = (valid + (BLOCK_M - 1)) // BLOCK_M * tiles_n
    ends = tl.cumsum(tiles, axis=0)
    _chain.later(CHAIN)  # in a layer the kernel before writes the rows, not the counts
    expert = 0
    first_tile = 0
    end_tile = 0
    first_row = 0
    count = 0
    for tile in range(tl.program_id(0), tl.sum(tiles, axis=0), NUM_PROGRAMS):
        # Of 32 experts, which a warp holds, always: under a condition ptxas 12.8 runs a warp's reductions
        # under another (docs/log.md).
        if EXPERTS <= 32 or tile >= end_tile:
            before = ends <= tile
            expert = tl.sum(before.to(tl.int32), axis=0)
            first_tile = tl.max(tl.where(before, ends, 0), axis=0)
            end_tile = tl.sum(tl.where(places == expert, ends, 0), axis=0)
            if not MASKED:
                first_row = tl.sum(tl.where(places == expert, starts, 0), axis=0)
            # Loaded again: kept for all experts it would take registers from the sum.
            count = tl.maximum(tl.load(counts_ptr + expert), 0)
            count = tl.minimum(count, rows - first_row)
        start_m, start_n = _place(tile - first_tile, count, tiles_n, BLOCK_M, BLOCK_N, GROUP_M)
        wide_expert = tl.cast(expert, tl.int64)
        if MASKED:
            origin = wide_expert * rows  # of the expert's rows among all of the buffer's
            x_scale_base = x_scale_ptr + wide_expert * stride_xs_e
        else:
            origin = tl.cast(first_row, tl.int64)
            x_scale_base = x_scale_ptr + origin * stride_xs_m
        x_row = origin.to(tl.int32) + start_m

        own = start_m + tl.arange(0, BLOCK_M)
        # Rows past the end read the last one's scale, and nothing stores them.
        scale_rows = tl.minimum(own, count - 1).to(tl.int64)
        x_scale_ptrs = x_scale_base + scale_rows * stride_xs_m
        w_scale_ptrs = w_scale_ptr + wide_expert * stride_ws_e
        w_scale_ptrs += tl.cast(start_n // 128, tl.int64) * stride_ws_n
        if WARM:
            _warm_scales(
                x_scale_base, w_scale_ptrs, start_m, count, k_blocks, stride_xs_m, stride_xs_k,
                stride_ws_k, BLOCK_M,
            )  # fmt: skip
        acc = sum_over_k(
            x_desc, w_desc, x_scale_ptrs, w_scale_ptrs, x_row, expert * n + start_n, k_blocks,
            stride_xs_k, stride_ws_k, BLOCK_M, BLOCK_N, BLOCK_K, AHEAD, STAGES,
            UNROLL, SWAP=False,
        )  # fmt: skip
        columns = start_n + tl.arange(0, BLOCK_N)
        inside = (own < count)[:, None] & (columns < n)[None, :]
        out_ptrs = out_ptr + (origin + own)[:, None] * n + columns[None, :]
        tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=inside)


def check(
    x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
    counts: torch.Tensor, out_dtype: torch.dtype, *, masked: bool,
) -> None:  # fmt: skip
    """Raise TypeError or ValueError, naming the argument, unless the operator takes these."""
    _check.tensor("w", w, (torch.float8_e4m3fn,), (None, None, None))
    experts, n, k = w.shape
    _check.multiple("w", "K", k, BLOCK_K)
    _check.whole("w: K", k, BLOCK_K, MOST)
    buffer = (experts, None) if masked else (None,)
    _check.tensor("x", x, (torch.float8_e4m3fn,), (*buffer, k))
    _check.tensor("x_scale", x_scale, (torch.float32,), (*x.shape[:-1], k // BLOCK_K))
    w_blocks = (experts, triton.cdiv(n, 128), k // BLOCK_K)
    _check.tensor("w_scale", w_scale, (torch.float32,), w_blocks)
    _check.tensor("counts", counts, (torch.int32,), (experts,))
    _check.one_of("out_dtype", out_dtype, OUTPUTS)
    _check.whole("w: E", experts, 0, MAX_EXPERTS)
    _check.whole("w: E * N", experts * n, 0, MOST)
    _check.whole("x: rows", x.shape[:-1].numel(), 0, MOST)
    for name, part in (("x", x), ("w", w), ("counts", counts)):
        _check.contiguous(name, part)
    _check.aligned("x", x)
    _check.aligned("w", w)
    others = (("x_scale", x_scale), ("w", w), ("w_scale", w_scale), ("counts", counts))
    _check.runnable("x", x, *others)


class GroupedPlan:
    """Launches of one configuration for tensors like these, which are not checked.

    x: [R, K], or [E, C, K] for the masked layout; the others as in the public functions.
    """

    def __init__(
        self, x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
        config: Config,
    ) -> None:  # fmt: skip
        masked = x.dim() == 3
        experts, n, k = w.shape
        unroll, stages = unrolled(k, config.unroll, config.stages)
        # What the host knows of the number of tiles; the counts are on the device.
        rows = x.shape[-2]
        most = triton.cdiv(x.shape[:-1].numel(), config.block_m) + experts
        programs = most * triton.cdiv(n, config.block_n)
        programs = min(programs, num_sms(x.device) * config.programs_per_sm)
        self.x = blueprint(x.view(-1, k), (config.block_m, BLOCK_K))
        self.w = blueprint(w.view(-1, k), (config.block_n, BLOCK_K))
        strides = x_scale.stride() if masked else (0, *x_scale.stride())
        chain = _chain.mode("grouped_gemm")
        limits = {} if config.registers is None else {"maxnreg": config.registers}
        self.plan = Plan(
            _grouped_gemm_kernel, (programs,),
            (experts, rows, n, k, *strides, *w_scale.stride()),
            {
                "MASKED": masked, "EXPERTS": triton.next_power_of_2(experts),
                "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": BLOCK_K,
                "GROUP_M": config.group_m, "NUM_PROGRAMS": programs, "AHEAD": config.scales == "ahead",
                "WARM": config.scales == "ahead" and not knobs.runtime.interpret,
                "STAGES": stages if config.scales == "staged" else None, "UNROLL": unroll, "CHAIN": chain,
            },
            num_warps=config.warps, num_stages=stages, enable_fp_fusion=False,
            **_chain.options(chain), **limits,
        )  # fmt: skip

    def __call__(
        self, x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
        counts: torch.Tensor, out: torch.Tensor,
    ) -> None:  # fmt: skip
        """Launch into ``out``."""
        x_desc, w_desc = describe(self.x, x), describe(self.w, w)
        self.plan(x.device, x_desc, w_desc, out, x_scale, w_scale, counts)

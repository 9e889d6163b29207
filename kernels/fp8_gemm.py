"""FP8 GEMM with 1x128 and 128x128 scales; the twin of reference_impl/fp8_gemm.py.

Bound: the tensor cores from a few hundred tokens on, below that reading the weight once.
Plan: persistent programs walk output tiles in groups that share their operands in the L2; TMA
brings both operands into 128-byte-swizzled shared memory, several k-blocks ahead; each k-block is
one tl.dot from zero (four wgmma instructions), promoted to fp32 registers by an explicit fma.  The
order of the sum is the reference's for every tile shape, so all configurations agree in every bit.
A handful of tokens has kernels of its own (kernels/_fp8_gemm_narrow.py).
What was tried and what it gave: docs/log.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from kernels import _check
from kernels._device import Plan, Plans, blueprint, describe, layout, num_sms
from kernels._fp8_gemm_narrow import NARROW, TOKENS, Narrow, NarrowPlan, choose_narrow

BLOCK_K = 128  # the promotion interval, and the width of a 128-byte swizzle in e4m3
OUTPUTS = (torch.bfloat16, torch.float32)

_plans = Plans()


class Config(NamedTuple):
    """Tile of one program.  block_n divides 128, so that a tile has one weight scale a k-block.

    scales: how they come.  ``plain``: loaded where they are used.  ``staged``: through shared memory,
    in the stages of the operands.  ``ahead``: one k-block ahead.
    flatten: fetch for the next tile before the last one is stored, which costs registers and pays
    where tiles are short.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    programs_per_sm: int
    group_m: int = 8
    scales: str = "plain"
    flatten: bool = False

    @property
    def instruction_n(self) -> int:
        """N of its wgmma."""
        return self.block_n


LARGE = Config(128, 128, 8, 4, 1)
TALL = Config(128, 64, 4, 4, 2, scales="ahead")
WIDE = Config(64, 128, 4, 4, 2)
SHORT = WIDE._replace(flatten=True)
MIDDLE = SHORT._replace(scales="staged")
# For few tokens, where a k-block waits for memory and its latency: by what the tiles of N leave idle.
MANY = Config(64, 64, 4, 4, 3, scales="staged")
LONG = Config(64, 64, 4, 6, 2, scales="staged")
HALF = Config(64, 32, 4, 6, 3, scales="staged")
QUARTER = Config(64, 16, 4, 8, 2, scales="staged")
CONFIGS: tuple[Config | Narrow, ...] = (
    LARGE, TALL, WIDE, SHORT, MIDDLE, MANY, LONG, HALF, QUARTER, *NARROW,
)  # fmt: skip


def choose(m: int, n: int, k: int, sms: int) -> Config | Narrow:
    """Configuration for M x N x K on ``sms`` multiprocessors, as measured on an H200 (docs/log.md)."""
    if m <= TOKENS:
        return choose_narrow(m, n, k, sms)
    tiles = triton.cdiv(m, LARGE.block_m) * triton.cdiv(n, LARGE.block_n)
    if m <= 128 or tiles < sms:
        return _choose_small(triton.cdiv(m, 64), n, k, sms)
    if k <= 1536:
        return SHORT
    if tiles < 0.85 * triton.cdiv(tiles, sms) * sms:
        return TALL  # the last wave of large tiles would leave too many multiprocessors idle
    return MIDDLE if k <= 2048 else LARGE


def _choose_small(rows: int, n: int, k: int, sms: int) -> Config:
    """The widest tile that still gives most multiprocessors one."""
    if k <= 1024 and rows * triton.cdiv(n, WIDE.block_n) >= 0.9 * sms:
        return WIDE
    tiles = rows * triton.cdiv(n, LONG.block_n)
    if tiles >= 2.5 * sms:
        return MANY  # three programs a multiprocessor, with fewer stages each
    if tiles >= 0.8 * sms:
        return LONG
    return HALF if rows * triton.cdiv(n, HALF.block_n) >= 0.9 * sms else QUARTER


@triton.jit
def _fp8_gemm_kernel(
    x_desc, w_desc, out_desc, out_ptr, x_scale_ptr, w_scale_ptr, m, n, k,
    stride_xs_m, stride_xs_k, stride_ws_n, stride_ws_k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    TMA_STORE: tl.constexpr, NUM_PROGRAMS: tl.constexpr, AHEAD: tl.constexpr, FLATTEN: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    k_blocks = k // BLOCK_K
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, NUM_PROGRAMS, flatten=FLATTEN):
        # GROUP_M tiles of rows by all tiles of columns before the next rows.
        group = tile // (GROUP_M * tiles_n)
        first_m = group * GROUP_M
        rows_in_group = tl.minimum(tiles_m - first_m, GROUP_M)
        start_m = (first_m + (tile % (GROUP_M * tiles_n)) % rows_in_group) * BLOCK_M
        start_n = ((tile % (GROUP_M * tiles_n)) // rows_in_group) * BLOCK_N

        rows = start_m + tl.arange(0, BLOCK_M)
        # Rows past the end read the last row's scale; TMA gives them zeros and nothing stores them.
        x_scale_ptrs = x_scale_ptr + tl.minimum(rows, m - 1) * stride_xs_m
        w_scale_ptrs = w_scale_ptr + (start_n // 128) * stride_ws_n
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        if AHEAD:
            x_scale = tl.load(x_scale_ptrs)
            w_scale = tl.load(w_scale_ptrs)
        # Stages of its own make a loop pipeline all its loads, not only those that a dot takes.
        for block in tl.range(0, k_blocks, num_stages=STAGES):
            # The order matters to the compiler: with scales loaded before the operands, large tiles
            # take a third longer (docs/log.md).
            if AHEAD:
                following = tl.minimum(block + 1, k_blocks - 1)
                next_x_scale = tl.load(x_scale_ptrs + following * stride_xs_k)
                next_w_scale = tl.load(w_scale_ptrs + following * stride_ws_k)
            x = x_desc.load([start_m, block * BLOCK_K])
            w = w_desc.load([start_n, block * BLOCK_K])
            if AHEAD:
                partial = tl.dot(x, w.T)
                scale = x_scale * w_scale
                x_scale, w_scale = next_x_scale, next_w_scale
            else:
                scale = tl.load(x_scale_ptrs + block * stride_xs_k) * tl.load(
                    w_scale_ptrs + block * stride_ws_k
                )
                partial = tl.dot(x, w.T)
            acc = tl.fma(partial, tl.broadcast_to(scale[:, None], (BLOCK_M, BLOCK_N)), acc)

        out = acc.to(out_ptr.dtype.element_ty)
        if TMA_STORE:
            out_desc.store([start_m, start_n], out)
        else:
            columns = start_n + tl.arange(0, BLOCK_N)
            inside = (rows < m)[:, None] & (columns < n)[None, :]
            tl.store(out_ptr + rows.to(tl.int64)[:, None] * n + columns[None, :], out, mask=inside)


def fp8_gemm(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """out = (x * x_scale) (w * w_scale)^T for e4m3 operands, promoted to fp32 every 128 of K.

    x: [M, K] e4m3fn, contiguous, 16-byte aligned; K a multiple of 128.
    x_scale: [M, K/128] fp32, one per 1x128 tile, any strides (stride 1 along M is fastest).
    w: [N, K] e4m3fn, contiguous, 16-byte aligned.
    w_scale: [ceil(N/128), K/128] fp32, one per 128x128 block, any strides.
    out_dtype: bf16 or fp32.

    Returns [M, N] of out_dtype, row-major.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    key = layout((x, x_scale, w, w_scale), out_dtype)
    plan = _plans.get(key)
    if plan is None:
        _check_arguments(x, x_scale, w, w_scale, out_dtype)
    elif x.data_ptr() % 16 or w.data_ptr() % 16:
        # The one thing that the layout does not say.
        _check.aligned("x", x)
        _check.aligned("w", w)
    m, n = x.shape[0], w.shape[0]
    out = torch.empty(m, n, dtype=out_dtype, device=x.device)
    if plan is not None:
        plan(x, x_scale, w, w_scale, out)
    elif out.numel():
        config = choose(m, n, x.shape[1], num_sms(x.device))
        plan = plan_for(x, x_scale, w, w_scale, out, config)
        plan(x, x_scale, w, w_scale, out)
        _plans.keep(key, plan)
    return out


def _check_arguments(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    out_dtype: torch.dtype,
) -> None:
    _check.tensor("x", x, (torch.float8_e4m3fn,), (None, None))
    m, k = x.shape
    _check.multiple("x", "K", k, BLOCK_K)
    _check.tensor("w", w, (torch.float8_e4m3fn,), (None, k))
    _check.tensor("x_scale", x_scale, (torch.float32,), (m, k // BLOCK_K))
    _check.tensor(
        "w_scale", w_scale, (torch.float32,), (triton.cdiv(w.shape[0], 128), k // BLOCK_K)
    )
    _check.one_of("out_dtype", out_dtype, OUTPUTS)
    _check.contiguous("x", x)
    _check.contiguous("w", w)
    _check.aligned("x", x)
    _check.aligned("w", w)
    _check.runnable("x", x, ("x_scale", x_scale), ("w", w), ("w_scale", w_scale))


class GemmPlan:
    """Launches of one configuration for tensors like these, which are not checked."""

    def __init__(
        self, x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
        out: torch.Tensor, config: Config,
    ) -> None:  # fmt: skip
        (m, k), n = x.shape, w.shape[0]
        tiles = triton.cdiv(m, config.block_m) * triton.cdiv(n, config.block_n)
        programs = min(tiles, num_sms(x.device) * config.programs_per_sm)
        self.x = blueprint(x, (config.block_m, BLOCK_K))
        self.w = blueprint(w, (config.block_n, BLOCK_K))
        # TMA wants rows of a multiple of 16 bytes; without them the tile is stored the ordinary way.
        tma_store = n * out.element_size() % 16 == 0
        self.out = blueprint(out, (config.block_m, config.block_n)) if tma_store else None
        self.plan = Plan(
            _fp8_gemm_kernel, (programs,), (m, n, k, *x_scale.stride(), *w_scale.stride()),
            {
                "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": BLOCK_K,
                "GROUP_M": config.group_m, "TMA_STORE": tma_store, "NUM_PROGRAMS": programs,
                "AHEAD": config.scales == "ahead", "FLATTEN": config.flatten,
                "STAGES": config.stages if config.scales == "staged" else None,
            },
            num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=False,
        )  # fmt: skip

    def __call__(
        self, x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
        out: torch.Tensor,
    ) -> None:  # fmt: skip
        """Launch into ``out``."""
        store = describe(self.out, out) if self.out is not None else None
        self.plan(x.device, describe(self.x, x), describe(self.w, w), store, out, x_scale, w_scale)


class NothingToSum:
    """K is 0."""

    def __call__(self, *tensors: torch.Tensor) -> None:
        """Fill the last, the output."""
        tensors[-1].zero_()


def plan_for(
    x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, out: torch.Tensor,
    config: Config | Narrow,
) -> GemmPlan | NarrowPlan | NothingToSum:  # fmt: skip
    """What to call with tensors like these; a narrow configuration takes up to TOKENS tokens."""
    if x.shape[1] == 0:
        return NothingToSum()
    if isinstance(config, Narrow):
        return NarrowPlan(x, x_scale, w, w_scale, config)
    return GemmPlan(x, x_scale, w, w_scale, out, config)


def configurations(m: int) -> list[Config | Narrow]:
    """Those that can take M tokens."""
    return [config for config in CONFIGS if m <= TOKENS or not isinstance(config, Narrow)]


def run(
    x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, out: torch.Tensor,
    config: Config | Narrow,
) -> None:  # fmt: skip
    """One launch of one configuration into ``out``; arguments are not checked."""
    plan_for(x, x_scale, w, w_scale, out, config)(x, x_scale, w, w_scale, out)

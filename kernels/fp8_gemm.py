"""FP8 GEMM with 1x128 and 128x128 scales; the twin of reference_impl/fp8_gemm.py.

Bound: the tensor cores from a few hundred tokens on, below that reading the weight once.
Plan: persistent programs walk output tiles in groups that share their operands in the L2; TMA
brings both operands into 128-byte-swizzled shared memory, several k-blocks ahead; the sum over K is that
of kernels/_product.py.  The order of the sum is the reference's for every tile shape, so all
configurations agree in every bit.  Where multiprocessors have a tile each, or tokens are few, there are
kernels of their own (kernels/_fp8_gemm_few.py, kernels/_fp8_gemm_split.py).
What was tried and what it gave: docs/log.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from kernels import _check
from kernels._device import Plan, Plans, blueprint, describe, layout, num_sms
from kernels._fp8_gemm_few import FEW, Few, FewPlan, choose_few
from kernels._fp8_gemm_split import SPLIT, Split, SplitPlan, choose_split
from kernels._product import BLOCK_K, sum_over_k, unrolled

OUTPUTS = (torch.bfloat16, torch.float32)
SHARED = (
    224 << 10
)  # bytes of a multiprocessor's 227 KiB for tiles; the rest is for scales and barriers

_plans = Plans()


class Config(NamedTuple):
    """Tile of one program.  block_n divides 128, so that a tile has one weight scale a k-block.

    scales: how they come.  ``plain``: loaded where they are used.  ``staged``: through shared memory,
    in the stages of the operands.  ``ahead``: one k-block ahead.
    flatten: fetch for the next tile before the last one is stored, which costs registers and pays
    where tiles are short.
    unroll: k-blocks an iteration, where it divides them.
    copied: results leave by TMA, for which they take room in shared memory, where their rows allow it.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    programs_per_sm: int
    group_m: int = 8
    scales: str = "plain"
    flatten: bool = False
    unroll: int = 1
    copied: bool = True

    @property
    def instruction_n(self) -> int:
        """N of its wgmma."""
        return self.block_n

    @property
    def most_tokens(self) -> int | None:
        """The most that it takes; None for any number."""
        return None


LARGE = Config(128, 128, 8, 3, 1, scales="staged", unroll=2)
TALL = Config(128, 64, 4, 4, 2, scales="ahead")
SHORT = Config(64, 128, 4, 4, 2, flatten=True)
MIDDLE = SHORT._replace(scales="staged")
TRIPLE = Config(64, 128, 4, 3, 3, group_m=16, scales="staged", copied=False)
CONFIGS: tuple[Config | Few | Split, ...] = (
    LARGE, TALL, SHORT, MIDDLE, TRIPLE, *FEW, *SPLIT,
)  # fmt: skip


def choose(m: int, n: int, k: int, sms: int) -> Config | Few | Split:
    """Configuration for M x N x K on ``sms`` multiprocessors.

    Measured on an H200 for 1 to 128, 256, 512, 1024 and 4096 tokens (docs/log.md); what lies between follows.
    """
    fewer = choose_split(m, n, k, sms) or choose_few(m, n, k, sms)
    if fewer is not None:
        return fewer
    if k <= 1024:
        return SHORT if m > 1024 else MIDDLE
    if k <= 2048 or m <= 128:
        return TRIPLE
    tall, large = (_waves(config, m, n, sms) for config in (TALL, LARGE))
    return TALL if 1.13 * tall < large else LARGE


def _waves(config: Config, m: int, n: int, sms: int) -> float:
    """Rounds of tiles on all multiprocessors; a last one in which each program is alone on its own
    takes 0.6 as long."""
    tiles: int = triton.cdiv(m, config.block_m) * triton.cdiv(n, config.block_n)
    slots = sms * config.programs_per_sm
    left = tiles % slots
    last = 0.0 if left == 0 else 0.6 if left <= sms < slots else 1.0
    return last + tiles // slots


@triton.jit
def _fp8_gemm_kernel(
    x_desc, w_desc, out_desc, out_ptr, x_scale_ptr, w_scale_ptr, m, n, k,
    stride_xs_m, stride_xs_k, stride_ws_n, stride_ws_k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    TMA_STORE: tl.constexpr, NUM_PROGRAMS: tl.constexpr, AHEAD: tl.constexpr, FLATTEN: tl.constexpr,
    STAGES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
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
        acc = sum_over_k(
            x_desc, w_desc, x_scale_ptrs, w_scale_ptrs, start_m, start_n, k // BLOCK_K, stride_xs_k,
            stride_ws_k, BLOCK_M, BLOCK_N, BLOCK_K, AHEAD, STAGES, UNROLL, SWAP=False,
        )  # fmt: skip
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
        unroll, stages = unrolled(k, config.unroll, config.stages)
        tiles = triton.cdiv(m, config.block_m) * triton.cdiv(n, config.block_n)
        programs = min(tiles, num_sms(x.device) * config.programs_per_sm)
        self.x = blueprint(x, (config.block_m, BLOCK_K))
        self.w = blueprint(w, (config.block_n, BLOCK_K))
        # TMA wants rows of a multiple of 16 bytes, and room for the tiles of all programs beside their
        # stages; without them the tile is stored the ordinary way.
        operands = stages * unroll * (config.block_m + config.block_n) * BLOCK_K
        held = operands + config.block_m * config.block_n * out.element_size()
        room = config.programs_per_sm * held <= SHARED
        tma_store = config.copied and room and n * out.element_size() % 16 == 0
        self.out = blueprint(out, (config.block_m, config.block_n)) if tma_store else None
        self.plan = Plan(
            _fp8_gemm_kernel, (programs,), (m, n, k, *x_scale.stride(), *w_scale.stride()),
            {
                "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": BLOCK_K,
                "GROUP_M": config.group_m, "TMA_STORE": tma_store, "NUM_PROGRAMS": programs,
                "AHEAD": config.scales == "ahead", "FLATTEN": config.flatten,
                "STAGES": stages if config.scales == "staged" else None, "UNROLL": unroll,
            },
            num_warps=config.warps, num_stages=stages, enable_fp_fusion=False,
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
    config: Config | Few | Split,
) -> GemmPlan | FewPlan | SplitPlan | NothingToSum:  # fmt: skip
    """What to call with tensors like these, of no more tokens than ``config`` takes."""
    if x.shape[1] == 0:
        return NothingToSum()
    if isinstance(config, Split):
        return SplitPlan(x, x_scale, w, w_scale, config)
    if isinstance(config, Few):
        return FewPlan(x, x_scale, w, w_scale, config)
    return GemmPlan(x, x_scale, w, w_scale, out, config)


def configurations(m: int) -> list[Config | Few | Split]:
    """Those that can take M tokens."""
    return [c for c in CONFIGS if c.most_tokens is None or m <= c.most_tokens]


def run(
    x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, out: torch.Tensor,
    config: Config | Few | Split,
) -> None:  # fmt: skip
    """One launch of one configuration into ``out``; arguments are not checked."""
    plan_for(x, x_scale, w, w_scale, out, config)(x, x_scale, w, w_scale, out)

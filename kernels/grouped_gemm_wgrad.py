"""The gradient of the experts' weights in FP8; the twin of reference_impl/grouped_gemm_wgrad.py.

Bound: the tensor cores from about a thousand rows an expert on, below that writing 4 bytes for each
weight of every expert.
Plan: persistent programs walk the tiles of all experts' weights, expert after expert, in groups that
share their operands in the L2.  Tokens run along the rows of both operands, so a tile is that of
kernels/fp8_gemm.py with 128 rows of the expert in place of 128 channels: each block one tl.dot from
zero, promoted by an explicit fma.  Its scale is a product of two, one for each row and one for each
column of the tile.  Every element of ``out`` is written once, by one program.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from kernels import _check
from kernels._device import Plan, Plans, blueprint, describe, layout, num_sms
from kernels._grouped_gemm import MAX_EXPERTS, MOST

BLOCK_R = 128  # rows between promotions, and the alignment of segments

_plans = Plans()


class Config(NamedTuple):
    """Tile of one program: block_n output channels by block_k input channels."""

    block_n: int
    block_k: int
    warps: int
    stages: int
    programs_per_sm: int
    group_n: int = 8


# Of any number of rows.  128x128 on 8 warps has too few registers left to overlap its promotions, and
# reaches two thirds of this one's rate (docs/log.md).
WIDE = Config(64, 128, 4, 4, 2, group_n=16)
CONFIGS = (WIDE,)


@triton.jit
def _grouped_wgrad_kernel(
    grad_desc, x_desc, out_ptr, grad_scale_ptr, x_scale_ptr, counts_ptr, experts, rows, n, k,
    ADD: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, GROUP_N: tl.constexpr,
    NUM_PROGRAMS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(n, BLOCK_N)
    tiles_k = tl.cdiv(k, BLOCK_K)
    places = tl.arange(0, EXPERTS)
    # In 64 bits, so that counts which make no sense touch nothing outside the buffer.
    counts = tl.load(counts_ptr + places, mask=places < experts, other=0).to(tl.int64)
    blocks = (tl.maximum(counts, 0) + (BLOCK_R - 1)) // BLOCK_R
    firsts = tl.minimum(tl.cumsum(blocks, axis=0) - blocks, rows // BLOCK_R)
    blocks = tl.minimum(blocks, rows // BLOCK_R - firsts).to(tl.int32)
    firsts = firsts.to(tl.int32)
    for tile in range(tl.program_id(0), experts * tiles_n * tiles_k, NUM_PROGRAMS):
        expert = tile // (tiles_n * tiles_k)
        # Looked up for each tile: carried from one to the next, Triton 3.6 made a 0 of ``count``.
        mine = places == expert
        first = tl.sum(tl.where(mine, firsts, 0), axis=0)
        count = tl.sum(tl.where(mine, blocks, 0), axis=0)
        if count > 0 or not ADD:
            # GROUP_N tiles of output channels by all of the input's before the next ones.
            inner = tile % (tiles_n * tiles_k)
            group = inner // (GROUP_N * tiles_k)
            in_group = tl.minimum(tiles_n - group * GROUP_N, GROUP_N)
            inner = inner % (GROUP_N * tiles_k)
            start_n = (group * GROUP_N + inner % in_group) * BLOCK_N
            start_k = inner // in_group * BLOCK_K

            rows_n = start_n + tl.arange(0, BLOCK_N)
            columns_k = start_k + tl.arange(0, BLOCK_K)
            inside_n = rows_n < n
            inside_k = columns_k < k
            at = tl.cast(expert, tl.int64) * n + rows_n
            if ADD:
                out_ptrs = out_ptr + at[:, None] * k + columns_k[None, :]
                acc = tl.load(out_ptrs, mask=inside_n[:, None] & inside_k[None, :], other=0.0)
            else:
                acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
            for block in tl.range(0, count, num_stages=STAGES):
                row = (first + block) * BLOCK_R
                grad = grad_desc.load([start_n, row])
                x = x_desc.load([start_k, row])
                row_block = tl.cast(first + block, tl.int64)
                grad_scale = tl.load(
                    grad_scale_ptr + row_block * n + rows_n, mask=inside_n, other=0.0
                )
                x_scale = tl.load(x_scale_ptr + row_block * k + columns_k, mask=inside_k, other=0.0)
                partial = tl.dot(grad, x.T)
                acc = tl.fma(partial, grad_scale[:, None] * x_scale[None, :], acc)
            # Again, and not before the sum, through which they would be two registers an element.
            out_ptrs = out_ptr + at[:, None] * k + columns_k[None, :]
            tl.store(out_ptrs, acc, mask=inside_n[:, None] & inside_k[None, :])


def grouped_gemm_wgrad(
    grad_t: torch.Tensor,
    grad_scale: torch.Tensor,
    x_t: torch.Tensor,
    x_scale: torch.Tensor,
    counts: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[e] += the sum over expert e's rows of grad x^T, promoted to fp32 every 128 rows.

    grad_t: [N, R] e4m3fn, contiguous, 16-byte aligned; R a multiple of 128.
    grad_scale: [R/128, N] fp32, contiguous, one per 128 rows and channel.
    x_t: [K, R] e4m3fn, contiguous, 16-byte aligned.
    x_scale: [R/128, K] fp32, contiguous.
    counts: [E] int32, contiguous, rows of each expert; E up to 1024.  A negative count counts as 0.
    out: [E, N, K] fp32, contiguous, written in place: each sum starts from what it holds.  Without it
        they start from 0.

    Returns ``out``, or a new [E, N, K] fp32.  Padding inside a segment's last 128 rows must hold
    payloads of 0, as ``act_quant_transpose`` writes them; what lies behind the segments is not read.
    An expert without rows has the gradient 0, or keeps what ``out`` holds.

    Raises TypeError or ValueError naming the argument.  The counts are looked at on the device only:
    safe to capture in a CUDA graph, and to replay with others.
    """
    given = (grad_t, grad_scale, x_t, x_scale, counts)
    key = layout(given if out is None else (*given, out), out is None)
    plan = _plans.get(key)
    if plan is None:
        _check_arguments(*given, out)
    elif grad_t.data_ptr() % 16 or x_t.data_ptr() % 16:
        _check.aligned("grad_t", grad_t)
        _check.aligned("x_t", x_t)
    (n, rows), k, experts = grad_t.shape, x_t.shape[0], counts.shape[0]
    add = out is not None
    if out is None:
        out = torch.empty(experts, n, k, dtype=torch.float32, device=grad_t.device)
    if plan is not None:
        plan(*given, out)
    elif out.numel():
        if not rows:
            return out if add else out.zero_()
        plan = _plans.keep(key, WgradPlan(grad_t, x_t, counts, WIDE, add=add))
        plan(*given, out)
    return out


def _check_arguments(
    grad_t: torch.Tensor,
    grad_scale: torch.Tensor,
    x_t: torch.Tensor,
    x_scale: torch.Tensor,
    counts: torch.Tensor,
    out: torch.Tensor | None,
) -> None:
    _check.tensor("grad_t", grad_t, (torch.float8_e4m3fn,), (None, None))
    n, rows = grad_t.shape
    _check.multiple("grad_t", "R", rows, BLOCK_R)
    _check.tensor("x_t", x_t, (torch.float8_e4m3fn,), (None, rows))
    k = x_t.shape[0]
    _check.tensor("grad_scale", grad_scale, (torch.float32,), (rows // BLOCK_R, n))
    _check.tensor("x_scale", x_scale, (torch.float32,), (rows // BLOCK_R, k))
    _check.tensor("counts", counts, (torch.int32,), (None,))
    _check.whole("counts: E", counts.shape[0], 0, MAX_EXPERTS)
    parts = {
        "grad_t": grad_t, "grad_scale": grad_scale, "x_t": x_t, "x_scale": x_scale,
        "counts": counts,
    }  # fmt: skip
    if out is not None:
        _check.tensor("out", out, (torch.float32,), (counts.shape[0], n, k))
        parts["out"] = out
    for name, value in (("R", rows), ("N", n)):
        _check.whole(f"grad_t: {name}", value, 0, MOST)
    _check.whole("x_t: K", k, 0, MOST)
    for name, part in parts.items():
        _check.contiguous(name, part)
    _check.aligned("grad_t", grad_t)
    _check.aligned("x_t", x_t)
    _check.runnable("grad_t", parts.pop("grad_t"), *parts.items())


class WgradPlan:
    """Launches of one configuration for tensors like these, which are not checked.

    add: the sums start from what ``out`` holds.
    """

    def __init__(
        self, grad_t: torch.Tensor, x_t: torch.Tensor, counts: torch.Tensor, config: Config, *,
        add: bool,
    ) -> None:  # fmt: skip
        (n, rows), k, experts = grad_t.shape, x_t.shape[0], counts.shape[0]
        tiles = experts * triton.cdiv(n, config.block_n) * triton.cdiv(k, config.block_k)
        programs = min(tiles, num_sms(grad_t.device) * config.programs_per_sm)
        self.grad_t = blueprint(grad_t, (config.block_n, BLOCK_R))
        self.x_t = blueprint(x_t, (config.block_k, BLOCK_R))
        self.plan = Plan(
            _grouped_wgrad_kernel, (programs,), (experts, rows, n, k),
            {
                "ADD": add, "EXPERTS": triton.next_power_of_2(experts),
                "BLOCK_N": config.block_n, "BLOCK_K": config.block_k, "BLOCK_R": BLOCK_R,
                "GROUP_N": config.group_n, "NUM_PROGRAMS": programs,
                "STAGES": config.stages,
            },
            num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=False,
        )  # fmt: skip

    def __call__(
        self, grad_t: torch.Tensor, grad_scale: torch.Tensor, x_t: torch.Tensor,
        x_scale: torch.Tensor, counts: torch.Tensor, out: torch.Tensor,
    ) -> None:  # fmt: skip
        """Launch into ``out``."""
        grad_desc, x_desc = describe(self.grad_t, grad_t), describe(self.x_t, x_t)
        self.plan(grad_t.device, grad_desc, x_desc, out, grad_scale, x_scale, counts)


def run(
    grad_t: torch.Tensor, grad_scale: torch.Tensor, x_t: torch.Tensor, x_scale: torch.Tensor,
    counts: torch.Tensor, out: torch.Tensor, config: Config,
) -> None:  # fmt: skip
    """One launch of one configuration into ``out``, from 0; arguments are not checked."""
    plan = WgradPlan(grad_t, x_t, counts, config, add=False)
    plan(grad_t, grad_scale, x_t, x_scale, counts, out)

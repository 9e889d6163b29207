"""fp8_gemm for a handful of tokens: the weight streams through once, and that is all of the time.

Plan: operands change places, so that 64 rows of the weight, not 64 rows for one token, fill the
instruction (wgmma m64n16).  Scales travel through shared memory in the stages of the operands, so a
k-block waits for nothing but its own bytes.  Where N has few tiles, the chain of k-blocks is what
takes the time, not the memory; then K is split among programs.  A sum over K has one order
(reference_impl/fp8_gemm.py), so a program does not add its blocks up: it writes each block's partial
product, 4 bytes for 128 of the weight and token, and a second kernel promotes them in order.  The bits
are those of every other configuration.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from kernels._device import Plan, blueprint, describe

BLOCK_K = 128
TOKENS = 16  # the most; the smallest N that tl.dot takes
COLUMNS = 64  # of the output, a program of the second kernel
UNROLL = 32  # partial products in flight there


class Narrow(NamedTuple):
    """Tile of the weight's rows of one program.  span: k-blocks of a program, None for all."""

    block_n: int
    warps: int
    stages: int
    span: int | None

    @property
    def instruction_n(self) -> int:
        """N of its wgmma."""
        return TOKENS


WHOLE, SPLIT = Narrow(64, 4, 6, None), Narrow(64, 4, 6, 4)
NARROW = (WHOLE, SPLIT)


def choose_narrow(n: int, sms: int) -> Narrow:
    """Split where tiles are so few that each would have to take a k-block faster than it can."""
    return WHOLE if triton.cdiv(n, WHOLE.block_n) >= 0.2 * sms else SPLIT


@triton.jit
def _narrow_kernel(
    x_desc, w_desc, out_ptr, x_scale_ptr, w_scale_ptr, m, n, k,
    stride_xs_m, stride_xs_k, stride_ws_n, stride_ws_k,
    TOKENS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    start_n = tl.program_id(0) * BLOCK_N
    rows = tl.arange(0, TOKENS)
    x_scale_ptrs = x_scale_ptr + tl.minimum(rows, m - 1) * stride_xs_m
    w_scale_ptrs = w_scale_ptr + (start_n // 128) * stride_ws_n
    acc = tl.zeros((BLOCK_N, TOKENS), tl.float32)
    # With stages of its own the loop pipelines all its loads, not only those that a dot takes.
    for block in tl.range(0, k // BLOCK_K, num_stages=STAGES):
        w = w_desc.load([start_n, block * BLOCK_K])
        x = x_desc.load([0, block * BLOCK_K])
        scale = tl.load(x_scale_ptrs + block * stride_xs_k) * tl.load(
            w_scale_ptrs + block * stride_ws_k
        )
        partial = tl.dot(w, x.T)
        acc = tl.fma(partial, tl.broadcast_to(scale[None, :], (BLOCK_N, TOKENS)), acc)
    columns = start_n + tl.arange(0, BLOCK_N)
    inside = (columns < n)[:, None] & (rows < m)[None, :]
    out = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + rows.to(tl.int64)[None, :] * n + columns[:, None], out, mask=inside)


@triton.jit
def _partials_kernel(
    x_desc, w_desc, partial_ptr, m, n, k,
    SPAN: tl.constexpr, TOKENS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(n, BLOCK_N)
    start_n = tl.program_id(0) % tiles_n * BLOCK_N
    first = tl.program_id(0) // tiles_n * SPAN
    rows = tl.arange(0, TOKENS)
    columns = start_n + tl.arange(0, BLOCK_N)
    inside = (columns < n)[:, None] & (rows < m)[None, :]
    for block in range(first, tl.minimum(first + SPAN, k // BLOCK_K)):
        w = w_desc.load([start_n, block * BLOCK_K])
        x = x_desc.load([0, block * BLOCK_K])
        places = (block * m + rows).to(tl.int64)[None, :] * n + columns[:, None]
        tl.store(partial_ptr + places, tl.dot(w, x.T), mask=inside)


@triton.jit
def _promote_kernel(
    partial_ptr, out_ptr, x_scale_ptr, w_scale_ptr, m, n, k_blocks,
    stride_xs_m, stride_xs_k, stride_ws_n, stride_ws_k,
    COLUMNS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(n, COLUMNS)
    row = tl.program_id(0) // tiles_n
    columns = tl.program_id(0) % tiles_n * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < n
    x_scale_ptr += row * stride_xs_m
    w_scale_ptrs = w_scale_ptr + columns // 128 * stride_ws_n
    partial_ptrs = partial_ptr + row.to(tl.int64) * n + columns
    acc = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, k_blocks, UNROLL):
        # All loads before the first addition: the compiler leaves them in this order.
        partials, scales = (), ()
        for ahead in tl.static_range(UNROLL):
            block = start + ahead
            there = inside & (block < k_blocks)
            partial = tl.load(partial_ptrs + ahead * m * n, mask=there, other=0.0)
            x_scale = tl.load(x_scale_ptr + block * stride_xs_k, mask=block < k_blocks, other=0.0)
            w_scale = tl.load(w_scale_ptrs + block * stride_ws_k, mask=there, other=0.0)
            # Triton's tuples grow by sums alone.
            partials = partials + (partial,)  # type: ignore[assignment]  # noqa: RUF005
            scales = scales + (x_scale * w_scale,)  # type: ignore[assignment]  # noqa: RUF005
        for ahead in tl.static_range(UNROLL):
            further = tl.fma(partials[ahead], scales[ahead], acc)
            # Not + 0 * 0, which would make +0 of -0.
            acc = tl.where(start + ahead < k_blocks, further, acc)
        partial_ptrs += UNROLL * m * n
    out = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row.to(tl.int64) * n + columns, out, mask=inside)


class NarrowPlan:
    """Launches of one configuration for tensors like these: at most TOKENS tokens, K not 0."""

    def __init__(
        self, x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
        config: Narrow,
    ) -> None:  # fmt: skip
        (m, k), n = x.shape, w.shape[0]
        self.x = blueprint(x, (TOKENS, BLOCK_K))
        self.w = blueprint(w, (config.block_n, BLOCK_K))
        tiles, strides = triton.cdiv(n, config.block_n), (*x_scale.stride(), *w_scale.stride())
        block = {"TOKENS": TOKENS, "BLOCK_N": config.block_n, "BLOCK_K": BLOCK_K}
        options = {"num_warps": config.warps, "num_stages": config.stages}
        self.blocks = k // BLOCK_K
        self.split = config.span is not None
        if config.span is None:
            self.product = Plan(
                _narrow_kernel, (tiles,), (m, n, k, *strides), block | {"STAGES": config.stages},
                **options, enable_fp_fusion=False,
            )  # fmt: skip
            return
        grid = (tiles * triton.cdiv(self.blocks, config.span),)
        self.product = Plan(
            _partials_kernel, grid, (m, n, k), {"SPAN": config.span} | block, **options
        )
        self.promotion = Plan(
            _promote_kernel, (m * triton.cdiv(n, COLUMNS),), (m, n, self.blocks, *strides),
            {"COLUMNS": COLUMNS, "UNROLL": min(UNROLL, triton.next_power_of_2(self.blocks))},
            num_warps=2, enable_fp_fusion=False,
        )  # fmt: skip

    def __call__(
        self, x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor,
        out: torch.Tensor,
    ) -> None:  # fmt: skip
        """Launch into ``out``."""
        operands = (describe(self.x, x), describe(self.w, w))
        if not self.split:
            self.product(x.device, *operands, out, x_scale, w_scale)
            return
        partials = torch.empty(self.blocks, *out.shape, dtype=torch.float32, device=out.device)
        self.product(x.device, *operands, partials)
        self.promotion(x.device, partials, out, x_scale, w_scale)

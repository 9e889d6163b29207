"""The sum over K of one tile of an FP8 product, as kernels/fp8_gemm.py and the experts' products share it.

Each block of 128 channels is one tl.dot from zero (four wgmma instructions), promoted to fp32 registers
by an explicit fma, in ascending order: the reference's, for every tile and every unrolling.

Several k-blocks an iteration (UNROLL) share one barrier of the operands' copies, and their scales lie side
by side in one tensor, so that one asynchronous copy a thread brings them all: what a block costs beside its
wgmma is most of the time wherever a program has one tile to itself (docs/log.md).
"""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK_K = 128  # the promotion interval, and the width of a 128-byte swizzle in e4m3


def unrolled(k: int, unroll: int, stages: int) -> tuple[int, int]:
    """(k-blocks an iteration, stages) for a sum over ``k``: half as many, and half again, until they divide
    its blocks, with as many under way.  unroll: a power of two."""
    while k // BLOCK_K % unroll:
        unroll, stages = unroll // 2, stages * 2
    return unroll, stages


@triton.jit
def _blocks(desc, row, block, BLOCK_K: tl.constexpr, UNROLL: tl.constexpr):
    """UNROLL tiles of an operand, one a k-block from ``block`` on."""
    if UNROLL == 1:
        return (desc.load([row, block * BLOCK_K]),)
    else:  # noqa: RET505 - what follows an if is compiled even where it has returned
        half: tl.constexpr = UNROLL // 2
        first = _blocks(desc, row, block, BLOCK_K, half)
        return first + _blocks(desc, row, block + half, BLOCK_K, half)


@triton.jit
def _scales(
    x_scale_ptrs, w_scale_ptr, block, stride_xs_k, stride_ws_k, UNROLL: tl.constexpr,
):  # fmt: skip
    """UNROLL tensors, one a k-block from ``block`` on: the rows' scales times the weight's."""
    if UNROLL == 1:
        at = tl.cast(block, tl.int64)
        x_scale = tl.load(x_scale_ptrs + at * stride_xs_k)
        return (x_scale * tl.load(w_scale_ptr + at * stride_ws_k),)
    else:  # noqa: RET505
        at = (block + tl.arange(0, UNROLL)).to(tl.int64)
        x_scale = tl.load(x_scale_ptrs[:, None] + at[None, :] * stride_xs_k)
        both = x_scale * tl.load(w_scale_ptr + at * stride_ws_k)[None, :]
        if UNROLL == 2:
            return tl.split(both)
        else:  # noqa: RET505
            tl.static_assert(UNROLL == 4)
            even, odd = tl.split(tl.reshape(both, (both.shape[0], 2, 2)))
            first, third = tl.split(even)
            second, fourth = tl.split(odd)
            return first, second, third, fourth


@triton.jit
def sum_over_k(
    x_desc, w_desc, x_scale_ptrs, w_scale_ptr, x_row, w_row, k_blocks, stride_xs_k, stride_ws_k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    AHEAD: tl.constexpr, STAGES: tl.constexpr, UNROLL: tl.constexpr, SWAP: tl.constexpr,
):  # fmt: skip
    """[BLOCK_M, BLOCK_N] fp32: the sum over K of the tile at these rows of both operands.

    x_scale_ptrs: [BLOCK_M] where the rows' first scales are; w_scale_ptr: where the weight's is, one for
    the whole tile.  AHEAD: scales are loaded one k-block ahead.  STAGES: of the loop, which then pipelines
    all its loads, not only those that a dot takes.  UNROLL: k-blocks an iteration, which divides k_blocks;
    1 with AHEAD.  SWAP: the weight's rows fill the instruction, and the sum is [BLOCK_N, BLOCK_M].
    """
    tl.static_assert(UNROLL == 1 or not AHEAD)
    if SWAP:
        acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if AHEAD:
        x_scale = tl.load(x_scale_ptrs)
        w_scale = tl.load(w_scale_ptr)
    for block in tl.range(0, k_blocks, UNROLL, num_stages=STAGES):
        # The order matters to the compiler: with scales loaded before the operands, large tiles
        # take a third longer (docs/log.md).
        if AHEAD:
            following = tl.cast(tl.minimum(block + 1, k_blocks - 1), tl.int64)
            next_x_scale = tl.load(x_scale_ptrs + following * stride_xs_k)
            next_w_scale = tl.load(w_scale_ptr + following * stride_ws_k)
        xs = _blocks(x_desc, x_row, block, BLOCK_K, UNROLL)
        ws = _blocks(w_desc, w_row, block, BLOCK_K, UNROLL)
        if AHEAD:
            scale = (x_scale * w_scale,)
            x_scale, w_scale = next_x_scale, next_w_scale
        else:
            scale = _scales(x_scale_ptrs, w_scale_ptr, block, stride_xs_k, stride_ws_k, UNROLL)
        for ahead in tl.static_range(UNROLL):
            if SWAP:
                factor = tl.broadcast_to(scale[ahead][None, :], (BLOCK_N, BLOCK_M))
                acc = tl.fma(tl.dot(ws[ahead], xs[ahead].T), factor, acc)
            else:
                factor = tl.broadcast_to(scale[ahead][:, None], (BLOCK_M, BLOCK_N))
                acc = tl.fma(tl.dot(xs[ahead], ws[ahead].T), factor, acc)
    return acc

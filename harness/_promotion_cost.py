"""What promoting costs: an FP8 product without scales whose sum goes to fp32 after each interval.

One plain kernel with the tile of ``fp8_gemm``'s largest configuration, so that the column of times
differs in nothing but the interval.  Up to 128 channels each k-block is split and promoted, above that
the tensor core goes on with its sum and every second or fourth k-block ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from benchmarks import measure
from kernels._device import Plan, blueprint, describe
from reference_impl.act_quant import act_quant
from reference_impl.weight_quant import weight_quant

if TYPE_CHECKING:
    from collections.abc import Callable

M, N, K = 4096, 4096, 7168  # a dense expert's gate and up
TILE_M, TILE_N, TILE_K = 128, 128, 128
GROUP_M, WARPS, STAGES = 8, 8, 4
CHECKED = 64  # rows compared with the model, spread over all


@triton.jit
def _product_kernel(
    x_desc, w_desc, out_ptr, m, n, k, EVERY: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr, GROUP_M: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    tiles_n = n // TILE_N
    group = tl.program_id(0) // (GROUP_M * tiles_n)
    within = tl.program_id(0) % (GROUP_M * tiles_n)
    start_m = (group * GROUP_M + within % GROUP_M) * TILE_M
    start_n = within // GROUP_M * TILE_N
    acc = tl.zeros((TILE_M, TILE_N), tl.float32)
    part = tl.zeros((TILE_M, TILE_N), tl.float32)
    for block in tl.range(0, k // TILE_K, num_stages=STAGES):
        x = x_desc.load([start_m, block * TILE_K])
        w = w_desc.load([start_n, block * TILE_K])
        if EVERY == 0:
            acc = tl.dot(x, w.T, acc)
        elif EVERY < TILE_K:
            acc = tl.dot(x, w.T, acc, max_num_imprecise_acc=EVERY)
        elif EVERY == TILE_K:
            acc += tl.dot(x, w.T)
        else:
            blocks: tl.constexpr = EVERY // TILE_K
            part = tl.where(block % blocks == 0, tl.zeros_like(part), part)
            part = tl.dot(x, w.T, part)
            if block % blocks == blocks - 1:
                acc += part
    rows = start_m + tl.arange(0, TILE_M)
    columns = start_n + tl.arange(0, TILE_N)
    tl.store(out_ptr + rows[:, None] * n + columns[None, :], acc)


def product(
    interval: int | None, x: torch.Tensor, w: torch.Tensor, out: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """The launch that writes x [M, K] w [N, K]^T to ``out`` [M, N] fp32; called with nothing."""
    (m, k), n = x.shape, w.shape[0]
    plan = Plan(
        _product_kernel, (m // TILE_M * (n // TILE_N),), (m, n, k),
        {
            "EVERY": interval or 0, "TILE_M": TILE_M, "TILE_N": TILE_N, "TILE_K": TILE_K,
            "GROUP_M": GROUP_M, "STAGES": STAGES,
        }, num_warps=WARPS,
    )  # fmt: skip
    x_desc = describe(blueprint(x, (TILE_M, TILE_K)), x)
    w_desc = describe(blueprint(w, (TILE_N, TILE_K)), w)

    def call() -> torch.Tensor:
        plan(x.device, x_desc, w_desc, out)
        return out

    return call


def column(
    model: Callable[[torch.Tensor, torch.Tensor, int | None], torch.Tensor],
) -> dict[int | None, str]:
    """Time and throughput at each interval of the table, "512 us, 470 TFLOP/s".

    model: (x, w, interval) to the product of which 64 rows are compared in every bit; where they
    differ the text says in how many elements.
    """
    from harness.promotion import INTERVALS

    generator = torch.Generator("cuda").manual_seed(0)
    x = act_quant(torch.randn(M, K, device="cuda", generator=generator))[0]
    w = weight_quant(torch.randn(N, K, device="cuda", generator=generator))[0]
    rows = torch.arange(0, M, M // CHECKED, device="cuda")
    found: dict[int | None, str] = {}
    for interval in INTERVALS:

        def make(interval: int | None = interval) -> Callable[[], torch.Tensor]:
            return product(interval, x.clone(), w.clone(), torch.empty(M, N, device="cuda"))

        timing = measure.device_us(make, bytes_per_call=M * K + N * K + 4 * M * N, rounds=3)
        got = timing.outputs[0][rows]
        wrong = int((got != model(x[rows], w, interval)).sum())
        rate = 2 * M * N * K / timing.median / 1e6
        said = f"{timing.median:.0f} us, {rate:.0f} TFLOP/s"
        found[interval] = said + (f", {wrong} elements differ" if wrong else "")
    return found

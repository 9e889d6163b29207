"""The loss that keeps experts in balance within each sequence, and its gradient; the twin of
reference_impl/sequence_balance_loss.py.

Bound: memory, of logits read twice (from the L2 the second time) and a gradient written.  Plan: two
launches over the same tiles of [tokens, E].  The first adds shares, in whole units, and counts over
its tokens, and then to those of the sequence with integer atomics, whose order does not show.  The
second has the sums of its sequence, and with them the gradient; the first program of a sequence writes
the loss.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _check, _fp32, _router
from kernels._device import Plan, Plans, layout

TILE = 4096  # logits a program has in registers
STEPS = 2  # tiles a program adds up before it goes to memory
WARPS = 8
MAX_LENGTH = 1 << 22  # tokens of which the sum of units stays inside int64
UNITS = tl.constexpr(2.0**40)
# A tile with a NaN adds this to its sequence's counts, which stay below it.
POISON = tl.constexpr(1 << 40)

_plans = Plans()


@triton.jit
def _shares(
    logits_ptr, first, end, experts, stride,
    TOKENS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    """(scores, shares, mask) of tokens from ``first`` on, [TOKENS, EXPERTS]; both 0 outside the mask."""
    tokens = first + tl.arange(0, TOKENS)[:, None]
    columns = tl.arange(0, EXPERTS)[None, :]
    held = (tokens < end) & (columns < experts)
    x = tl.load(logits_ptr + tokens * stride + columns, mask=held, other=0.0).to(tl.float32)
    score = tl.where(held, _fp32.sigmoid(x), 0.0)
    total = _router.row_pair_sums(score, TOKENS, EXPERTS)
    total = tl.where(tokens < end, total, 1.0)
    return score, tl.div_rn(score, tl.broadcast_to(total, score.shape)), held


@triton.jit
def _sum_kernel(
    logits_ptr, idx_ptr, sums_ptr, experts, stride, topk, length, chunks,
    STEPS: tl.constexpr, TOKENS: tl.constexpr, EXPERTS: tl.constexpr, ENTRIES: tl.constexpr,
    BINS: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64) // chunks
    chunk = tl.program_id(0) % chunks
    end = (sequence + 1) * length
    first = sequence * length + chunk * (STEPS * TOKENS)
    units = tl.zeros([TOKENS, EXPERTS], tl.int64)
    spoiled = tl.zeros([TOKENS, EXPERTS], tl.int32)
    for step in tl.static_range(STEPS):
        _, share, _ = _shares(
            logits_ptr, first + step * TOKENS, end, experts, stride, TOKENS, EXPERTS
        )
        spoiled |= (share != share).to(tl.int32)  # noqa: PLR0124 (a NaN is not)
        units += (tl.where(share == share, share, 0.0) * UNITS).to(tl.int64)  # noqa: PLR0124
    columns = tl.arange(0, EXPERTS)
    sums_ptr += sequence * 2 * experts
    tl.atomic_add(sums_ptr + columns, tl.sum(units, axis=0), mask=columns < experts, sem="relaxed")

    entries = first * topk + tl.arange(0, ENTRIES)
    stop = tl.minimum(first + STEPS * TOKENS, end) * topk
    # Compared as the 64 bits they are: 2^32 + 3 is not expert 3.
    ids = tl.load(idx_ptr + entries, mask=entries < stop, other=-1)
    routed = (ids >= 0) & (ids < experts)
    counts = tl.histogram(tl.where(routed, ids, 0).to(tl.int32), BINS, mask=routed).to(tl.int64)
    counts += tl.where(tl.max(spoiled) > 0, POISON, 0)
    bins = tl.arange(0, BINS)
    tl.atomic_add(sums_ptr + experts + bins, counts, mask=bins < experts, sem="relaxed")


@triton.jit
def _gradient_kernel(
    logits_ptr, sums_ptr, loss_ptr, out_ptr, experts, stride, length, chunks, entries, tokens_fp32, alpha,
    TOKENS: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64) // chunks
    chunk = tl.program_id(0) % chunks
    end = (sequence + 1) * length
    first = sequence * length + chunk * TOKENS
    columns = tl.arange(0, EXPERTS)
    sums_ptr += sequence * 2 * experts
    counts = tl.load(sums_ptr + experts + columns, mask=columns < experts, other=0)
    length_fp32 = tl.full([EXPERTS], 0.0, tl.float32) + tokens_fp32
    chosen = ((counts % POISON) * experts).to(tl.float32)
    frequency = tl.div_rn(chosen, tl.full([EXPERTS], 0.0, tl.float32) + entries)
    if chunk == 0:
        units = tl.load(sums_ptr + columns, mask=columns < experts, other=0)
        mean = tl.div_rn(units.to(tl.float32) * (1.0 / UNITS), length_fp32)
        mean = tl.where(counts >= POISON, float("nan"), mean)
        tl.store(loss_ptr + sequence, alpha * _router.pair_sum(frequency * mean, EXPERTS))
    slope = tl.div_rn(alpha * frequency, length_fp32)
    score, share, held = _shares(logits_ptr, first, end, experts, stride, TOKENS, EXPERTS)
    mean_slope = _router.row_pair_sums(slope[None, :] * share, TOKENS, EXPERTS)
    gradient = (slope[None, :] - mean_slope) * share * (1.0 - score)
    tokens = first + tl.arange(0, TOKENS)[:, None]
    out = out_ptr + tokens * experts + columns[None, :]
    tl.store(out, gradient.to(out_ptr.dtype.element_ty), mask=held)


def sequence_balance_loss(
    logits: torch.Tensor, topk_idx: torch.Tensor, sequence_length: int | None = None,
    alpha: float = 1e-4,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Balance loss of each sequence, and the gradient of their sum.

    logits: [T, E] fp32 or bf16, stride 1 along E; E from 1 to 1024.
    topk_idx: [T, K] int64, contiguous; what ``topk_gate`` chose.
    sequence_length: S, a divisor of T, up to 2^22; None if all tokens are one sequence.
    alpha: weight of the loss, taken as fp32.  For the mean of B sequences give alpha / B.

    Returns (loss [B] fp32, grad_logits [T, E] of the logits' dtype).

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    key = layout((logits, topk_idx), sequence_length, alpha)
    plans = _plans.get(key) or _plans.keep(
        key, _checked_plans(logits, topk_idx, sequence_length, alpha)
    )
    sequences, add, differentiate = plans
    device = logits.device
    loss = torch.empty(sequences, dtype=torch.float32, device=device)
    out = torch.empty(logits.shape, dtype=logits.dtype, device=device)
    if sequences:
        sums = torch.zeros((sequences, 2, logits.shape[1]), dtype=torch.int64, device=device)
        add(device, logits, topk_idx, sums)
        differentiate(device, logits, sums, loss, out)
    return loss, out


def _checked_plans(
    logits: torch.Tensor, topk_idx: torch.Tensor, sequence_length: int | None, alpha: float
) -> tuple[int, Plan, Plan]:
    """(B, the launch that adds up, the launch that differentiates)."""
    tokens, experts = _router.logits(logits)
    _router.lists(topk_idx, tokens)
    if sequence_length is not None:
        _check.whole("sequence_length", sequence_length, 1, MAX_LENGTH)
        _check.multiple("sequence_length", "T", tokens, sequence_length)
    elif tokens:
        _check.whole("sequence_length: T", tokens, 1, MAX_LENGTH)
    _router.number("alpha", alpha, zero=True)
    _check.runnable("logits", logits, ("topk_idx", topk_idx))
    length, topk = sequence_length or max(1, tokens), topk_idx.shape[1]
    sequences = tokens // length
    width = triton.next_power_of_2(experts)
    rows = min(max(1, TILE // width), triton.next_power_of_2(length))
    summed, written = triton.cdiv(length, STEPS * rows), triton.cdiv(length, rows)
    add = Plan(
        _sum_kernel, (sequences * summed,), (experts, logits.stride(0), topk, length, summed),
        {
            "STEPS": STEPS, "TOKENS": rows, "EXPERTS": width, "BINS": max(32, width),
            "ENTRIES": triton.next_power_of_2(STEPS * rows * topk),
        }, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    differentiate = Plan(
        _gradient_kernel, (sequences * written,),
        (experts, logits.stride(0), length, written, float(topk * length), float(length), float(alpha)),
        {"TOKENS": rows, "EXPERTS": width}, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return sequences, add, differentiate

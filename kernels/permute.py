"""Tokens to expert order; the twin of reference_impl/permute.py.

Bound: memory.  For e4m3 a token is H + H/32 bytes read once and K times as many written.
Plan: one program takes one token: its K slots, its channels by 16 bytes a load, kept in registers, and
as many stores as it has rows.  For few tokens one takes 1024 channels, since there are not enough tokens
to fill the GPU; programs of one token are neighbours.  A token that goes nowhere is not read.

The scales of a row lie R apart: 4 bytes in each of H/128 sectors of 32, a quarter more writes than the
payload's.  So for many tokens they go in two steps.  The first writes the token of each row, and the
scales token by token; the second takes rows in their order, one a thread, and writes sectors whole.
Rows without a token are told by -1, which a short kernel writes before.  Each of the three starts while
the one before still runs, and waits for it only where it needs what that writes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels import _chain, _check, _slots
from kernels._device import Plan, Plans, layout

TILE = 128

MANY = 1024  # tokens that fill the GPU by themselves
WHOLE = 8192  # channels of one program then, at most
ROWS = 32  # of one program of the second step, one a thread
QUADS = 7  # of scales, which a thread has in flight there
CLEARED = 1024  # rows of one program that clears their tokens

_plans = Plans()


@triton.jit
def _permute_kernel(
    x_ptr, scale_ptr, slot_ptr, weight_ptr, rows_ptr, rows_scale_ptr, row_weight_ptr, token_ptr,
    num_rows, channels, stride_xt, stride_st, stride_sc, stride_rows_scale,
    SCALES: tl.constexpr, TWO_STEPS: tl.constexpr, WEIGHTS: tl.constexpr, TOPK: tl.constexpr,
    PLACES: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
    EARLY: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    _chain.begin(CHAIN)
    if EARLY:
        gdc_launch_dependents()
    chunks = tl.cdiv(channels, BLOCK)
    chunk = tl.program_id(0) % chunks
    token = (tl.program_id(0) // chunks).to(tl.int64)
    places = tl.arange(0, PLACES)
    slot = tl.load(slot_ptr + token * TOPK + places, mask=places < TOPK, other=-1)
    inside = (slot >= 0) & (slot < num_rows)
    # One number, so that a token which goes nowhere is not read.
    routed = tl.max(inside.to(tl.int32), axis=0) > 0
    row = slot.to(tl.int64)
    if routed:
        columns = chunk * BLOCK + tl.arange(0, BLOCK)
        held = columns < channels
        x = tl.load(x_ptr + token * stride_xt + columns, mask=held)
        if SCALES:
            _move_scales(
                scale_ptr + token * stride_st, rows_scale_ptr, token, row, inside, chunk, channels,
                stride_sc, stride_rows_scale, TWO_STEPS, BLOCK // TILE, TILES, TILE, PLACES,
            )  # fmt: skip
        if WEIGHTS:
            once = inside & (chunk == 0)
            weight = tl.load(weight_ptr + token * TOPK + places, mask=once)
            tl.store(row_weight_ptr + row, weight, mask=once)
        tl.store(
            rows_ptr + row[:, None] * channels + columns[None, :],
            tl.broadcast_to(x[None, :], (PLACES, BLOCK)),
            mask=inside[:, None] & held[None, :], cache_modifier=".cs",  # not read again soon
        )  # fmt: skip
    if SCALES and TWO_STEPS:
        if EARLY:
            # In every program, so that who waits for this kernel has waited for the one before, too.
            gdc_wait()
        here = tl.broadcast_to(token.to(tl.int32), (PLACES,))
        tl.store(token_ptr + row, here, mask=inside & (chunk == 0))


@triton.jit
def _move_scales(
    scale_ptr, out_ptr, token, row, inside, chunk, channels, stride_sc, stride_rows_scale,
    TWO_STEPS: tl.constexpr, EACH: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
    PLACES: tl.constexpr,
):  # fmt: skip
    """A token's scales of a chunk of EACH tiles: to its place among tokens, or to its rows."""
    tiles = chunk * EACH + tl.arange(0, TILES)
    tiled = tiles < channels // TILE
    wide = tiles.to(tl.int64)
    scale = tl.load(scale_ptr + wide * stride_sc, mask=tiled, other=0.0)
    if TWO_STEPS:
        # Up to a multiple of 4, since they are read by fours.
        pitch = tl.cdiv(channels // TILE, 4) * 4
        tl.store(out_ptr + token * pitch + wide, scale, mask=tiles < pitch)
    else:
        tl.store(
            out_ptr + wide[None, :] * stride_rows_scale + row[:, None],
            tl.broadcast_to(scale[None, :], (PLACES, TILES)),
            mask=inside[:, None] & tiled[None, :],
        )


@triton.jit
def _clear_kernel(token_ptr, num_rows, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    if EARLY:
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(token_ptr + row, tl.full((BLOCK,), -1, tl.int32), mask=row < num_rows)


@triton.jit
def _scales_kernel(
    scale_ptr, token_ptr, rows_scale_ptr, num_rows, tiles, stride_rows_scale,
    ROWS: tl.constexpr, QUADS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    if EARLY:
        gdc_wait()
    token = tl.load(token_ptr + row, mask=row < num_rows, other=-1)
    there = token >= 0
    if tl.max(token, axis=0) >= 0:
        quads = tl.cdiv(tiles, 4)
        source = scale_ptr + token.to(tl.int64) * (quads * 4)
        place = rows_scale_ptr + row
        for start in range(0, quads, QUADS):
            # All loads before the first store: the compiler leaves them in this order.
            scales = ()
            for ahead in tl.static_range(QUADS):
                quad = start + ahead
                scales = scales + _four(source + quad * 4, there & (quad < quads))
            for ahead in tl.static_range(4 * QUADS):
                tl.store(place, scales[ahead], mask=there & (start * 4 + ahead < tiles))
                place += stride_rows_scale


@triton.jit
def _four(at, there):
    """Four tensors, of the numbers that lie in a row from ``at`` on: one load of 16 bytes."""
    numbers = tl.load(at[:, None] + tl.arange(0, 4)[None, :], mask=there[:, None], other=0.0)
    even, odd = tl.split(tl.reshape(numbers, (numbers.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


def permute(
    x: torch.Tensor,
    x_scale: torch.Tensor | None,
    slot: torch.Tensor,
    num_rows: int,
    topk_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Write each token's row wherever one of its experts reads it.

    x: [T, H] e4m3 or bf16, stride 1 along H; H a multiple of 128.
    x_scale: [T, H/128] fp32, of any strides, for e4m3; None for bf16.
    slot: [T, K] int32, contiguous, as ``expert_slots`` gives it; no row stands in it twice.
    num_rows: R, such as ``expert_rows`` gives it.
    topk_weights: [T, K] fp32, contiguous, or None.

    Returns (rows [R, H] of x's dtype, rows_scale [R, H/128] fp32 or None without x_scale, row_weight
    [R] fp32 or None without topk_weights).  Scales are stored as ``act_quant`` stores them: stride 1
    along R, columns padded to a multiple of 4 rows.  A slot that is negative or at least R stands
    nowhere; rows in which no slot stands are not written.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    given = tuple(part for part in (x, x_scale, slot, topk_weights) if part is not None)
    key = layout(given, num_rows, x_scale is None, topk_weights is None)
    plan = _plans.get(key) or _plans.keep(
        key, _checked_plan(x, x_scale, slot, num_rows, topk_weights)
    )
    (tokens, channels), device = x.shape, x.device
    rows = torch.empty(num_rows, channels, dtype=x.dtype, device=device)
    rows_scale = row_weight = None
    if x_scale is not None:
        padded = torch.empty(
            channels // TILE, (num_rows + 3) // 4 * 4, dtype=torch.float32, device=device
        )
        rows_scale = padded.T[:num_rows]
    if topk_weights is not None:
        row_weight = torch.empty(num_rows, dtype=torch.float32, device=device)
    if tokens and num_rows:
        plan(device, x, x_scale, slot, topk_weights, rows, rows_scale, row_weight)
    return rows, rows_scale, row_weight


class PermutePlan:
    """The launch that moves the rows and, for many tokens with scales, those around it that move these."""

    def __init__(
        self, move: Plan, clear: Plan | None, scales: Plan | None, tokens: int, pitch: int
    ) -> None:
        self.move = move
        self.clear = clear
        self.scales = scales
        self.tokens = tokens
        self.pitch = pitch

    def __call__(
        self, device: torch.device, x: torch.Tensor, x_scale: torch.Tensor | None,
        slot: torch.Tensor, topk_weights: torch.Tensor | None, rows: torch.Tensor,
        rows_scale: torch.Tensor | None, row_weight: torch.Tensor | None,
    ) -> None:  # fmt: skip
        """Launch into ``rows``, ``rows_scale`` and ``row_weight``."""
        operands = (x, x_scale, slot, topk_weights, rows)
        if self.clear is None or self.scales is None:
            self.move(device, *operands, rows_scale, row_weight, None)
            return
        by_token = torch.empty(self.tokens, self.pitch, dtype=torch.float32, device=device)
        token = torch.empty(rows.shape[0], dtype=torch.int32, device=device)
        self.clear(device, token)
        self.move(device, *operands, by_token, row_weight, token)
        self.scales(device, by_token, token, rows_scale)


def _checked_plan(
    x: torch.Tensor,
    x_scale: torch.Tensor | None,
    slot: torch.Tensor,
    num_rows: int,
    topk_weights: torch.Tensor | None,
) -> PermutePlan:
    _check.tensor("x", x, (torch.float8_e4m3fn, torch.bfloat16), (None, None))
    _check.rows_contiguous("x", x)
    tokens, channels = x.shape
    _slots.channels("x", channels)
    if x.dtype == torch.float8_e4m3fn:
        _check.tensor("x_scale", x_scale, (torch.float32,), (tokens, channels // TILE))
    elif x_scale is not None:
        raise TypeError(f"x_scale: expected None for bfloat16, got {type(x_scale).__name__}")
    _slots.slots(slot, tokens)
    _check.whole("num_rows", num_rows, 0, _slots.MAX_ROWS)
    if topk_weights is not None:
        _slots.weights(topk_weights, slot)
    others = {"x_scale": x_scale, "slot": slot, "topk_weights": topk_weights}
    _check.runnable("x", x, *((name, part) for name, part in others.items() if part is not None))
    return _plan_of(x, x_scale, slot, num_rows, topk_weights)


def _plan_of(
    x: torch.Tensor,
    x_scale: torch.Tensor | None,
    slot: torch.Tensor,
    num_rows: int,
    topk_weights: torch.Tensor | None,
) -> PermutePlan:
    (tokens, channels), topk = x.shape, slot.shape[1]
    many = tokens >= MANY
    two_steps = many and x_scale is not None
    block = min(WHOLE, triton.next_power_of_2(channels)) if many else _slots.BLOCK
    padded = (num_rows + 3) // 4 * 4
    strides = (0, 0) if x_scale is None else x_scale.stride()
    chain = _chain.OFF if many else _chain.mode("permute")
    early = two_steps and not knobs.runtime.interpret
    pdl = {"launch_pdl": True} if early else {}
    move = Plan(
        _permute_kernel, (tokens * triton.cdiv(channels, block),),
        (num_rows, channels, x.stride(0), *strides, padded),
        {
            "SCALES": x_scale is not None, "TWO_STEPS": two_steps, "WEIGHTS": topk_weights is not None,
            "TOPK": topk, "PLACES": triton.next_power_of_2(topk), "BLOCK": block,
            "TILES": max(4, block // TILE), "TILE": TILE, "EARLY": early, "CHAIN": chain,
        }, num_warps=max(1, block * x.element_size() // (32 * (64 if many else 16))),
        **pdl, **_chain.options(chain),
    )  # fmt: skip
    tiles = channels // TILE
    if not two_steps:
        return PermutePlan(move, None, None, tokens, tiles)
    # Not early: all before it is complete then, of which the next kernel reads before it waits.
    clear = Plan(
        _clear_kernel, (triton.cdiv(num_rows, CLEARED),), (num_rows,),
        {"BLOCK": CLEARED, "EARLY": early}, num_warps=4,
    )  # fmt: skip
    scales = Plan(
        _scales_kernel, (triton.cdiv(num_rows, ROWS),), (num_rows, tiles, padded),
        {"ROWS": ROWS, "QUADS": QUADS, "EARLY": early}, num_warps=ROWS // 32, **pdl,
    )  # fmt: skip
    return PermutePlan(move, clear, scales, tokens, triton.cdiv(tiles, 4) * 4)

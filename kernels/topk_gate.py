"""Which experts a token goes to, and with what weights; the twin of reference_impl/topk_gate.py.

Bound: latency.  Plan: a warp takes one token.  All its experts lie in registers, 16 bytes of logits a
lane and load.  Biased scores become integers of the same order, below which a masked expert has room.
The best expert is then one maximum over the warp, which is an instruction for integers, and the lowest
index that has it another, K times; groups are chosen alike.  Nothing is sorted.  The K scores are
worked out again from their logits, which are in the L1 by now.

Counts are integer atomics, whose order does not show.  One for each token and expert would take longer
than all else, since the counts lie in a kilobyte that few slices of the L2 serve (docs/log.md): with
many tokens a program has TOKENS of them and adds up first.  A program alone needs no zeros before.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _check, _router
from kernels._device import Plan, Plans, layout

LANES = 32
MOST_TOKENS = 16  # of a program, a warp each
PROGRAMS = 128  # before one takes several tokens
MASKED = tl.constexpr(
    -(1 << 31)
)  # below the key of every number, that of -Inf is 0x7FFFFF above it
NO_PLACE = tl.constexpr((1 << 31) - 1)

_plans = Plans()


@triton.jit
def _key(x):
    """Integers in the order of fp32 numbers, of which none is -0; NaN as -Inf."""
    bits = _router.nan_is_lowest(x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _best(key, place):
    """[TOKENS]: the lowest ``place`` that has the highest key, of [TOKENS, .., ..] each.

    A maximum of 32 lanes is one instruction.
    """
    best = tl.max(tl.max(key, axis=1), axis=1)
    found = tl.where(key == best[:, None, None], place, NO_PLACE)
    return tl.min(tl.min(found, axis=1), axis=1)


@triton.jit
def _group_scores(biased, PAIR: tl.constexpr):
    """[TOKENS, g1, g2] of [TOKENS, g1, m1, g2, m2]: sum of the two highest of a group, the members of
    which are m1 by m2, or the highest where it has no PAIR.

    biased: without NaN, -Inf where there is no expert.
    """
    score = tl.max(tl.max(biased, axis=4), axis=2)
    if PAIR:
        highest = biased == score[:, :, None, :, None]
        others = tl.where(highest, -float("inf"), biased)
        second = tl.max(tl.max(others, axis=4), axis=2)
        alike = tl.sum(tl.sum(highest.to(tl.int32), axis=4), axis=2) > 1
        score += tl.where(alike, score, second)
    return score


@triton.jit
def _kept(
    biased, GROUPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
    LIMIT: tl.constexpr, PAIR: tl.constexpr,
):  # fmt: skip
    """[TOKENS, spans, SPAN], as ``biased`` is: whether a place's group is one of its token's best LIMIT."""
    # Groups of some spans, or some groups of a span.
    m1: tl.constexpr = (COLUMNS + SPAN - 1) // SPAN
    g1: tl.constexpr = ROWS * COLUMNS // SPAN // m1
    g2: tl.constexpr = ROWS // g1
    grouped: tl.constexpr = (biased.shape[0], g1, m1, g2, COLUMNS // m1)
    score = _group_scores(tl.reshape(biased, grouped), PAIR)
    group = tl.arange(0, g1)[None, :, None] * g2 + tl.arange(0, g2)[None, None, :]
    key = tl.where(group < GROUPS, _key(score), MASKED)
    for _ in tl.static_range(LIMIT):
        key = tl.where(group == _best(key, group)[:, None, None], MASKED, key)
    # Those are kept that lost their keys.
    kept = tl.broadcast_to((key == MASKED)[:, :, None, :, None], grouped)
    return tl.reshape(kept, biased.shape)


@triton.jit
def _topk_gate_kernel(
    logits_ptr, bias_ptr, idx_ptr, weight_ptr, counts_ptr,
    tokens, experts, stride, route_scale,
    TOKENS: tl.constexpr, TOPK: tl.constexpr, LIST: tl.constexpr, GROUPS: tl.constexpr,
    SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
    EXPERTS: tl.constexpr, LIMIT: tl.constexpr, PAIR: tl.constexpr, BIASED: tl.constexpr,
    SOFTMAX: tl.constexpr, NORMALISE: tl.constexpr, ALONE: tl.constexpr,
):  # fmt: skip
    # Of a token's places SPAN are a warp's width; so tokens are the warps' dimension.
    spans: tl.constexpr = ROWS * COLUMNS // SPAN
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    there = token < tokens
    # Those past the end are the last one over again, and write nothing.
    row = tl.minimum(token, tokens - 1).to(tl.int64)
    row_ptrs = logits_ptr + row * stride
    place = tl.arange(0, spans)[None, :, None] * SPAN + tl.arange(0, SPAN)[None, None, :]
    expert = place // COLUMNS * SIZE + place % COLUMNS
    held = (place // COLUMNS < GROUPS) & (place % COLUMNS < SIZE)
    x = tl.load(row_ptrs[:, None, None] + expert, mask=held, other=0.0).to(tl.float32)
    shift, highest, total = 0.0, 0.0, 1.0
    if BIASED:
        shift = tl.load(bias_ptr + expert, mask=held, other=0.0)
    if SOFTMAX:
        highest, total = _router.softmax_rows(row_ptrs, experts, TOKENS, EXPERTS)
        biased = _router.scores(x, highest[:, :, None], total[:, :, None], SOFTMAX)
    else:
        biased = _router.scores(x, highest, total, SOFTMAX)
    if BIASED:
        biased += shift
    key = tl.where(held, _key(biased), MASKED)
    if LIMIT:
        biased = tl.where(held, _router.nan_is_lowest(biased), -float("inf"))
        held = held & _kept(biased, GROUPS, ROWS, COLUMNS, SPAN, LIMIT, PAIR)
        key = tl.where(held, key, MASKED)

    places = tl.arange(0, LIST)[None, :]
    chosen = tl.zeros([TOKENS, LIST], tl.int32)
    for k in tl.static_range(TOPK):
        first = _best(key, expert)
        key = tl.where(expert == first[:, None, None], MASKED, key)
        chosen = tl.where(places == k, first[:, None], chosen)

    listed = (places < TOPK) & there[:, None]
    x = tl.load(row_ptrs[:, None] + chosen, mask=listed, other=0.0).to(tl.float32)
    weight = tl.where(listed, _router.scores(x, highest, total, SOFTMAX), 0.0)
    if NORMALISE:
        sums = _router.row_pair_sums(weight, TOKENS, LIST)
        weight = tl.div_rn(weight, tl.broadcast_to(sums, (TOKENS, LIST)))
    lists = row[:, None] * TOPK + places
    tl.store(weight_ptr + lists, weight * route_scale, mask=listed)
    tl.store(idx_ptr + lists, chosen.to(tl.int64), mask=listed)
    # Of the experts that had a key the chosen are those that lost it.
    taken = held & (key == MASKED) & there[:, None, None]
    count = tl.sum(taken.to(tl.int32), axis=0)
    counted = tl.reshape(expert, (spans, SPAN))
    real = tl.reshape((place // COLUMNS < GROUPS) & (place % COLUMNS < SIZE), (spans, SPAN))
    if ALONE:
        tl.store(counts_ptr + counted, count, mask=real)
    else:
        tl.atomic_add(counts_ptr + counted, count, mask=real & (count > 0), sem="relaxed")


def topk_gate(
    logits: torch.Tensor, bias: torch.Tensor | None = None, topk: int = 8, num_groups: int = 8,
    num_limited_groups: int = 4, route_scale: float = 2.5, scoring: str = "sigmoid",
    normalise: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Choose each token's experts among a few groups, and weigh them by their scores.

    logits: [T, E] fp32 or bf16, stride 1 along E; E from 1 to 1024.
    bias: [E] fp32, or None for none; it moves the choice and never a weight.
    topk: K, from 1 to 32, and no more than there are experts in the kept groups.
    num_groups, num_limited_groups: groups of neighbouring experts, and how many of them a token may use;
    num_groups divides E, and 1 of 1 is no grouping.
    route_scale: positive; taken as fp32.
    scoring: "sigmoid" or "softmax".
    normalise: whether the weights are divided by their sum.

    Returns (topk_idx [T, K] int64, topk_weights [T, K] fp32, counts [E] int32).  Each token has K
    different experts, the best first, whatever its logits hold.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    options = (topk, num_groups, num_limited_groups, route_scale, scoring, normalise)
    key = layout((logits,) if bias is None else (logits, bias), *options)
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(logits, bias, *options))
    tokens, experts = logits.shape
    device = logits.device
    topk_idx = torch.empty((tokens, topk), dtype=torch.int64, device=device)
    weights = torch.empty((tokens, topk), dtype=torch.float32, device=device)
    # A program says of every expert how often it was chosen; several add up.
    make = torch.empty if 0 < tokens <= plan.constants["TOKENS"] else torch.zeros
    counts = make(experts, dtype=torch.int32, device=device)
    if tokens:
        plan(device, logits, bias, topk_idx, weights, counts)
    return topk_idx, weights, counts


def _checked_plan(
    logits: torch.Tensor, bias: torch.Tensor | None, topk: int, num_groups: int,
    num_limited_groups: int, route_scale: float, scoring: str, normalise: bool,
) -> Plan:  # fmt: skip
    tokens, experts = _router.logits(logits)
    others = []
    if bias is not None:
        _check.tensor("bias", bias, (torch.float32,), (experts,))
        _check.contiguous("bias", bias)
        others.append(("bias", bias))
    _check.whole("num_groups", num_groups, 1, experts)
    _check.multiple("num_groups", "E", experts, num_groups)
    _check.whole("num_limited_groups", num_limited_groups, 1, num_groups)
    size = experts // num_groups
    _check.whole("topk", topk, 1, min(_router.MAX_TOPK, num_limited_groups * size))
    _router.weighting(route_scale, scoring, normalise)
    _check.runnable("logits", logits, *others)
    limited = num_limited_groups < num_groups
    # Without a limit groups are of no account, and one row of all experts is shorter.
    groups, size = (num_groups, size) if limited else (1, experts)
    power = triton.next_power_of_2
    rows, columns = power(groups), power(size)
    of_program = _tokens_of_a_program(tokens)
    return Plan(
        _topk_gate_kernel, (triton.cdiv(tokens, of_program),),
        (tokens, experts, logits.stride(0), float(route_scale)),
        {
            "TOKENS": of_program, "TOPK": topk, "LIST": power(topk), "GROUPS": groups, "SIZE": size,
            "ROWS": rows, "COLUMNS": columns,
            "SPAN": min(rows * columns, LANES * 16 // logits.element_size()),
            "EXPERTS": power(experts), "LIMIT": num_limited_groups if limited else 0, "PAIR": size > 1,
            "BIASED": bias is not None, "SOFTMAX": scoring == "softmax", "NORMALISE": normalise,
            "ALONE": tokens <= of_program,
        }, num_warps=of_program, enable_fp_fusion=False,
    )  # fmt: skip


def _tokens_of_a_program(tokens: int) -> int:
    """A power of two, at most MOST_TOKENS: all where they fit, else as many as leave PROGRAMS."""
    if tokens <= MOST_TOKENS:
        return 1 << (max(1, tokens) - 1).bit_length()
    most: int = max(1, min(MOST_TOKENS, tokens // PROGRAMS))
    return 1 << (most.bit_length() - 1)

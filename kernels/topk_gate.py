"""Which experts a token goes to, and with what weights; the twin of reference_impl/topk_gate.py.

Bound: latency.  Plan: a warp, which is a program, takes one token.  All its experts lie in registers,
eight a lane, as [groups, experts of a group], both up to powers of two.  Biased scores become integers
of the same order, below which a masked expert has room.  The best expert is then one maximum over the
warp, which is an instruction for integers, and the lowest index that has it another, K times; groups
are chosen alike.  Nothing is sorted and nothing passes through shared memory.  The K scores are worked
out again from their logits, which are in the L1 by now.

Counts are integer atomics, whose order does not show; where there is but one token nothing needs to be
zero before.  Atomics on one sector of the L2 wait for one another, which for many tokens takes longer
than all else; so each count then has a sector of its own.  Where nobody asks for them, as in decode
(:func:`choose`), none are made; and one token's experts say where its rows stand.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _chain, _check, _router
from kernels._device import Plan, Plans, layout

WARPS = 1
MANY = 64  # tokens
APART = 8  # numbers of 4 bytes: a sector of the L2
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
    """The lowest ``place`` that has the highest key.  A maximum of 32 lanes is one instruction."""
    best = tl.max(key)
    return tl.min(tl.where(key == best, place, NO_PLACE))


@triton.jit
def _group_scores(biased, PAIR: tl.constexpr):
    """[ROWS]: sum of the two highest of each row, or the highest where a group has no PAIR.

    biased: [ROWS, COLUMNS] without NaN, -Inf where there is no expert.
    """
    score = tl.max(biased, axis=1)
    if PAIR:
        highest = biased == score[:, None]
        second = tl.max(tl.where(highest, -float("inf"), biased), axis=1)
        alike = tl.sum(highest.to(tl.int32), axis=1) > 1
        score += tl.where(alike, score, second)
    return score


@triton.jit
def _topk_gate_kernel(
    logits_ptr, bias_ptr, idx_ptr, weight_ptr, counts_ptr,
    experts, stride, route_scale, apart,
    TOPK: tl.constexpr, LIST: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EXPERTS: tl.constexpr, LIMIT: tl.constexpr,
    PAIR: tl.constexpr, BIASED: tl.constexpr, SOFTMAX: tl.constexpr, NORMALISE: tl.constexpr,
    ALONE: tl.constexpr, COUNTED: tl.constexpr, CAPACITY: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    _chain.begin(CHAIN)
    token = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + token * stride
    group = tl.arange(0, ROWS)[:, None]
    member = tl.arange(0, COLUMNS)[None, :]
    expert = group * SIZE + member
    held = (group < GROUPS) & (member < SIZE)
    x = tl.load(row_ptr + expert, mask=held, other=0.0).to(tl.float32)
    shift, highest, total = 0.0, 0.0, 1.0
    if BIASED:
        shift = tl.load(bias_ptr + expert, mask=held, other=0.0)
    if SOFTMAX:
        highest, total = _router.softmax_parts(row_ptr, experts, EXPERTS)
    biased = _router.scores(x, highest, total, SOFTMAX)
    if BIASED:
        biased += shift
    key = tl.where(held, _key(biased), MASKED)
    if LIMIT:
        biased = tl.where(held, _router.nan_is_lowest(biased), -float("inf"))
        group_key = tl.where(group < GROUPS, _key(_group_scores(biased, PAIR))[:, None], MASKED)
        for _ in tl.static_range(LIMIT):
            group_key = tl.where(group == _best(group_key, group), MASKED, group_key)
        # Of the groups those are kept that lost their keys.
        held = held & (group_key == MASKED)
        key = tl.where(held, key, MASKED)

    places = tl.arange(0, LIST)
    chosen = tl.zeros([LIST], tl.int32)
    for k in tl.static_range(TOPK):
        first = _best(key, expert)
        key = tl.where(expert == first, MASKED, key)
        chosen = tl.where(places == k, first, chosen)

    listed = places < TOPK
    x = tl.load(row_ptr + chosen, mask=listed, other=0.0).to(tl.float32)
    weight = tl.where(listed, _router.scores(x, highest, total, SOFTMAX), 0.0)
    if NORMALISE:
        weight = tl.div_rn(weight, tl.broadcast_to(_router.pair_sum(weight, LIST), (LIST,)))
    _chain.later(CHAIN)
    tl.store(weight_ptr + token * TOPK + places, weight * route_scale, mask=listed)
    found = (chosen * CAPACITY).to(idx_ptr.dtype.element_ty)
    tl.store(idx_ptr + token * TOPK + places, found, mask=listed)
    if ALONE:
        # Of the experts that had a key the chosen are those that lost it.
        taken = held & (key == MASKED)
        tl.store(counts_ptr + expert, taken.to(tl.int32), mask=(group < GROUPS) & (member < SIZE))
    elif COUNTED:
        tl.atomic_add(counts_ptr + chosen * apart, 1, mask=listed, sem="relaxed")


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
    different experts, the best first, whatever its logits hold.  Of 64 tokens and more counts is a view
    whose elements lie 32 bytes apart.

    Raises TypeError or ValueError naming the argument.  Safe to capture in a CUDA graph.
    """
    options = (topk, num_groups, num_limited_groups, route_scale, scoring, normalise)
    key = layout((logits,) if bias is None else (logits, bias), *options)
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(logits, bias, *options))
    tokens, experts = logits.shape
    device = logits.device
    topk_idx = torch.empty((tokens, topk), dtype=torch.int64, device=device)
    weights = torch.empty((tokens, topk), dtype=torch.float32, device=device)
    # One token says of every expert whether it is chosen; more add up.
    make = torch.empty if tokens == 1 else torch.zeros
    counts = make(experts, _apart(tokens), dtype=torch.int32, device=device)[:, 0]
    if tokens:
        plan(device, logits, bias, topk_idx, weights, counts)
    return topk_idx, weights, counts


def choose(
    logits: torch.Tensor, bias: torch.Tensor, topk: int, num_groups: int, num_limited_groups: int,
    route_scale: float, capacity: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """``topk_gate`` in front of ``expert_slots`` and a masked buffer of ``capacity`` rows an expert.

    Returns (topk_idx, topk_weights, None); of one token both operators' results: (slot [1, K] int32,
    topk_weights, counts [E] int32).  It is alone, so it has the first row of each of its experts.
    """
    options = (topk, num_groups, num_limited_groups, route_scale, "sigmoid", True, capacity)
    key = layout((logits, bias), *options)
    plan = _plans.get(key) or _plans.keep(key, _checked_plan(logits, bias, *options))
    (tokens, experts), device = logits.shape, logits.device
    alone = tokens == 1
    found = torch.empty(
        (tokens, topk), dtype=torch.int32 if alone else torch.int64, device=device
    )  # fmt: skip
    weights = torch.empty((tokens, topk), dtype=torch.float32, device=device)
    counts = torch.empty(experts, dtype=torch.int32, device=device) if alone else None
    if tokens:
        plan(device, logits, bias, found, weights, counts)
    return found, weights, counts


def _checked_plan(
    logits: torch.Tensor, bias: torch.Tensor | None, topk: int, num_groups: int,
    num_limited_groups: int, route_scale: float, scoring: str, normalise: bool,
    capacity: int | None = None,
) -> Plan:  # fmt: skip
    """capacity: of :func:`choose`; None for ``topk_gate``."""
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
    chain = _chain.mode("topk_gate")
    return Plan(
        _topk_gate_kernel, (tokens,),
        (experts, logits.stride(0), float(route_scale), _apart(tokens)),
        {
            "TOPK": topk, "LIST": power(topk), "GROUPS": groups, "SIZE": size,
            "ROWS": power(groups), "COLUMNS": power(size),
            "EXPERTS": power(experts), "LIMIT": num_limited_groups if limited else 0, "PAIR": size > 1,
            "BIASED": bias is not None, "SOFTMAX": scoring == "softmax", "NORMALISE": normalise,
            "ALONE": tokens == 1, "COUNTED": capacity is None,
            "CAPACITY": capacity if capacity is not None and tokens == 1 else 1, "CHAIN": chain,
        }, num_warps=WARPS, enable_fp_fusion=False, **_chain.options(chain),
    )  # fmt: skip


def _apart(tokens: int) -> int:
    return APART if tokens >= MANY else 1

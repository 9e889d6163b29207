"""topk_gate: the definition against a plain loop over each token's experts, and what holds beyond parity."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.cases._router import BIASES, KINDS, bias, logits
from benchmarks.cases.topk_gate import TopkGate
from benchmarks.compare import Exact, assert_equal
from kernels._device import recording
from kernels.topk_gate import topk_gate
from reference_impl import topk_gate as reference
from reference_impl._fp32 import exp
from reference_impl._router import scores
from tests._guards import guarded
from tests.test_reference import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

F32 = torch.float32
INF, NAN = math.inf, math.nan
NAMES = ("topk_idx", "topk_weights", "counts")
BOTH = pytest.mark.parametrize(
    "function", [topk_gate, reference.topk_gate], ids=["kernel", "reference"]
)


def rounded(number: Fraction | float) -> float:
    """To fp32."""
    if isinstance(number, float) and not math.isfinite(number):
        return number
    return nearest(Fraction(number), F32)


def add(a: float, b: float) -> float:
    """One fp32 sum, which may be one of Inf or NaN."""
    if math.isfinite(a) and math.isfinite(b):
        return rounded(Fraction(a) + Fraction(b))
    return a + b


def pairs(numbers: list[float]) -> float:
    """Sum of fp32 numbers in pairs, neighbours first."""
    while len(numbers) > 1:
        numbers = [*numbers, 0.0] if len(numbers) % 2 else numbers
        numbers = [add(a, b) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    return numbers[0]


def highest_first(numbers: dict[int, float]) -> list[int]:
    """Keys by their numbers, the highest first, NaN as -Inf; of equal ones the lowest key."""
    return sorted(
        numbers, key=lambda key: (INF if math.isnan(numbers[key]) else -numbers[key], key)
    )


def by_loop(
    score: list[float], shift: list[float] | None, topk: int, groups: int, limit: int
) -> list[int]:
    """The experts of one token with these scores, in order."""
    experts = range(len(score))
    biased = {e: score[e] if shift is None else add(score[e], shift[e]) for e in experts}
    size = len(score) // groups
    group_scores = {}
    for group in range(groups):
        members = {e: biased[e] for e in experts if e // size == group}
        best = [-INF if math.isnan(members[e]) else members[e] for e in highest_first(members)]
        group_scores[group] = add(best[0], best[1]) if size > 1 else best[0]
    kept = highest_first(group_scores)[:limit]
    return highest_first({e: biased[e] for e in experts if e // size in kept})[:topk]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", BIASES)
def test_the_definition(shift: str, kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    drawn, moved = logits(8, 48, kind, generator), bias(48, shift, generator)
    scored = scores(drawn, "sigmoid").tolist()
    for topk, groups, limit in ((5, 6, 2), (4, 1, 1), (3, 4, 4), (4, 48, 7), (8, 6, 1)):
        idx, weights, counts = reference.topk_gate(drawn, moved, topk, groups, limit, 1.7)
        for token, score in enumerate(scored):
            shifts = None if moved is None else moved.tolist()
            chosen = by_loop(score, shifts, topk, groups, limit)
            assert idx[token].tolist() == chosen
            total = pairs([score[e] for e in chosen])
            for k, expert in enumerate(chosen):
                share = (
                    NAN if math.isnan(total) else rounded(Fraction(score[expert]) / Fraction(total))
                )
                want = (
                    NAN if math.isnan(share) else rounded(Fraction(share) * Fraction(rounded(1.7)))
                )
                got = weights[token, k].item()
                assert got == want or (math.isnan(got) and math.isnan(want))
        assert counts.tolist() == [(idx == expert).sum().item() for expert in range(48)]


def test_the_softmax() -> None:
    """exp of the distance to the highest, over the sum in pairs; near the exact one."""
    drawn = logits(6, 20, "normal", torch.Generator().manual_seed(2))
    got = scores(drawn, "softmax")
    powers = exp(drawn - drawn.max(dim=1, keepdim=True).values)
    for token, line in enumerate(powers.tolist()):
        total = pairs(line)
        for expert, power in enumerate(line):
            assert got[token, expert].item() == rounded(Fraction(power) / Fraction(total))
    # exp errs by less than 2 units of 2^-23, twice; its argument is off by 2^-24 of up to 8; 5
    # additions and a division by half a unit each.
    exact = drawn.double().softmax(dim=1)
    assert ((got - exact).abs() <= exact * (2 + 2 + 8 + 6 / 2) * 2.0**-23).all()


def one(function: Callable[..., Any], device: str, line: list[float], **options: Any) -> list[int]:
    """Experts of a token with these biased scores: logits of 0, and all in the bias."""
    shift = torch.tensor(line, device=device)
    idx, weights, _ = function(torch.zeros(1, len(line), device=device), shift, **options)
    assert (weights == 2.5 / len(idx[0])).all(), "the bias is in the weights"
    found: list[int] = idx[0].tolist()
    return found


@BOTH
@pytest.mark.parametrize(
    ("line", "limit", "chosen"),
    [
        # The sum of two counts, not the best one: group 1 has the highest score of all.
        ([0.5, 0.5, 0.875, 0.0, 0.25, 0.25, 0.0, 0.0], 1, [0, 1]),
        # All biased scores are negative, and no zero of a masked group gets before them.
        ([-4.0, -3.0, -9.0, -8.0, -2.0, -2.0, -7.0, -6.0], 2, [4, 5]),
        ([-4.0, -3.0, -9.0, -8.0, -7.0, -9.0, -7.0, -6.0], 1, [1, 0]),
        # Ties of experts and of groups go to the lowest.
        ([1.0] * 8, 1, [0, 1]),
        ([0.0, 0.0, 2.0, 1.0, 1.0, 2.0, 0.0, 3.0], 1, [2, 3]),
        ([0.0, 0.0, 1.0, 2.0, 1.0, 2.0, 0.0, 3.0], 2, [3, 5]),
        # A kept group's -Inf stands before any number of another group's.
        ([1.0] * 12 + [5.0, 6.0, -INF, -INF], 1, [13, 12, 14, 15]),
        ([INF, -9.0, 5.0, 5.0, 4.0, 4.0, 0.0, 0.0], 1, [0, 1]),
        ([9.0, -INF, 1.0, 1.0, -INF, -INF, -INF, -INF], 1, [2, 3]),
        ([-INF] * 8, 1, [0, 1]),
        ([-INF, -INF, NAN, NAN, NAN, 2.0, -INF, -INF], 1, [0, 1]),
        ([-INF, -INF, NAN, NAN, 1.0, 2.0, -INF, -INF], 1, [5, 4]),
        ([INF, -INF, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], 1, [2, 3]),  # Inf - Inf is no score
    ],
)
def test_who_is_chosen(
    function: Callable[..., Any], line: list[float], limit: int, chosen: list[int], device: str
) -> None:
    topk = len(chosen)
    got = one(function, device, line, topk=topk, num_groups=4, num_limited_groups=limit)
    assert got == chosen


@BOTH
def test_scores_at_the_ends(function: Callable[..., Any], device: str) -> None:
    """Sums of the smallest scores there are; those of 1; and both."""
    for low, high, weights in (
        (-1e9, -INF, [0.25] * 4), (50.0, INF, [0.25] * 4), (-200.0, 0.0, [1.0, 0.0, 0.0, 0.0]),
    ):  # fmt: skip
        line = torch.full((1, 16), low, device=device)
        line[0, 5] = high
        _, got, _ = function(line, None, 4, 1, 1, 1.0)
        assert got[0].cpu().sub(torch.tensor(weights)).abs().max() < 1e-37


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_near_the_plain_formula(dtype: torch.dtype, device: str) -> None:
    """Against float64, on the fp32 logits.

    A score errs by less than 3 units of 2^-23 of at most 1 (docs/numerics.md), and its sum with a
    bias below 1 by another; a logit of bf16 by 2^-8 of itself, and its score by a quarter of that. Where
    chosen and not chosen are further apart than twice the error, and groups than four times, the
    experts are those of float64.
    """
    case = TopkGate(t=40)
    arguments = case.inputs("cpu")
    drawn, shift = arguments["logits"].double(), arguments["bias"].double()
    error = 5 * 2.0**-23
    if dtype == torch.bfloat16:
        error += drawn.abs().max().item() * 2.0**-8 / 4
    biased = drawn.sigmoid() + shift
    groups = biased.reshape(40, 8, 32).topk(2).values.sum(dim=2).sort(dim=1, descending=True)
    clear = groups.values[:, 3] - groups.values[:, 4] > 4 * error
    kept = torch.zeros(40, 8, dtype=torch.bool).scatter(1, groups.indices[:, :4], True)
    masked = biased.where(kept.repeat_interleave(32, dim=1), -INF).sort(dim=1, descending=True)
    clear &= masked.values[:, 7] - masked.values[:, 8] > 2 * error
    assert clear.sum() > 10
    moved = {"logits": arguments["logits"].to(device, dtype), "bias": arguments["bias"].to(device)}
    idx, weights, _ = (part.cpu() for part in topk_gate(**moved))
    want = masked.indices[:, :8].sort(dim=1).values
    assert torch.equal(idx.sort(dim=1).values[clear], want[clear])
    exact = moved["logits"].cpu().double().sigmoid().gather(1, idx)
    exact = 2.5 * exact / exact.sum(dim=1, keepdim=True)
    # Score and sum by 3 units each, 3 additions, a division and a product by half a unit.
    assert ((weights - exact).abs() <= exact * (3 + 3 + 5 / 2) * 2.0**-23).all()
    assert (weights != exact).any()


def test_bf16_flips_near_ties() -> None:
    """So the comparison above must leave near ties out: some tokens do choose otherwise."""
    arguments = TopkGate(t=200).inputs("cpu")
    full = reference.topk_gate(**arguments)[0].sort(dim=1).values
    short = reference.topk_gate(**arguments | {"logits": arguments["logits"].bfloat16()})
    assert 0 < (full != short[0].sort(dim=1).values).any(dim=1).sum() < 200


@pytest.mark.parametrize("shift", BIASES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_token_has_its_experts(
    kind: str, shift: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is in the logits: K different experts of at most 4 groups, and nobody is dropped."""
    generator = torch.Generator().manual_seed(4)
    drawn, moved = logits(5, 64, kind, generator).to(device), bias(64, shift, generator)
    with guarded(monkeypatch):
        idx, _, counts = topk_gate(drawn, None if moved is None else moved.to(device), 7, 16, 4)
    assert ((idx >= 0) & (idx < 64)).all()
    for line in idx.tolist():
        assert len(set(line)) == 7
        assert len({expert // 4 for expert in line}) <= 4
    assert counts.sum() == 5 * 7
    assert torch.equal(counts, idx.flatten().bincount(minlength=64).int())


def test_a_token_is_the_same_in_any_batch(device: str) -> None:
    """Alone, which is another way to count; and beside one that is all NaN."""
    drawn = TopkGate(t=6).inputs(device)
    moved, shift = drawn["logits"], drawn["bias"]
    moved[2] = NAN
    together = topk_gate(moved, shift)
    alone = [topk_gate(moved[token : token + 1], shift) for token in range(6)]
    for place in (0, 1):
        joined = torch.cat([parts[place] for parts in alone])
        assert_equal(joined, together[place], Exact(), names=NAMES[place : place + 1])
    assert torch.equal(torch.stack([parts[2] for parts in alone]).sum(dim=0).int(), together[2])
    assert (
        together[0][2].tolist()
        == torch.tensor(drawn["bias"].tolist())
        .new_tensor(by_loop([NAN] * 256, shift.tolist(), 8, 8, 4))
        .long()
        .tolist()
    )


def test_locked_experts_stay_out(device: str) -> None:
    shift = torch.zeros(64, device=device)
    shift[::2] = -INF
    idx, _, _ = topk_gate(
        logits(9, 64, "normal", torch.Generator().manual_seed(5)).to(device), shift
    )
    assert (idx % 2 == 1).all()


def test_views(device: str) -> None:
    """Rows that lie apart and begin anywhere."""
    wide = logits(9, 150, "normal", torch.Generator().manual_seed(6)).to(device)
    for view in (wide[::2, 3:67], wide[:1, 1:65].expand(4, 64), wide[:, 7:107]):
        got, want = (topk_gate(x, None, 8, 4, 2) for x in (view, view.contiguous()))
        assert_equal(got, want, Exact(), names=NAMES)


def test_launches() -> None:
    """One, of a program a token, however many."""
    for tokens in (0, 1, 4096, 1 << 20):
        with recording() as launches:
            topk_gate(torch.empty(tokens, 256, device="meta"))
        assert [launch.grid for launch in launches] == ([(tokens,)] if tokens else [])

"""sequence_balance_loss: its order on fractions, its formula against autograd, and what holds beyond
parity."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.cases.sequence_balance_loss import SequenceBalanceLoss
from benchmarks.compare import Exact, assert_equal
from kernels._device import recording
from kernels.sequence_balance_loss import STEPS, TILE, sequence_balance_loss
from reference_impl import sequence_balance_loss as reference
from reference_impl._fp32 import sigmoid
from tests._guards import guarded
from tests.test_topk_gate import pairs, rounded

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("loss", "grad_logits")
BOTH = pytest.mark.parametrize(
    "function", [sequence_balance_loss, reference.sequence_balance_loss],
    ids=["kernel", "reference"],
)  # fmt: skip


def on(device: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        key: part.to(device) if isinstance(part, torch.Tensor) else part
        for key, part in arguments.items()
    }


@pytest.mark.parametrize("data", ["normal", "saturated", "bottom"])
def test_the_order(data: str) -> None:
    """One number after the other, a rounding an operation; the sum over tokens in whole units."""
    arguments = SequenceBalanceLoss(b=2, s=7, e=12, k=3, data=data, routing="stray").inputs("cpu")
    loss, grad = reference.sequence_balance_loss(**arguments)
    alpha = Fraction(rounded(1e-4))
    for sequence in range(2):
        mine = slice(7 * sequence, 7 * sequence + 7)
        lists = arguments["topk_idx"][mine].flatten().tolist()
        score = sigmoid(arguments["logits"][mine]).tolist()
        share = [[rounded(Fraction(s) / Fraction(pairs(line))) for s in line] for line in score]
        mean, frequency = [], []
        for expert in range(12):
            units = sum(math.floor(Fraction(line[expert]) * 2**40) for line in share)
            mean.append(rounded(Fraction(rounded(units)) / 2**40 / 7))
            frequency.append(rounded(Fraction(12 * lists.count(expert), 3 * 7)))
        terms = [rounded(Fraction(f) * Fraction(p)) for f, p in zip(frequency, mean, strict=True)]
        assert loss[sequence].item() == rounded(alpha * Fraction(pairs(terms)))
        slope = [rounded(Fraction(rounded(alpha * Fraction(f))) / 7) for f in frequency]
        for token in range(7):
            line, p = score[token], share[token]
            tied = Fraction(
                pairs([rounded(Fraction(a) * Fraction(b)) for a, b in zip(slope, p, strict=True)])
            )
            for expert in range(12):
                want = rounded(Fraction(slope[expert]) - tied)
                want = rounded(Fraction(want) * Fraction(p[expert]))
                want = rounded(Fraction(want) * Fraction(rounded(1 - Fraction(line[expert]))))
                assert grad[7 * sequence + token, expert].item() == want


def exact(x: torch.Tensor, idx: torch.Tensor, length: int, alpha: float = 1e-4) -> torch.Tensor:
    """Losses by the plain formula, in x's dtype."""
    experts = x.shape[1]
    score = x.sigmoid()
    means = (score / score.sum(dim=1, keepdim=True)).reshape(-1, length, experts).mean(dim=1)
    counts = torch.stack([part.flatten().bincount(minlength=experts) for part in idx.split(length)])
    return alpha * (counts * experts / (length * idx.shape[1]) * means).sum(dim=1)


class Loss(torch.autograd.Function):
    """The plain sum of losses, with the gradient as the reference's docstring states it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, idx: torch.Tensor, length: int) -> Any:
        ctx.save_for_backward(x, idx)
        ctx.length = length
        return exact(x, idx, length, 1.0).sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        x, idx = ctx.saved_tensors
        parts = []
        for mine, chosen in zip(x.split(ctx.length), idx.split(ctx.length), strict=True):
            counts = chosen.flatten().bincount(minlength=x.shape[1])
            slope = counts * x.shape[1] / chosen.numel() / ctx.length
            score = mine.sigmoid()
            share = score / score.sum(dim=1, keepdim=True)
            parts.append((slope - (slope * share).sum(dim=1, keepdim=True)) * share * (1 - score))
        return grads[0] * torch.cat(parts), None, None


def test_the_formula_is_the_gradient() -> None:
    """By finite differences in float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(10, 8, generator=generator, dtype=torch.float64).requires_grad_()
    idx = torch.randint(8, (10, 3), generator=generator)
    assert torch.autograd.gradcheck(
        lambda x: Loss.apply(x, idx, 5),  # type: ignore[no-untyped-call]
        (x,),
        atol=1e-9,
        rtol=1e-6,
    )


@pytest.mark.parametrize("routing", ["uniform", "zipf"])
def test_near_autograd(routing: str, device: str) -> None:
    """Against float64, in units u = 2^-24.

    A score errs by 6 u, its sum by that and 8 additions, p by both and a division: 21 u.  Truncation
    takes less than 2^-40 of p, below u of one that is 2^-16 or more: 22.  P, f P, the pairs and alpha:
    6 roundings and 8 additions, and alpha itself: 37 of the loss.  A slope has 5 u, a term of m with p 27,
    m 35, of which the subtraction adds one; then p again 21, 1 - s 7 u of 1, and 2 products: below 70 u
    of (a + m) p.
    """
    case = SequenceBalanceLoss(b=2, s=40, routing=routing)
    arguments = case.inputs("cpu")
    x, idx = arguments["logits"].double().requires_grad_(), arguments["topk_idx"]
    want = exact(x, idx, 40)
    (want_grad,) = torch.autograd.grad(want.sum(), x)
    got, grad = (part.cpu().double() for part in sequence_balance_loss(**on(device, arguments)))
    share = x.sigmoid() / x.sigmoid().sum(dim=1, keepdim=True)
    assert share.min() > 2.0**-16
    assert ((got - want).abs() <= want * 40 * 2.0**-24).all()
    counts = torch.stack([part.flatten().bincount(minlength=256) for part in idx.split(40)])
    slope = (1e-4 * counts * 256 / 320 / 40).repeat_interleave(40, dim=0)
    size = (slope + (slope * share).sum(dim=1, keepdim=True)) * share
    assert ((grad - want_grad).abs() <= size * 70 * 2.0**-24).all()
    assert (grad != want_grad).any()


@BOTH
def test_balance_costs_alpha(function: Callable[..., Any], device: str) -> None:
    """Every expert as often, and all scores alike: f is 1, P 1 / E, and the loss alpha to the bit."""
    idx = torch.arange(64 * 4, device=device).reshape(64, 4) % 32
    loss, grad = function(torch.full((64, 32), 0.25, device=device), idx, 16)
    assert_equal(loss, torch.full((4,), 1e-4, device=device), Exact())
    assert (grad == 0).all()
    # All to four experts that are certain, while the other scores are next to nothing.
    idx = torch.arange(4, device=device).expand(64, 4).contiguous()
    sure = torch.full((64, 32), -50.0, device=device)
    sure[:, :4] = 20.0
    assert_equal(function(sure, idx, 16)[0], torch.full((4,), 8e-4, device=device), Exact())


@BOTH
def test_the_default_alpha_is_felt(function: Callable[..., Any], device: str) -> None:
    arguments = SequenceBalanceLoss(b=1, s=30, routing="zipf").inputs(device)
    del arguments["alpha"]
    loss, grad = function(**arguments)
    assert 1e-4 < loss.item() < 1e-2
    assert (grad != 0).all()
    assert_equal(function(**arguments, alpha=0.0)[0], torch.zeros_like(loss), Exact())


def test_the_order_of_tokens_does_not_matter(device: str) -> None:
    """More than one program's, so that atomics come in any order."""
    tokens = 2 * STEPS * (TILE // 256) + 3
    arguments = SequenceBalanceLoss(b=1, s=tokens, data="saturated").inputs(device)
    loss, grad = sequence_balance_loss(**arguments)
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(1)).to(device)
    for name in ("logits", "topk_idx"):
        arguments[name] = arguments[name][order]
    moved = sequence_balance_loss(**arguments)
    assert_equal(moved, (loss, grad[order]), Exact(), names=NAMES)


def test_sequences_are_apart(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as if it were alone, also beside one with a NaN, whose other tokens keep their gradients."""
    arguments = SequenceBalanceLoss(b=3, s=21).inputs(device)
    x, idx = arguments["logits"], arguments["topk_idx"]
    clean = sequence_balance_loss(x, idx, 21)
    x = x.clone()
    x[30, 7] = float("nan")
    with guarded(monkeypatch):
        loss, grad = sequence_balance_loss(x, idx, 21)
    assert loss.isnan().tolist() == [False, True, False]
    assert (grad.isnan() == (torch.arange(63, device=device) == 30)[:, None]).all()
    other = torch.arange(63, device=device) != 30
    assert_equal(grad[other], clean[1][other], Exact())
    for sequence in range(3):
        mine = slice(21 * sequence, 21 * sequence + 21)
        alone = sequence_balance_loss(x[mine], idx[mine])
        assert_equal(alone, (loss[sequence : sequence + 1], grad[mine]), Exact(), names=NAMES)


def test_views(device: str) -> None:
    arguments = SequenceBalanceLoss(b=2, s=9, e=20, k=3).inputs(device)
    want = sequence_balance_loss(**arguments)
    wide = torch.zeros(36, 41, device=device)
    wide[::2, 3:23] = arguments["logits"]
    got = sequence_balance_loss(**arguments | {"logits": wide[::2, 3:23]})
    assert_equal(got, want, Exact(), names=NAMES)


@BOTH
def test_units_do_not_overflow(function: Callable[..., Any], device: str) -> None:
    """One expert has 2^40 units of each token: 2^54 in all, of which fp32 keeps the sum."""
    tokens = 1 << 14
    x = torch.zeros(tokens, 1, device=device)
    idx = torch.zeros(tokens, 1, dtype=torch.int64, device=device)
    assert_equal(function(x, idx, alpha=0.5)[0], torch.full((1,), 0.5, device=device), Exact())


def test_launches() -> None:
    """Two, and none without tokens; grids stay inside CUDA's limits."""
    for tokens, length in ((0, None), (4096, None), (1 << 22, None), (1 << 22, 1)):
        x = torch.empty(tokens, 256, device="meta")
        with recording() as launches:
            sequence_balance_loss(
                x, torch.empty(tokens, 8, dtype=torch.int64, device="meta"), length
            )
        assert len(launches) == (2 if tokens else 0)
        assert all(len(launch.grid) == 1 and launch.grid[0] < 1 << 31 for launch in launches)

"""topk_gate_backward: its order on fractions, its formula against autograd, and what holds beyond parity."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.cases.topk_gate_backward import TopkGateBackward
from benchmarks.compare import Exact, assert_equal
from kernels.topk_gate_backward import topk_gate_backward
from reference_impl import topk_gate
from reference_impl import topk_gate_backward as reference
from reference_impl._router import scores
from tests._guards import guarded
from tests.test_topk_gate import pairs, rounded

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH = pytest.mark.parametrize(
    "function", [topk_gate_backward, reference.topk_gate_backward], ids=["kernel", "reference"]
)
OPTIONS = [
    (scoring, normalise) for scoring in ("sigmoid", "softmax") for normalise in (True, False)
]
EVERY = pytest.mark.parametrize(("scoring", "normalise"), OPTIONS)


def weights_of(x: torch.Tensor, idx: torch.Tensor, scoring: str, normalise: bool) -> torch.Tensor:
    """The weights of topk_gate by the plain formula."""
    score = (x.sigmoid() if scoring == "sigmoid" else x.softmax(dim=1)).gather(1, idx)
    return 2.5 * (score / score.sum(dim=1, keepdim=True) if normalise else score)


def gradient_of(
    grad: torch.Tensor, x: torch.Tensor, idx: torch.Tensor, scoring: str, normalise: bool
) -> torch.Tensor:
    """The gradient as the reference's docstring states it, in x's dtype."""
    every = x.sigmoid() if scoring == "sigmoid" else x.softmax(dim=1)
    score = every.gather(1, idx)
    share = score / score.sum(dim=1, keepdim=True) if normalise else score
    tied = normalise or scoring == "softmax"
    mean = (grad * share).sum(dim=1, keepdim=True) if tied else torch.zeros_like(grad[:, :1])
    one = 2.5 * (grad - mean) * share
    if scoring == "sigmoid":
        one = one * (1 - score)
    rest = 2.5 * (0 - mean) * every if not normalise and tied else torch.zeros_like(every)
    return rest.scatter(1, idx, one)


class Weights(torch.autograd.Function):
    """The plain weights, with the stated gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, idx: torch.Tensor, scoring: str, normalise: bool) -> Any:
        ctx.save_for_backward(x, idx)
        ctx.options = scoring, normalise
        return weights_of(x, idx, scoring, normalise)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return gradient_of(grads[0], *ctx.saved_tensors, *ctx.options), None, None, None


@EVERY
def test_the_formula_is_the_gradient(scoring: str, normalise: bool) -> None:
    """By finite differences in float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 12, generator=generator, dtype=torch.float64).requires_grad_()
    idx = torch.rand(3, 12, generator=generator).topk(4).indices
    assert torch.autograd.gradcheck(
        lambda x: Weights.apply(x, idx, scoring, normalise),  # type: ignore[no-untyped-call]
        (x,),
        atol=1e-9,
        rtol=1e-6,
    )


@EVERY
def test_the_order(scoring: str, normalise: bool) -> None:
    """One expert after the other, a rounding an operation."""
    arguments = TopkGateBackward(t=4, e=24, k=5, scoring=scoring, normalise=normalise).inputs("cpu")
    got = reference.topk_gate_backward(**arguments)
    every = scores(arguments["logits"], scoring).tolist()
    for token, (grads, chosen) in enumerate(
        zip(arguments["grad_weights"].tolist(), arguments["topk_idx"].tolist(), strict=True)
    ):
        score = [every[token][e] for e in chosen]
        total = Fraction(pairs(score))
        share = [rounded(Fraction(x) / total) for x in score] if normalise else score
        products = [rounded(Fraction(g) * Fraction(p)) for g, p in zip(grads, share, strict=True)]
        mean = pairs(products) if normalise or scoring == "softmax" else 0.0

        def slope(grad: float, share: float, mean: float = mean) -> float:
            scaled = rounded(Fraction(5, 2) * Fraction(rounded(Fraction(grad) - Fraction(mean))))
            return rounded(Fraction(scaled) * Fraction(share))

        rest = scoring == "softmax" and not normalise
        want = [slope(0.0, s) if rest else 0.0 for s in every[token]]
        for grad, expert, s, p in zip(grads, chosen, score, share, strict=True):
            want[expert] = slope(grad, p)
            if scoring == "sigmoid":
                left = rounded(1 - Fraction(s))
                want[expert] = rounded(Fraction(want[expert]) * Fraction(left))
        assert got[token].tolist() == want


@EVERY
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_near_autograd(dtype: str, scoring: str, normalise: bool, device: str) -> None:
    """Against autograd of the plain formula in float64, in units u = 2^-24.

    Scores err by 6 u, and softmax's by 32 u of themselves (test_topk_gate.py), their sum by as much and 3
    additions, p by both and a division: at most 68 u. A product g p by one more, t by 3 more of
    the sum of their magnitudes: 72. The subtraction, the product with c and that with p: 3, and p's
    own 68. 1 - s errs by 6 u of 1 and one rounding, and a product follows. All are below 160 u of
    c (|g| + sum |g p|) p.  bf16 adds 2^-8 of the result.
    """
    case = TopkGateBackward(t=20, scoring=scoring, normalise=normalise, dtype=dtype)
    arguments = case.inputs("cpu")
    grad, x, idx = arguments["grad_weights"], arguments["logits"], arguments["topk_idx"]
    exact_x = x.double().requires_grad_()
    weights = weights_of(exact_x, idx, scoring, normalise)
    (want,) = torch.autograd.grad(weights, exact_x, grad.double())
    moved: dict[str, Any] = {
        key: part.to(device) if isinstance(part, torch.Tensor) else part
        for key, part in arguments.items()
    }
    got = topk_gate_backward(**moved).cpu()
    share = weights.detach().abs() / 2.5
    size = 2.5 * (grad.abs() + (grad * share).abs().sum(dim=1, keepdim=True))
    every = exact_x.detach().softmax(dim=1) * size.max(dim=1, keepdim=True).values
    # What normalise cancels, float64 does not cancel to the last bit.
    bound = every if scoring == "softmax" and not normalise else every * 2.0**-24
    bound = bound.scatter(1, idx, size * share) * 160 * 2.0**-24
    if dtype == "bf16":
        bound += (want.abs() + bound) * 2.0**-8
    assert ((got.double() - want).abs() <= bound).all()
    assert (got.double() != want).any()


@BOTH
def test_nothing_overflows_at_the_bottom(function: Callable[..., Any], device: str) -> None:
    """Eight scores of 1.6e-38: dividing by their sum first would give Inf."""
    grad = torch.tensor([[16.0, -16.0] * 4], device=device)
    got = function(
        grad, torch.full((1, 8), -1000.0, device=device), torch.arange(8, device=device)[None]
    )
    assert got.tolist() == [[5.0, -5.0] * 4]


@BOTH
def test_what_is_not_chosen_has_none(
    function: Callable[..., Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even NaN from its neighbours, its logit, or the gradient of an entry that is no expert."""
    arguments = TopkGateBackward(t=6, e=64, k=4, missing=True).inputs(device)
    idx, grad, x = arguments["topk_idx"], arguments["grad_weights"], arguments["logits"]
    here = (idx >= 0) & (idx < 64)
    assert not here.all()
    grad[~here] = float("nan")
    grad[1] = float("nan")
    chosen = torch.zeros(6, 65, dtype=torch.bool, device=device)
    chosen = chosen.scatter(1, idx.where(here, 64), True)[:, :64]
    x[~chosen] = float("nan")
    if function is topk_gate_backward:
        with guarded(monkeypatch):
            got = function(**arguments)
    else:
        got = function(**arguments)
    assert_equal(got[~chosen], torch.zeros_like(got[~chosen]), Exact())
    assert (got.isnan() == (chosen & (torch.arange(6, device=device) == 1)[:, None])).all()


@EVERY
def test_a_token_has_the_same_gradient_in_any_batch(
    scoring: str, normalise: bool, device: str
) -> None:
    arguments = TopkGateBackward(t=9, scoring=scoring, normalise=normalise).inputs(device)
    whole = topk_gate_backward(**arguments)
    for name in ("grad_weights", "logits", "topk_idx"):
        arguments[name] = arguments[name][4:6]
    assert_equal(topk_gate_backward(**arguments), whole[4:6], Exact())


def test_views(device: str) -> None:
    """Logits whose rows lie apart; the gradient's do not."""
    arguments = TopkGateBackward(t=5, e=100, k=4).inputs(device)
    want = topk_gate_backward(**arguments)
    wide = torch.zeros(10, 131, device=device)
    wide[::2, 3:103] = arguments["logits"]
    assert_equal(topk_gate_backward(**arguments | {"logits": wide[::2, 3:103]}), want, Exact())


def test_it_takes_what_the_gate_gives(device: str) -> None:
    x = TopkGateBackward(t=4).inputs(device)["logits"]
    idx, weights, _ = topk_gate.topk_gate(x)
    got = topk_gate_backward(weights, x, idx)
    assert_equal(got, reference.topk_gate_backward(weights, x, idx), Exact())
    assert (got != 0).sum() == idx.numel()

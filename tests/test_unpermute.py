"""unpermute and its backward: the definitions on exact fractions and against autograd, and what holds
beyond parity."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.cases.unpermute import Unpermute, UnpermuteAdd
from benchmarks.cases.unpermute_backward import UnpermuteBackward
from benchmarks.compare import Exact, assert_equal
from kernels import unpermute as kernel
from kernels._device import Plans
from kernels.unpermute import unpermute
from kernels.unpermute_backward import unpermute_backward
from reference_impl import unpermute as reference
from reference_impl import unpermute_backward as reference_backward
from tests._guards import PATTERN, guarded
from tests._operands import on
from tests.test_inputs import refuse
from tests.test_reference import fused, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

BF16 = torch.bfloat16


def by_whole_tokens(*arguments: Any, **options: Any) -> Any:
    """``unpermute`` as it is with many tokens, however few there are, two steps a program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "MANY", 0)
        patch.setattr(kernel, "STEPS", 2)
        patch.setattr(kernel, "_plans", Plans())
        return kernel.unpermute(*arguments, **options)


BOTH = pytest.mark.parametrize(
    "function", [unpermute, by_whole_tokens, reference.unpermute],
    ids=["kernel", "kernel by whole tokens", "reference"],
)  # fmt: skip
BACKWARDS = pytest.mark.parametrize(
    "function",
    [unpermute_backward, reference_backward.unpermute_backward],
    ids=["kernel", "reference"],
)


@pytest.mark.parametrize("data", ["normal", "wide", "cancelling"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_definition(weighted: bool, data: str) -> None:
    """A token and a channel at a time, on fractions, one rounding a term and one to bf16."""
    arguments = Unpermute(
        t=5, h=128, e=8, k=4, weights=weighted, routing="dropped", data=data
    ).inputs("cpu")
    rows, slot, weights = (arguments[name] for name in ("rows", "slot", "topk_weights"))
    out = reference.unpermute(**arguments)
    for token, line in enumerate(slot.tolist()):
        for channel in range(0, 128, 3):
            acc = 0.0
            for k, row in enumerate(line):
                if row >= 0:
                    weight = weights[token, k].item() if weighted else 1.0
                    acc = fused(weight, rows[row, channel].item(), acc)
            assert out[token, channel].item() == nearest(Fraction(acc), BF16)


def one_token(*numbers: float) -> dict[str, Any]:
    """A token with one row for each number, in every channel."""
    rows = torch.tensor(numbers)[:, None].expand(-1, 128).to(BF16)
    return {"rows": rows, "slot": torch.arange(len(numbers), dtype=torch.int32)[None]}


@BOTH
@pytest.mark.parametrize(
    ("numbers", "total"),
    [
        # 2^24 + 1 + 1 is 2^24 in fp32, 1 + 1 + 2^24 is not; the difference shows once 2^24 is gone.
        ((2.0**24, 1, 1, -(2.0**24)), 0.0),
        ((1, 1, 2.0**24, -(2.0**24)), 2.0),
        ((-0.0, -0.0), 0.0),
        ((float("inf"), 1, -float("inf")), float("nan")),
        ((3e38, 3e38, -3e38), float("inf")),
    ],
)
def test_the_order_is_that_of_k(
    function: Callable[..., Any], numbers: tuple[float, ...], total: float, device: str
) -> None:
    want = torch.full((1, 128), total, dtype=BF16)
    assert_equal(function(**on(device, one_token(*numbers))).cpu(), want, Exact())
    ones = torch.ones(1, len(numbers), device=device)
    assert_equal(
        function(**on(device, one_token(*numbers)), topk_weights=ones).cpu(), want, Exact()
    )


@BOTH
def test_a_term_is_rounded_once(function: Callable[..., Any], device: str) -> None:
    """(1 + 2^-23)(1 + 2^-7) less what fp32 keeps of it: 2^-30, and 0 if the product is rounded."""
    weights = torch.tensor([[1 + 2.0**-7 + 2.0**-23, 1 + 2.0**-23]], device=device)
    got = function(**on(device, one_token(-1.0, 1 + 2.0**-7)), topk_weights=weights)
    assert_equal(got.cpu(), torch.full((1, 128), 2.0**-30, dtype=BF16), Exact())


@BOTH
def test_what_is_not_routed_is_not_looked_at(function: Callable[..., Any], device: str) -> None:
    """NaN in all other rows and weights; slots that are no row; a token without any."""
    rows = torch.full((6, 128), float("nan"), dtype=BF16)
    rows[2], rows[4] = 1.5, -4.0
    low, high = torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max
    slot = torch.tensor([[-1, 2, 6], [low, -7, high], [4, high, 2]], dtype=torch.int32)
    nan = float("nan")
    weights = torch.tensor([[nan, 2.0, nan], [nan, nan, nan], [0.5, nan, 4.0]])
    arguments = {"rows": rows, "slot": slot}
    plain = function(**on(device, arguments)).cpu()
    assert plain.unique(dim=1).flatten().tolist() == [1.5, 0.0, -2.5]
    weighted = function(**on(device, arguments | {"topk_weights": weights})).cpu()
    assert weighted.unique(dim=1).flatten().tolist() == [3.0, 0.0, 4.0]
    assert not weighted[1].signbit().any()


@BOTH
def test_an_addend_is_added_to_what_is_bf16_by_then(
    function: Callable[..., Any], device: str
) -> None:
    """1 + 2^-8 is 1 in bf16, and 2^-7 more one step above; one rounding of the three would be two."""
    arguments = on(device, one_token(1.0, 2.0**-8))
    addend = torch.full((1, 128), 2.0**-7, dtype=BF16, device=device)
    got = function(**arguments, addend=addend).cpu()
    assert_equal(got, torch.full((1, 128), 1 + 2.0**-7, dtype=BF16), Exact())
    want = torch.tensor([1 + 2.0**-8 + 2.0**-7]).to(BF16).item()
    assert got[0, 0].item() != want  # or nothing is shown


@BOTH
@pytest.mark.parametrize("weighted", [False, True])
def test_an_addend_is_a_sum_afterwards(
    function: Callable[..., Any], weighted: bool, device: str
) -> None:
    """Tokens that went nowhere included, and -0 and NaN, which are the addend's alone."""
    case = UnpermuteAdd(t=20, h=256, e=8, k=2, weights=weighted, routing="dropped")
    arguments = case.inputs(device)
    addend = arguments.pop("addend")
    nowhere = (arguments["slot"] < 0).all(dim=1)
    assert nowhere.any()
    addend[:, 0], addend[3, 1] = -0.0, float("nan")
    got = function(**arguments, addend=addend)
    assert_equal(got, function(**arguments) + addend, Exact())
    assert torch.equal(got[nowhere][:, 2:], addend[nowhere][:, 2:])
    assert not torch.equal(got, function(**arguments))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("h", [128, 1152, 2176, 4224])
def test_whole_tokens(h: int, weighted: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that end inside, at and past the last channel."""
    case = Unpermute(t=6, h=h, e=8, k=3, weights=weighted, routing="dropped")
    arguments = case.inputs(device)
    want = reference.unpermute(**arguments)
    with guarded(monkeypatch):
        assert_equal(by_whole_tokens(**arguments), want, Exact())


@pytest.mark.parametrize("weighted", [False, True])
def test_a_token_has_the_same_sum_in_any_batch(weighted: bool, device: str) -> None:
    arguments = Unpermute(t=20, h=256, e=8, k=4, weights=weighted).inputs(device)
    whole = unpermute(**arguments)
    few = {name: part[5:9].contiguous() for name, part in arguments.items() if part is not None}
    few["rows"] = arguments["rows"]
    assert_equal(unpermute(**few), whole[5:9], Exact())


def test_views(device: str) -> None:
    """Rows that lie apart."""
    wide = torch.randn(20, 515, generator=torch.Generator().manual_seed(1)).to(BF16).to(device)
    slot = torch.arange(10, dtype=torch.int32, device=device).reshape(5, 2)
    weights = torch.rand(5, 2, generator=torch.Generator().manual_seed(2)).to(device)
    rows, grad = wide[::2, 3:259], wide[1:10:2, 259:515]
    assert_equal(unpermute(rows, slot), unpermute(rows.contiguous(), slot), Exact())
    assert_equal(unpermute(rows, slot, None, grad), unpermute(rows, slot) + grad, Exact())
    assert_equal(
        unpermute_backward(grad, rows, slot, weights),
        unpermute_backward(grad.contiguous(), rows.contiguous(), slot, weights),
        Exact(), names=("grad_rows", "grad_weights"),
    )  # fmt: skip


@pytest.mark.parametrize("data", ["normal", "wide", "cancelling"])
def test_the_order_of_a_dot(data: str) -> None:
    """On fractions: 1024 sums over steps of 1024 channels, then pairs, neighbours first."""
    arguments = UnpermuteBackward(t=2, h=1280, e=4, k=2, data=data).inputs("cpu")
    grad, rows, slot, weights = arguments.values()
    grad_rows, grad_weights = reference_backward.unpermute_backward(**arguments)
    for token, k in ((0, 1), (1, 0)):
        row = int(slot[token, k])
        a, b = grad[token].tolist(), rows[row].tolist()
        sums = [0.0] * 1024
        for h in range(1280):
            sums[h % 1024] = fused(a[h], b[h], sums[h % 1024])
        while len(sums) > 1:
            pairs = zip(sums[0::2], sums[1::2], strict=True)
            sums = [nearest(Fraction(x) + Fraction(y), torch.float32) for x, y in pairs]
        assert grad_weights[token, k].item() == sums[0]
        weight = Fraction(weights[token, k].item())
        for h in range(0, 1280, 7):
            product = nearest(weight * Fraction(a[h]), torch.float32)
            assert grad_rows[row, h].item() == nearest(Fraction(product), BF16)


def test_the_gradients(device: str) -> None:
    """Against autograd of the plain formula in float64.

    A gradient of a row is rounded to fp32 and then to bf16.  Of a weight's, each product goes through
    at most n = ceil(H / 1024) + 10 additions, so the error is below n u / (1 - n u) of the sum of
    magnitudes, u = 2^-24.
    """
    case = UnpermuteBackward(t=10, h=2176, e=8, k=4, routing="dropped")
    arguments = case.inputs("cpu")
    grad, rows, slot, weights = arguments.values()
    inside = slot >= 0
    exact_rows = rows.double().nan_to_num().requires_grad_()
    exact_weights = weights.double().nan_to_num().requires_grad_()
    terms = exact_weights[..., None] * exact_rows[slot.clamp(min=0).long()] * inside[..., None]
    want_rows, want_weights = torch.autograd.grad(
        terms.sum(dim=1), (exact_rows, exact_weights), grad.double()
    )
    got_rows, got_weights = (
        part.cpu().double() for part in unpermute_backward(**on(device, arguments))
    )
    taken = slot[inside].long()
    error = (got_rows - want_rows)[taken].abs()
    assert (error <= want_rows[taken].abs() * ((1 + 2.0**-8) * (1 + 2.0**-24) - 1)).all()
    size = grad.double().abs()[:, None] * rows.double().nan_to_num().abs()[slot.clamp(min=0).long()]
    roundings = (3 + 10) * 2.0**-24
    bound = size.sum(dim=2) * roundings / (1 - roundings)
    assert ((got_weights - want_weights).abs() <= bound)[inside].all()
    assert (got_weights[~inside] == 0).all()
    assert (got_weights != want_weights).any()


@BACKWARDS
def test_the_backward_keeps_to_its_rows(
    function: Callable[..., Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without a slot stay as they were; what went nowhere has a gradient of 0, not 0 * Inf."""
    arguments = UnpermuteBackward(t=9, h=256, e=8, k=4, routing="dropped").inputs(device)
    slot = arguments["slot"]
    slot[0, 0], slot[1, 1] = torch.iinfo(torch.int32).max, len(arguments["rows"])
    slot[2, 2] = torch.iinfo(torch.int32).min
    arguments["grad"][1] = float("inf")
    inside = (slot >= 0) & (slot < len(arguments["rows"]))
    arguments["topk_weights"][~inside] = float("nan")
    assert inside[1].any()
    with guarded(monkeypatch):
        grad_rows, grad_weights = function(**arguments)
    left = torch.ones(len(grad_rows), dtype=torch.bool, device=device)
    left[slot[inside].long()] = False
    assert (grad_rows[left].view(torch.uint8) == PATTERN).all()
    finite = grad_rows[~left].float().isfinite().all(dim=1)
    assert finite.sum() == inside.sum() - inside[1].sum()
    assert (grad_weights[~inside] == 0).all()
    assert not grad_weights[~inside].signbit().any()


def test_a_token_has_the_same_gradients_in_any_batch(device: str) -> None:
    arguments = UnpermuteBackward(t=12, h=1280, e=8, k=4).inputs(device)
    grad_rows, grad_weights = unpermute_backward(**arguments)
    few = {name: part[5:9].contiguous() for name, part in arguments.items()}
    few["rows"] = arguments["rows"]
    few_rows, few_weights = unpermute_backward(**few)
    taken = few["slot"].flatten().long()
    assert_equal(few_rows[taken], grad_rows[taken], Exact())
    assert_equal(few_weights, grad_weights[5:9], Exact())


GOOD: dict[str, Any] = {
    "grad": torch.zeros(4, 128, dtype=BF16), "rows": torch.zeros(256, 128, dtype=BF16),
    "slot": torch.arange(8, dtype=torch.int32).reshape(4, 2), "topk_weights": torch.ones(4, 2),
}  # fmt: skip
REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("rows", GOOD["rows"].float(), TypeError, "rows: expected dtype bfloat16, got float32"),
    ("rows", GOOD["rows"].T.contiguous().T, ValueError, "rows: expected stride 1 .*"),
    ("slot", GOOD["slot"].long(), TypeError, "slot: expected dtype int32, got int64"),
    ("slot", GOOD["slot"].T.contiguous().T, ValueError, "slot: expected a contiguous tensor, .*"),
    ("slot", torch.zeros(4, 33, dtype=torch.int32), ValueError, "slot: K: expected 1 to 32, got 33"),
    ("topk_weights", torch.ones(4, 3), ValueError, r"topk_weights: expected shape \[4, 2\], got \[4, 3\]"),
    ("topk_weights", torch.ones(2, 4).T, ValueError, "topk_weights: expected a contiguous tensor, .*"),
    ("topk_weights", torch.ones(4, 2, dtype=BF16), TypeError, "topk_weights: expected dtype float32, .*"),
]  # fmt: skip
BACKWARD_ONLY: list[tuple[str, Any, type[Exception], str]] = [
    ("grad", GOOD["grad"][:, :96], ValueError, "grad: expected H to be a multiple of 128, got 96"),
    ("grad", GOOD["grad"].T.contiguous().T, ValueError, "grad: expected stride 1 .*"),
    ("rows", GOOD["rows"][:, :96], ValueError, r"rows: expected shape \[any, 128\], got \[256, 96\]"),
    ("slot", GOOD["slot"][:3], ValueError, r"slot: expected shape \[4, any\], got \[3, 2\]"),
    ("topk_weights", None, TypeError, r"topk_weights: expected a torch\.Tensor, got NoneType"),
]  # fmt: skip

ADDENDS: list[tuple[str, Any, type[Exception], str]] = [
    ("addend", torch.ones(4, 128), TypeError, "addend: expected dtype bfloat16, got float32"),
    ("addend", GOOD["grad"][:3], ValueError, r"addend: expected shape \[4, 128\], got \[3, 128\]"),
    ("addend", GOOD["grad"].T.contiguous().T, ValueError, "addend: expected stride 1 .*"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stem", "name", "value", "error", "said"),
    [
        (
            "unpermute",
            "rows",
            GOOD["rows"][:, :96],
            ValueError,
            "rows: expected H to be .*, got 96",
        ),
        *(("unpermute", *row) for row in [*REFUSED, *ADDENDS]),
        *(("unpermute_backward", *row) for row in [*REFUSED, *BACKWARD_ONLY]),
    ],
)
def test_refused(
    stem: str, name: str, value: Any, error: type[Exception], said: str, device: str
) -> None:
    arguments = {key: part for key, part in GOOD.items() if stem != "unpermute" or key != "grad"}
    moved = {
        key: None if part is None else part.to(device)
        for key, part in (arguments | {name: value}).items()
    }
    refuse(stem, moved, error, said)


def test_the_good_arguments_are_good(device: str) -> None:
    unpermute_backward(**on(device, GOOD))
    unpermute(**on(device, {key: part for key, part in GOOD.items() if key != "grad"}))

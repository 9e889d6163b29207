"""permute: the definition against a plain loop, and what holds beyond parity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.cases._routing import buffer_rows, place, routing
from benchmarks.cases.permute import Permute, defined, rows_at
from benchmarks.compare import Exact, assert_equal
from kernels import permute as kernel
from kernels._device import Plans
from kernels.permute import permute
from kernels.unpermute import unpermute
from reference_impl import permute as reference
from tests._guards import PATTERN, guarded
from tests.test_inputs import refuse

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("rows", "rows_scale", "row_weight")


def in_two_steps(*arguments: Any, **options: Any) -> Any:
    """``permute`` as it is with many tokens, however few there are, with loops of several steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "MANY", 0)
        patch.setattr(kernel, "QUADS", 2)
        patch.setattr(kernel, "_plans", Plans())
        return kernel.permute(*arguments, **options)


BOTH = pytest.mark.parametrize(
    "function", [permute, in_two_steps, reference.permute],
    ids=["kernel", "kernel in two steps", "reference"],
)  # fmt: skip
E4M3 = torch.float8_e4m3fn


def bits(tensor: torch.Tensor) -> list[Any]:
    return tensor.contiguous().view(torch.uint8).reshape(*tensor.shape, -1).tolist()


@pytest.mark.parametrize("x", ["e4m3", "bf16"])
@pytest.mark.parametrize("kind", ["uniform", "dropped", "duplicate"])
def test_the_definition(kind: str, x: str) -> None:
    """Each row of the buffer, as a plain loop over tokens fills it."""
    arguments = Permute(t=9, h=256, e=8, k=4, x=x, routing=kind).inputs("cpu")
    slot, given = arguments["slot"], [arguments["x"], arguments["x_scale"]]
    results = reference.permute(**arguments)
    for source, result in zip(given, results[:2], strict=True):
        if source is None:
            assert result is None
            continue
        assert result is not None
        moved = bits(result)
        for token, line in enumerate(slot.tolist()):
            for row in line:
                assert row < 0 or moved[row] == bits(source)[token]
    weights = arguments["topk_weights"]
    assert results[2] is not None
    for where in (slot >= 0).nonzero().tolist():
        assert results[2][slot[*where]] == weights[*where]


@BOTH
@pytest.mark.parametrize("kind", ["uniform", "none", "sizes", "stray"])
def test_padding_is_not_written(
    function: Callable[..., Any], kind: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = Permute(t=97, h=128, e=9, k=4, routing=kind).inputs(device)
    with guarded(monkeypatch):
        results = function(**arguments)
    slot = arguments["slot"]
    taken = slot[slot >= 0].long()
    for result in results:
        padding = torch.ones(len(result), dtype=torch.bool, device=device)
        padding[taken] = False
        assert padding.any()
        assert {byte for line in bits(rows_at(result, padding)) for byte in flat(line)} == {PATTERN}


def flat(line: Any) -> list[int]:
    return [byte for part in line for byte in flat(part)] if isinstance(line, list) else [line]


@pytest.mark.parametrize("kind", ["uniform", "dropped", "stray", "none"])
@pytest.mark.parametrize("x", ["e4m3", "bf16"])
def test_two_steps_give_the_rows_of_one(kind: str, x: str, device: str) -> None:
    """Over more rows and tiles than a program of the second step takes at once."""
    case = Permute(t=70, h=1152, e=4, k=2, x=x, weights=x == "e4m3", routing=kind)
    arguments = case.inputs(device)
    one, two = (defined(arguments, f(**arguments)) for f in (permute, in_two_steps))
    assert_equal(two, one, Exact(), names=list(NAMES))


@pytest.mark.parametrize("h", [128, 384, 640, 1152])
def test_two_steps_keep_to_their_tiles(
    h: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of numbers of tiles that are no multiple of 4, which is how the second step reads them."""
    arguments = Permute(t=4, h=h, e=4, k=2).inputs(device)
    with guarded(monkeypatch):
        two = in_two_steps(**arguments)
    want = reference.permute(**arguments)
    assert_equal(defined(arguments, two), defined(arguments, want), Exact(), names=list(NAMES))


@BOTH
def test_slots_that_are_no_row(
    function: Callable[..., Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative ones, and those past a buffer that is too short: nothing is written for them."""
    arguments = Permute(t=12, h=256, e=8, k=4).inputs(device)
    slot, num_rows = arguments["slot"], 300
    whole = function(**arguments)
    assert slot[:, 3].max() > num_rows
    short = function(**arguments | {"num_rows": num_rows})
    slot[::2, 1] = torch.iinfo(torch.int32).min
    slot[1::2, 2] = torch.iinfo(torch.int32).max
    slot[::3, 0] = num_rows
    with guarded(monkeypatch):
        spoiled = function(**arguments | {"num_rows": num_rows})
    taken = slot[(slot >= 0) & (slot < num_rows)].long()
    assert len(taken) > 5
    for one, other, all_ in zip(spoiled, short, whole, strict=True):
        assert len(one) == num_rows
        assert_equal(rows_at(one, taken), rows_at(other, taken), Exact())
        assert_equal(rows_at(one, taken), rows_at(all_, taken), Exact())
        left = torch.ones(num_rows, dtype=torch.bool, device=device)
        left[taken] = False
        assert (rows_at(one, left).contiguous().view(torch.uint8) == PATTERN).all()


@BOTH
@pytest.mark.parametrize("num_rows", [297, 298, 299, 300])
def test_scales_have_columns_of_a_multiple_of_four(
    function: Callable[..., Any], num_rows: int, device: str
) -> None:
    """Stride 1 along the rows, so that TMA reads them, and as act_quant's are."""
    arguments = Permute(t=12, h=256, e=8, k=4).inputs(device) | {"num_rows": num_rows}
    _, rows_scale, _ = function(**arguments)
    assert rows_scale.shape == (num_rows, 2)
    assert rows_scale.stride() == (1, 300)
    for token, k in (arguments["slot"] < num_rows).nonzero().tolist():
        row = int(arguments["slot"][token, k])
        assert rows_scale[row].tolist() == arguments["x_scale"][token].tolist()


def test_a_buffer_of_no_rows(device: str) -> None:
    arguments = Permute(t=5, h=256, e=8, k=2).inputs(device)
    for result in permute(**arguments | {"num_rows": 0}):
        assert result is not None
        assert len(result) == 0


def test_a_token_has_the_same_rows_in_any_batch(device: str) -> None:
    arguments = Permute(t=33, h=256, e=16, k=4).inputs(device)
    drawn = routing("zipf", 33, 16, 4, torch.Generator().manual_seed(9)).to(device)
    few = place(drawn[7:12], 16)[0]
    alone = permute(
        arguments["x"][7:12], arguments["x_scale"][7:12], few, buffer_rows(5, 4, 16),
        arguments["topk_weights"][7:12],
    )  # fmt: skip
    many = permute(**arguments | {"slot": place(drawn, 16)[0]})
    for one, other in zip(alone, many, strict=True):
        assert one is not None
        assert other is not None
        among = place(drawn, 16)[0][7:12].flatten().long()
        assert_equal(rows_at(one, few.flatten().long()), rows_at(other, among), Exact())


def test_views(device: str) -> None:
    """Tokens that lie apart, that start at an odd element, or are all the same one; scales too."""
    plain = Permute(t=6, h=256, e=8, k=2).inputs(device)
    wide = torch.randn(12, 515, generator=torch.Generator().manual_seed(1)).to(device)
    slot = {"slot": plain["slot"], "num_rows": plain["num_rows"]}
    for x in (wide[::2, 3:259], wide[:6, 256:512], wide[:1, :256].expand(6, 256)):
        for dtype in (torch.bfloat16, E4M3):
            held = torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=device)
            held = held.copy_(x) if x.stride(0) else x[:1].to(dtype).expand(6, 256)
            scale = None if dtype == torch.bfloat16 else wide[::2, 5:9:2]
            plain_scale = None if scale is None else scale.contiguous()
            got = permute(held, scale, **slot)
            want = permute(held.contiguous(), plain_scale, **slot)
            assert_equal(defined(plain, got), defined(plain, want), Exact(), names=NAMES)


@pytest.mark.parametrize("kind", ["uniform", "dropped"])
def test_back_again(kind: str, device: str) -> None:
    """With one expert a token: the identity, but for -0, which 0 + -0 makes +0, and for tokens that
    went nowhere."""
    drawn = routing(kind, 40, 8, 1, torch.Generator().manual_seed(6))
    slot = place(drawn, 8)[0].to(device)
    x = torch.randn(40, 256, generator=torch.Generator().manual_seed(2)).bfloat16()
    x[3, :5] = torch.tensor([0.0, -0.0, 1e-40, float("inf"), -float("inf")])
    x = x.to(device)
    rows, _, _ = permute(x, None, slot, buffer_rows(40, 1, 8))
    want = torch.where(slot >= 0, x + 0.0, torch.zeros_like(x))
    assert_equal(unpermute(rows, slot), want, Exact())
    assert_equal(unpermute(rows, slot, torch.ones_like(slot, dtype=torch.float32)), want, Exact())


def test_its_gradient_is_unpermute(device: str) -> None:
    """Against autograd in float64.

    K terms are added in fp32, each with at most 2^-24 of S, the sum of their magnitudes; the first is
    exact, which leaves room for what errors add to errors.  Then 2^-8 of that for bf16.
    """
    arguments = Permute(t=20, h=256, e=8, k=4, x="bf16", weights=False, routing="dropped").inputs(
        "cpu"
    )
    slot, topk = arguments["slot"], 4
    x = torch.zeros(20, 256, dtype=torch.float64, requires_grad=True)
    inside = slot >= 0
    buffer = torch.zeros(arguments["num_rows"], 256, dtype=torch.float64)
    moved = buffer.index_put((slot[inside].long(),), x[inside.nonzero()[:, 0]])
    grad = torch.randn(moved.shape, generator=torch.Generator().manual_seed(3)).bfloat16()
    (want,) = torch.autograd.grad(moved, x, grad.double(), retain_graph=True)
    (size,) = torch.autograd.grad(moved, x, grad.double().abs())
    got = unpermute(grad.to(device), slot.to(device)).cpu().double()
    summed = size * topk * 2.0**-24
    assert ((got - want).abs() <= summed + (want.abs() + summed) * 2.0**-8).all()
    assert (got != want).any()


BF16 = torch.zeros(4, 128, dtype=torch.bfloat16)
GOOD: dict[str, Any] = {
    "x": BF16.to(E4M3), "x_scale": torch.ones(4, 1), "slot": torch.zeros(4, 2, dtype=torch.int32),
    "num_rows": 256, "topk_weights": torch.ones(4, 2),
}  # fmt: skip
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": BF16.float()}, TypeError, "x: expected dtype float8_e4m3fn or bfloat16, got float32"),
    ({"x": BF16}, TypeError, "x_scale: expected None for bfloat16, got Tensor"),
    ({"x_scale": None}, TypeError, r"x_scale: expected a torch\.Tensor, got NoneType"),
    ({"x": BF16[:, :96].to(E4M3)}, ValueError, "x: expected H to be a multiple of 128, got 96"),
    ({"x": BF16[:, :0]}, ValueError, "x: H: expected 128 to .*, got 0"),
    ({"x": BF16.view(torch.int16).T.contiguous().T.view(torch.bfloat16)}, ValueError,
     r"x: expected stride 1 along its last dimension, got \(1, 4\)"),
    ({"x_scale": torch.ones(1, 4)}, ValueError, r"x_scale: expected shape \[4, 1\], got \[1, 4\]"),
    ({"slot": GOOD["slot"].long()}, TypeError, "slot: expected dtype int32, got int64"),
    ({"slot": GOOD["slot"][:3]}, ValueError, r"slot: expected shape \[4, any\], got \[3, 2\]"),
    ({"slot": GOOD["slot"][:, :0]}, ValueError, "slot: K: expected 1 to 32, got 0"),
    ({"slot": GOOD["slot"].T.contiguous().T}, ValueError, "slot: expected a contiguous tensor, .*"),
    ({"num_rows": -1}, ValueError, "num_rows: expected 0 to 2147483647, got -1"),
    ({"num_rows": 128.0}, TypeError, "num_rows: expected a whole number, got float"),
    ({"topk_weights": torch.ones(4, 1)}, ValueError,
     r"topk_weights: expected shape \[4, 2\], got \[4, 1\]"),
    ({"topk_weights": torch.ones(2, 4).T}, ValueError,
     "topk_weights: expected a contiguous tensor, .*"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "error", "said"), REFUSED)
def test_refused(bad: dict[str, Any], error: type[Exception], said: str, device: str) -> None:
    arguments = {
        # Onto the device with its strides.
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in (GOOD | bad).items()
    }
    refuse("permute", arguments, error, said)


def test_the_good_arguments_are_good(device: str) -> None:
    slot = torch.arange(8, dtype=torch.int32, device=device).reshape(4, 2)
    x, scale, weights = (GOOD[name].to(device) for name in ("x", "x_scale", "topk_weights"))
    permute(x, scale, slot, GOOD["num_rows"], weights)

"""The mixture of experts layer: against a loop over tokens, backward against autograd, and in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.cases.moe_layer import MoeLayer
from benchmarks.cases.moe_layer_backward import OUTPUTS, MoeLayerBackward
from benchmarks.cases.moe_layer_decode import MoeLayerDecode
from benchmarks.compare import Exact, assert_equal
from kernels import moe_layer as kernels
from kernels.fp8_gemm import fp8_gemm
from kernels.moe_layer_backward import moe_layer_backward
from kernels.moe_layer_decode import moe_layer_decode
from reference_impl import moe_layer as reference
from reference_impl._moe import Weights, transpose
from reference_impl.moe_layer_backward import moe_layer_backward as reference_backward
from reference_impl.moe_layer_decode import moe_layer_decode as reference_decode
from reference_impl.wgmma import partials
from tests import _moe

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("products")
GEOMETRY: dict[str, Any] = {
    "h": 256, "i": 128, "shared": 256, "e": 8, "k": 2, "groups": 4, "limit": 2,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "h": 128, "i": 128, "shared": 128, "e": 4, "k": 2, "groups": 4, "limit": 2,
}  # fmt: skip
TINY = SMALL | {"e": 2, "k": 1, "groups": 2}
NAMES = [name.removeprefix("grad_") for name in OUTPUTS]


@pytest.mark.parametrize("cache", [False, True])
def test_the_reference_is_a_loop_over_tokens(cache: bool) -> None:
    """Four roundings to bf16 differ at most, of 2^-9 each, and seldom a payload after one of these."""
    arguments = MoeLayer(t=24, cache=cache, **GEOMETRY).inputs("cpu") | {"route_scale": 1.3}
    with partials("exact"):
        got = reference.moe_layer(**arguments)
    want = _moe.layer(*_moe.wide(arguments), cache=cache)
    assert _moe.error(got, want.detach()) < 2.0**-8


def test_the_backward_is_that_of_autograd() -> None:
    """As above; two roundings of grad_x to bf16 are not in the loop.  Operands tiled again along tokens
    keep all but what lies below 2^-9 of the new scale (docs/decisions/0006)."""
    arguments = MoeLayerBackward(t=24, **GEOMETRY).inputs("cpu") | {"route_scale": 1.3}
    grad = arguments["grad"]
    with partials("exact"):
        got = reference_backward(**arguments)
    wide, weights = _moe.wide(arguments)
    _moe.layer(wide, weights, cache=True).backward(grad.double())
    leaves = {"x": wide["x"], "logits": wide["logits"], **weights}
    for name, found in zip(NAMES, got, strict=True):
        assert found is not None
        want = leaves[name].grad
        assert _moe.error(found, want) < 2.0**-8, name


def test_a_token_alone_has_the_same_bits(device: str) -> None:
    arguments = MoeLayer(t=18, cache=True, **SMALL).inputs(device)
    whole = kernels.moe_layer(**arguments)
    for rows in (slice(3, 4), slice(16, 18)):
        part = {name: arguments[name][rows] for name in ("x", "logits")}
        assert_equal(kernels.moe_layer(**arguments | part), whole[rows], Exact())


def test_decode_is_the_layer_in_another_buffer(device: str) -> None:
    arguments = MoeLayerDecode(t=18, **SMALL).inputs(device) | {"route_scale": 1.3}
    got = moe_layer_decode(**arguments)
    arguments.pop("capacity")
    assert_equal(got, kernels.moe_layer(**arguments), Exact())
    alone = {name: arguments[name][5:6] for name in ("x", "logits")}
    assert_equal(moe_layer_decode(**arguments | alone), got[5:6], Exact())


def test_decode_of_the_reference() -> None:
    arguments = MoeLayerDecode(t=18, **SMALL).inputs("cpu") | {"route_scale": 1.3}
    got = reference_decode(**arguments)
    arguments.pop("capacity")
    assert_equal(got, reference.moe_layer(**arguments), Exact())


def test_a_full_expert_takes_no_more(device: str) -> None:
    """Tokens past its capacity have what the shared expert gives; the others what they had."""
    case = MoeLayerDecode(t=6, bias="one", capacity=4, **SMALL | {"k": 1, "limit": 4})
    arguments = case.inputs(device)
    got, whole = (reference_decode(**arguments | {"capacity": c}) for c in (4, None))
    assert_equal(moe_layer_decode(**arguments), got, Exact())
    assert_equal(got[:4], whole[:4], Exact())
    nothing = torch.zeros_like(arguments["down_scale"])
    shared = reference_decode(**arguments | {"down_scale": nothing, "capacity": None})
    assert_equal(got[4:], shared[4:], Exact())
    assert not torch.equal(got[4:], whole[4:])


def test_what_is_not_finite_stays_with_its_token() -> None:
    """NaN or Inf in x of a token, and logits that are NaN, spoil no other one, forward and backward."""
    arguments = MoeLayerBackward(t=9, **SMALL).inputs("cpu")
    grad = arguments.pop("grad")
    spoiled = arguments | {name: arguments[name].clone() for name in ("x", "logits")}
    spoiled["x"][4, 5], spoiled["x"][6, 70], spoiled["logits"][2] = (
        float("nan"), float("inf"), float("nan"),
    )  # fmt: skip
    others = [0, 1, 3, 5, 7, 8]
    clean, dirty = (reference.moe_layer(**one) for one in (arguments, spoiled))
    assert_equal(dirty[others], clean[others], Exact())
    assert not dirty[[2, 4, 6]].isfinite().all(dim=1).any()
    pair = [reference_backward(grad, **one)[:2] for one in (spoiled, arguments)]
    for found, want in zip(*pair, strict=True):
        assert_equal(found[others], want[others], Exact())


def test_the_backward_takes_what_is_kept_and_adds_to_sums(device: str) -> None:
    """Payloads transposed by the caller; sums of micro-batches, which go on from what they hold."""
    arguments = MoeLayerBackward(t=18, **TINY).inputs(device) | {"route_scale": 1.3}
    backward: Any = moe_layer_backward
    names = ("gate_up", "down", "shared_gate_up", "shared_down")
    want = reference_backward(**arguments)
    weights = Weights(*(arguments[name] for name in Weights._fields))
    kept = {f"{name}_t": part for name, part in zip(names, transpose(weights), strict=True)}
    sums = {
        f"{name}_sum": part.clone()
        for name, part in zip(names, want[2:], strict=True)
        if part is not None
    }
    twice = reference_backward(**arguments | {n: part.clone() for n, part in sums.items()})
    got = backward(**arguments, **kept, **sums)
    assert_equal(got, twice, Exact(), names=OUTPUTS)
    assert all(one is two for one, two in zip(got[2:], sums.values(), strict=True))
    once: Any = reference_backward(**arguments)
    assert not torch.equal(got[3], once[3])
    few = backward(**arguments, **kept, weight_gradients=False)
    assert_equal(few, (*want[:2], None, None, None, None), Exact(), names=OUTPUTS)


def test_transposed_scales_of_square_weights(device: str) -> None:
    """Of H = I = Is: no shape tells a scale from its transposed one."""
    square: dict[str, Any] = {"h": 256, "i": 256, "shared": 256, "e": 1, "k": 1, "groups": 1}
    arguments = MoeLayerBackward(t=2, **square, limit=1).inputs(device)
    arguments["weight_gradients"] = False
    got = moe_layer_backward(**arguments)
    assert_equal(got, reference_backward(**arguments), Exact(), names=OUTPUTS)


def test_experts_without_tokens_have_the_gradient_zero() -> None:
    arguments = MoeLayerBackward(t=5, bias="one", **SMALL | {"k": 1}).inputs("cpu")
    got = reference_backward(**arguments)
    for part in got[2:4]:
        assert part is not None
        assert [bool(one.any()) for one in part] == [False, True, False, False]
        assert part.isfinite().all()


PACKAGES = [pytest.param(0, id="reference"), pytest.param(1, id="kernels")]


def small_layers(device: str) -> list[Any]:
    """The layer of either package, with the same parameters, large enough to matter."""
    layers: list[Any] = []
    for module in (reference, kernels):
        torch.manual_seed(5)
        made = module.MoELayer(128, 128, 4, topk=2, num_groups=4, num_limited_groups=2).to(device)
        with torch.no_grad():
            for part in made.parameters():
                part.mul_(10)
        layers.append(made)
    return layers


def step(layer: Any, x: torch.Tensor, target: torch.Tensor, rate: float) -> float:
    """One step of SGD on the mean square; the loss before it."""
    loss = (layer(x).float() - target).square().mean()
    layer.zero_grad()
    loss.backward()
    with torch.no_grad():
        for part in layer.parameters():
            part.sub_(part.grad, alpha=rate)
    layer.update_bias()
    return float(loss.item())


def drawn(tokens: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x, target = (torch.randn(tokens, 128, generator=generator) for _ in range(2))
    return x.bfloat16().to(device), target.to(device)


@pytest.mark.long
def test_both_train_alike(device: str) -> None:
    """Losses, parameters, gradients of x and the bias after each step, in every bit."""
    one, other = small_layers(device)
    x, target = drawn(17, device)
    for first in (True, False):
        # A model's first layer has an x that wants no gradient.
        inputs = [x.clone().requires_grad_(first) for _ in range(2)]
        assert step(one, inputs[0], target, 3.0) == step(other, inputs[1], target, 3.0)
        if first:
            assert_equal(inputs[1].grad, inputs[0].grad, Exact())
        for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
            assert mine.grad.dtype == torch.float32
            assert_equal(theirs.detach(), mine.detach(), Exact(), names=[name])
        assert one.bias.abs().max() > 0
        assert_equal(other.bias, one.bias, Exact())
    assert one.counts.sum() == other.counts.sum() == 0


def test_it_learns() -> None:
    layer = small_layers("cpu")[0]
    x, target = drawn(12, "cpu")
    losses = [step(layer, x, target, 2.0) for _ in range(5)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.long
@pytest.mark.parametrize("which", PACKAGES)
def test_weights_are_quantised_again_after_a_step_and_not_before(which: int, device: str) -> None:
    layer = small_layers(device)[which]
    x, target = drawn(4, device)
    before = layer.quantised()
    assert layer.quantised()[0] is before[0]
    step(layer, x, target, 1.0)
    after = layer.quantised()
    assert after[0] is not before[0]
    assert not torch.equal(after[0].down.view(torch.uint8), before[0].down.view(torch.uint8))
    assert torch.equal(after[1].down.view(torch.uint8), after[0].down.view(torch.uint8).mT)
    layer.down.data = layer.down.data * 2
    assert torch.equal(layer.quantised()[0].down_scale, after[0].down_scale * 2)
    layer.down.data.mul_(2)  # leaves no trace
    layer.forget()
    assert torch.equal(layer.quantised()[0].down_scale, after[0].down_scale * 4)


@pytest.mark.parametrize("which", PACKAGES)
def test_nothing_is_kept_in_bf16(which: int, device: str) -> None:
    layer = small_layers(device)[which]
    x, _ = drawn(4, device)
    for training in (True, False):
        out = layer.train(training)(x)
        # Behind the view as [..., H].
        held = [
            part
            for part in out.grad_fn.next_functions[0][0].saved_tensors
            if part.dtype == torch.bfloat16
        ]
        assert not held
    assert layer.counts.sum() == 4 * 2  # in training only
    with torch.no_grad():
        layer.forget()
        assert layer(x).grad_fn is None
        assert layer.quantised(transposed=False)[1] is None  # inference needs none


@pytest.mark.parametrize("which", PACKAGES)
def test_training_reads_the_cache_and_inference_does_not(which: int, device: str) -> None:
    layer = small_layers(device)[which]
    x, _ = drawn(4, device)
    w, _ = layer.quantised()
    forward: Any = reference.moe_layer
    logits = x.float() @ layer.router.T
    found = {}
    for training in (True, False):
        out = layer.train(training)(x)
        found[training] = out
        want = forward(x, logits, layer.bias, *w, 2, 4, 2, 2.5, from_cache=training)
        assert_equal(out.detach(), want.detach(), Exact())
    assert not torch.equal(found[True], found[False])


def test_decode_replays_for_any_routing_and_beside_other_work(device: str) -> None:
    """One graph, other tokens: what the branch of the shared expert holds is nobody else's meanwhile."""
    if device != "cuda":
        pytest.skip("a CUDA graph needs a GPU")
    case = MoeLayerDecode(t=24, h=512, i=256, shared=1024, e=16, k=4, groups=4, limit=2)
    held = case.inputs(device)
    moe_layer_decode(**held)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = moe_layer_decode(**held)
    generator = torch.Generator(device).manual_seed(8)
    for _ in range(20):
        held["logits"].copy_(torch.randn(held["logits"].shape, device=device, generator=generator))
        held["x"].copy_(torch.randn(held["x"].shape, device=device, generator=generator))
        graph.replay()
        # Without a graph, with memory that is asked for and filled all the while.
        eager = moe_layer_decode(**held)
        for _ in range(8):
            torch.full((1 << 16,), float("nan"), device=device)
        assert_equal(out, eager, Exact())
        assert_equal(eager, reference_decode(**held), Exact())


def test_decode_waits_for_the_shared_expert(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late its branch is."""
    if device != "cuda":
        pytest.skip("a CPU has no streams")

    def late(*operands: Any) -> torch.Tensor:
        torch.cuda._sleep(20_000_000)  # of the clock's cycles, about 10 ms
        return fp8_gemm(*operands)

    held = MoeLayerDecode(t=24, h=512, i=256, shared=1024, e=16, k=4, groups=4, limit=2).inputs(
        device
    )
    # Of other tokens: what their call leaves in the memory that is handed out again is no answer.
    moe_layer_decode(**held | {"x": held["x"].flip(0)})
    monkeypatch.setattr("kernels._moe.fp8_gemm", late)
    assert_equal(moe_layer_decode(**held), reference_decode(**held), Exact())

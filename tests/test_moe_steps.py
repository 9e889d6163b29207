"""A step of training in pieces: a second backward, micro-batches, a checkpoint, and CUDA graphs."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from benchmarks import cases
from benchmarks.cases.moe_layer import MoeLayer
from benchmarks.cases.moe_layer_backward import MoeLayerBackward
from benchmarks.compare import Exact, assert_equal
from kernels import moe_layer as kernels
from reference_impl import moe_layer as reference
from reference_impl.bias_update import bias_update

pytestmark = pytest.mark.usefixtures("products")
EITHER = pytest.mark.parametrize(
    "module",
    [
        pytest.param(reference, id="reference"),
        # Four steps, of which the interpreter takes seconds for each.
        pytest.param(kernels, id="kernels", marks=pytest.mark.long),
    ],
)
SHORT = pytest.mark.parametrize(
    "module", [pytest.param(reference, id="reference"), pytest.param(kernels, id="kernels")]
)
WEIGHTS = ("router", "gate_up", "down", "shared_gate_up", "shared_down")


def made(module: Any, device: str, seed: int = 3) -> Any:
    torch.manual_seed(seed)
    layer = module.MoELayer(128, 128, 3, topk=2, num_groups=1, num_limited_groups=1).to(device)
    with torch.no_grad():
        for part in layer.parameters():
            part.mul_(8)
    return layer


def batch(tokens: int, seed: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """x, which wants a gradient, and the gradient of the layer's result."""
    generator = torch.Generator().manual_seed(seed)
    x, grad = (torch.randn(tokens, 128, generator=generator).bfloat16() for _ in range(2))
    return x.to(device).requires_grad_(), grad.to(device)


def taken(layer: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients that there are, which are cleared."""
    parts = {name: getattr(layer, name) for name in WEIGHTS} | {"x": x}
    found = {name: part.grad for name, part in parts.items()}
    for part in parts.values():
        part.grad = None
    return found


@EITHER
def test_a_second_backward_has_the_same_bits(module: Any, device: str) -> None:
    layer = made(module, device)
    x, grad = batch(4, 1, device)
    out = layer(x)
    out.backward(grad, retain_graph=True)
    first = taken(layer, x)
    out.backward(grad)
    second = taken(layer, x)
    for name, part in first.items():
        assert part.any(), name
        assert_equal(second[name], part, Exact(), names=[name])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        out.backward(grad)


@EITHER
def test_micro_batches_add_up(module: Any, device: str) -> None:
    """``.grad`` is the sum of what each has alone; the bias moves by the load of both."""
    layer = made(module, device)
    batches = [batch(tokens, seed, device) for tokens, seed in ((5, 1), (3, 6))]
    layer(batches[0][0]).backward(batches[0][1])
    first = layer.counts.clone()
    alone = {name: getattr(layer, name).grad.clone() for name in WEIGHTS}
    layer(batches[1][0]).backward(batches[1][1])
    total = layer.counts.clone()
    sums = taken(layer, batches[1][0])
    layer(batches[1][0]).backward(batches[1][1])
    second = taken(layer, batches[1][0])
    for name in WEIGHTS:
        assert_equal(sums[name], alone[name] + second[name], Exact(), names=[name])
    assert (int(first.sum()), int(total.sum())) == (5 * 2, 8 * 2)
    assert_equal(layer.counts - total, total - first, Exact())  # the third call is the second
    layer.counts.copy_(total)
    layer.update_bias()
    none = torch.zeros(3)
    want, *others = (bias_update(none, load.cpu()) for load in (total, first, total - first))
    assert_equal(layer.bias.cpu(), want, Exact())
    assert not any(torch.equal(want, other) for other in others)
    assert not layer.counts.any()


@SHORT
def test_a_checkpoint_is_fp32_and_makes_the_same_payloads(module: Any, device: str) -> None:
    """What is quantised is none of the state: it is made again from what was loaded."""
    layer = made(reference, "cpu")
    layer.bias += torch.tensor([0.25, -1.0, 1e-3])
    layer.counts += 7
    state = layer.state_dict()
    assert set(state) == {*WEIGHTS, "bias"}
    assert {part.dtype for part in state.values()} == {torch.float32}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = made(module, device, seed=4)
    before = other.quantised()[0]
    other.load_state_dict(torch.load(file, weights_only=True))
    for name, part in other.state_dict().items():
        assert_equal(part.cpu(), state[name], Exact(), names=[name])
    after, turned = other.quantised()
    want, turned_too = layer.quantised()
    assert not torch.equal(after.gate_up.view(torch.uint8), before.gate_up.view(torch.uint8))
    for one, right in zip((*after, *turned), (*want, *turned_too), strict=True):
        assert one.dtype in (torch.float8_e4m3fn, torch.float32)
        assert_equal(one.cpu().contiguous(), right.contiguous(), Exact())
    assert not other.counts.any()
    # Parameters stay fp32 where another dtype is loaded.
    other.load_state_dict({name: part.bfloat16() for name, part in state.items()})
    for name, part in other.state_dict().items():
        assert_equal(part.cpu(), state[name].bfloat16().float(), Exact(), names=[name])


@SHORT
@pytest.mark.parametrize("name", [*WEIGHTS, "bias"])
def test_state_of_another_dtype_is_refused(module: Any, name: str, device: str) -> None:
    layer = made(module, device)
    x, _ = batch(2, 1, device)
    getattr(layer, name).data = getattr(layer, name).data.bfloat16()
    with pytest.raises(TypeError, match=f"^{name}: expected dtype float32, got bfloat16$"):
        layer(x)
    with pytest.raises(TypeError, match=r"^router: expected dtype float32, got float16$"):
        layer.half()(x)


LARGER: dict[str, Any] = {
    "t": 24, "h": 512, "i": 256, "shared": 384, "e": 16, "k": 4, "groups": 4, "limit": 2,
}  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("stem", "case"),
    [
        ("moe_layer", MoeLayer(**LARGER)),
        ("moe_layer", MoeLayer(cache=True, **LARGER)),
        ("moe_layer_backward", MoeLayerBackward(**LARGER)),
    ],
)
def test_the_layer_replays_for_any_routing(stem: str, case: Any, device: str) -> None:
    """One graph, other tokens and other experts, some of which are left without any."""
    function, names = cases.public("kernels", stem), cases.load(stem).OUTPUTS
    held = case.inputs(device)
    function(**held)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = function(**held)
    generator = torch.Generator(device).manual_seed(9)
    for step in range(6):
        for name in ("x", "logits", "grad"):
            if name in held:
                drawn = torch.randn(held[name].shape, device=device, generator=generator)
                held[name].copy_(drawn)
        if step == 4:
            held["logits"].copy_(
                held["logits"][:1].expand_as(held["logits"])
            )  # four experts for all
        graph.replay()
        eager = function(**held)
        for _ in range(8):
            torch.full((1 << 16,), float("nan"), device=device)
        assert_equal(captured, eager, Exact(), names=names)
        if step >= 4:
            right = cases.public("reference_impl", stem)(**held)
            assert_equal(captured, right, Exact(), names=names)

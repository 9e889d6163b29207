"""What the mixture of experts layer asks of operands, what it leaves alone, and how it is sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases, parity
from benchmarks.cases.moe_layer import MoeLayer
from benchmarks.cases.moe_layer_backward import MoeLayerBackward
from benchmarks.compare import Exact, assert_equal
from kernels._device import recording
from kernels.act_quant import act_quant
from kernels.swiglu_quant import swiglu_quant
from tests._guards import PATTERN, guarded
from tests.test_inputs import refuse

if TYPE_CHECKING:
    from benchmarks.cases._moe import Layer

pytestmark = pytest.mark.usefixtures("products")
SMALL: dict[str, Any] = {
    "h": 128, "i": 128, "shared": 128, "e": 4, "k": 2, "groups": 4, "limit": 2,
}  # fmt: skip
TINY = SMALL | {"e": 2, "k": 1, "groups": 2}


def test_swiglu_in_a_masked_buffer_touches_no_padding(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts above the capacity and below 0 among them; a capacity that is no multiple of anything."""
    counts = torch.tensor([3, 0, 50, -2, 21, 20], dtype=torch.int32, device=device)
    drawn = torch.randn(6 * 21, 512, generator=torch.Generator().manual_seed(3))
    gate_up = drawn.bfloat16().to(device)
    want = swiglu_quant(gate_up)
    with guarded(monkeypatch):
        got = swiglu_quant(gate_up, counts=counts, capacity=21)
    taken = torch.arange(21, device=device) < counts[:, None]
    taken = taken.flatten()
    for part, whole in zip(got, want, strict=True):
        bits, right = (one.contiguous().view(torch.uint8) for one in (part, whole))
        assert_equal(bits[taken], right[taken], Exact())
        assert (bits[~taken] == PATTERN).all()


def test_a_plan_of_segments_is_none_of_a_masked_buffer() -> None:
    """The operands have one layout: the capacity alone tells."""
    gate_up = torch.empty(256, 256, dtype=torch.bfloat16, device="meta")
    counts = torch.empty(2, dtype=torch.int32, device="meta")
    with recording() as launches:
        for capacity in (128, None, 128):
            swiglu_quant(gate_up, counts=counts, capacity=capacity)
    assert [launch.options["MASKED"] for launch in launches] == [True, False, True]


@pytest.mark.parametrize(("changed", "error", "said"), [
    ({"counts": None}, TypeError, r"counts: expected a torch\.Tensor, got NoneType"),
    ({"capacity": 0}, ValueError, "capacity: expected 1 to .*, got 0"),
    ({"capacity": True}, TypeError, "capacity: expected a whole number, got bool"),
    ({"capacity": 3}, ValueError, r"gate_up: expected R to be E \* capacity, 6, got 8"),
])  # fmt: skip
def test_swiglu_refuses_other_buffers(
    changed: dict[str, Any], error: type[Exception], said: str, device: str
) -> None:
    counts = torch.ones(2, dtype=torch.int32, device=device)
    gate_up = torch.ones(8, 256, dtype=torch.bfloat16, device=device)
    refuse(
        "swiglu_quant", {"gate_up": gate_up, "counts": counts, "capacity": 4} | changed, error, said
    )


@pytest.mark.parametrize(("stem", "case"), [
    ("moe_layer", MoeLayer(t=70, **TINY)), ("moe_layer_backward", MoeLayerBackward(t=70, **TINY)),
])  # fmt: skip
def test_samples_and_parts(stem: str, case: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample has a token of every 64; parts are all tokens; a wrong token of the sample is found."""
    module, arguments = cases.load(stem), case.inputs("cpu")
    function = cases.public("reference_impl", stem)
    got = function(**arguments)
    for _, part, take in [module.sample(arguments), *module.parts(arguments, 1)]:
        assert_equal(function(**part), take(got), Exact(), names=module.OUTPUTS)
    places = torch.arange(70)[:, None].expand(70, 128)
    mark = (places, places, *got[2:]) if isinstance(got, tuple) else places

    def tokens(take: Any) -> list[int]:
        part = take(mark)
        return list((part[0] if isinstance(part, tuple) else part)[:, 0].tolist())

    seen = [tokens(take) for _, _, take in module.parts(arguments, 1)]
    assert seen == [[*range(64)], [*range(64, 70)]]
    sampled = tokens(module.sample(arguments).take)
    assert {token // 64 for token in sampled} == {0, 1}
    monkeypatch.setattr(parity, "LARGE", 0)
    assert parity.sampled(stem, case)
    assert parity.check(stem, case, arguments, got).ok
    wrong = got[0] if isinstance(got, tuple) else got
    wrong[sampled[1], 3] += 1
    assert parity.check(stem, case, arguments, got).differing == 1


def test_act_quant_touches_no_padding(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = torch.tensor([3, 0, 130, 200], dtype=torch.int32, device=device)
    x = torch.randn(520, 256, generator=torch.Generator().manual_seed(2)).bfloat16().to(device)
    want = act_quant(x, True)
    with guarded(monkeypatch):
        q, scale = act_quant(x, True, counts=counts)
    # The last segment ends behind the buffer.
    rows = torch.tensor([*range(3), *range(128, 258), *range(384, 520)], device=device)
    padding = torch.ones(520, dtype=torch.bool, device=device)
    padding[rows] = False
    bits = q.view(torch.uint8)
    assert_equal(bits[rows], want[0].view(torch.uint8)[rows], Exact())
    assert_equal(scale[rows], want[1][rows], Exact())
    assert (bits[padding] == PATTERN).all()
    assert (scale.contiguous()[padding].view(torch.uint8) == PATTERN).all()


ARGUMENTS = MoeLayer(t=2, **SMALL)
REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("x", torch.ones(2, 192, dtype=torch.bfloat16), ValueError,
     "x: expected H to be a multiple of 128, got 192"),
    ("logits", torch.ones(3, 4), ValueError, r"logits: expected shape \[2, any\], got \[3, 4\]"),
    ("bias", torch.ones(5), ValueError, r"bias: expected shape \[4\], got \[5\]"),
    ("down", torch.ones(4, 128, 256).to(torch.float8_e4m3fn), ValueError,
     r"down: expected shape \[4, 128, 128\], got \[4, 128, 256\]"),
    ("shared_gate_up", torch.ones(128, 128).to(torch.float8_e4m3fn), ValueError,
     "shared_gate_up: expected 2I to be a multiple of 256, got 128"),
    ("gate_up_scale", torch.ones(4, 1, 1), ValueError,
     r"gate_up_scale: expected shape \[4, 2, 1\], got \[4, 1, 1\]"),
    ("topk", 5, ValueError, "topk: expected 1 to 2, got 5"),
    ("topk", 2.0, TypeError, "topk: expected a whole number, got float"),
    ("num_groups", 3, ValueError, "num_groups: expected E to be a multiple of 3, got 4"),
    ("from_cache", 1, TypeError, "from_cache: expected True or False, got int"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "error", "said"), REFUSED)
def test_refused(name: str, value: Any, error: type[Exception], said: str, device: str) -> None:
    arguments = ARGUMENTS.inputs(device)
    arguments[name] = value.to(device) if isinstance(value, torch.Tensor) else value
    refuse("moe_layer", arguments, error, said)


@pytest.mark.parametrize(("name", "shape", "dtype", "said"), [
    ("grad", (2, 256), torch.bfloat16, r"grad: expected shape \[2, 128\], got \[2, 256\]"),
    ("down_t", (4, 256, 128), torch.uint8, "down_t: expected dtype float8_e4m3fn, got uint8"),
    ("gate_up_t", (4, 256, 128), torch.float8_e4m3fn,
     r"gate_up_t: expected shape \[4, 128, 256\], got \[4, 256, 128\]"),
    ("down_sum", (128, 128), torch.float32,
     r"down_sum: expected shape \[4, 128, 128\], got \[128, 128\]"),
])  # fmt: skip
def test_refused_by_the_backward(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, said: str, device: str
) -> None:
    arguments = MoeLayerBackward(t=2, **SMALL).inputs(device)
    arguments[name] = torch.zeros(shape, device=device).to(dtype)
    error = TypeError if "dtype" in said else ValueError
    refuse("moe_layer_backward", arguments, error, said)

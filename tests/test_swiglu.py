"""swiglu_quant and its backward: the definitions on fractions and against autograd, and what holds
beyond parity."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.cases._expert_rows import at, dequantised, taken_rows
from benchmarks.cases.swiglu_quant import SwigluQuant
from benchmarks.cases.swiglu_quant_backward import SwigluQuantBackward
from benchmarks.compare import Exact, assert_equal
from kernels.act_quant import act_quant
from kernels.swiglu_quant import swiglu_quant
from kernels.swiglu_quant_backward import swiglu_quant_backward
from reference_impl import swiglu_quant as reference
from reference_impl import swiglu_quant_backward as reference_backward
from reference_impl._fp32 import sigmoid
from tests._operands import on
from tests.test_reference import fused, nearest, payload_of, scale_of

if TYPE_CHECKING:
    pass

BF16, FP32, E4M3 = torch.bfloat16, torch.float32, torch.float8_e4m3fn
INF, NAN = float("inf"), float("nan")


def product(a: float, b: float) -> float:
    return nearest(Fraction(a) * Fraction(b), FP32)


def logistic(gate: float) -> float:
    """Stated and tested on fractions elsewhere (tests/test_fp32.py)."""
    return sigmoid(torch.tensor(gate)).item()


def quantised(values: list[float], pow2: bool) -> tuple[list[float], list[float]]:
    """(payloads, scales) of a row, a tile at a time."""
    q: list[float] = []
    scales = []
    for start in range(0, len(values), 128):
        tile = values[start : start + 128]
        scales.append(scale_of(tile, pow2, None))
        q += [payload_of(x, scales[-1]) for x in tile]
    return q, scales


def gates(arguments: dict[str, Any], row: int, name: str) -> tuple[list[float], list[float]]:
    """gate and up of a row as fp32 numbers."""
    x, scale = arguments[name][row].float().tolist(), arguments["gate_up_scale"]
    if scale is not None:
        x = [product(value, scale[row, place // 128].item()) for place, value in enumerate(x)]
    return x[: len(x) // 2], x[len(x) // 2 :]


@pytest.mark.parametrize("pow2", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("x", "data"), [("bf16", "normal"), ("bf16", "wide"), ("e4m3", "normal")])
def test_the_definition(x: str, data: str, weighted: bool, pow2: bool) -> None:
    """A channel at a time, with a rounding after each operation."""
    case = SwigluQuant(t=2, c=256, x=x, weights=weighted, pow2=pow2, data=data)
    arguments = case.inputs("cpu")
    if x == "e4m3":  # a power of two in the cases
        arguments["gate_up_scale"] = arguments["gate_up_scale"] * (4 / 3)
    q, scale = reference.swiglu_quant(**arguments)
    for row in range(2):
        h = []
        for gate, up in zip(*gates(arguments, row, "gate_up"), strict=True):
            h.append(product(product(gate, logistic(gate)), up))
            if weighted:
                h[-1] = product(h[-1], arguments["row_weight"][row].item())
        want_q, want_scale = quantised(h, pow2)
        assert q[row].float().tolist() == want_q
        assert scale[row].tolist() == want_scale


@pytest.mark.parametrize("weighted", [False, True])
def test_the_definition_of_the_backward(weighted: bool) -> None:
    arguments = SwigluQuantBackward(t=2, c=256, weights=weighted).inputs("cpu")
    q, scale, grad_weight = reference_backward.swiglu_quant_backward(**arguments)
    for row in range(2):
        grads = arguments["grad_h"][row].float().tolist()
        weight = arguments["row_weight"][row].item() if weighted else 1.0
        gate_grads, up_grads, lanes = [], [], [0.0] * 128
        for place, (gate, up) in enumerate(zip(*gates(arguments, row, "gate_up_q"), strict=True)):
            p = logistic(gate)
            s, d = product(gate, p), product(grads[place], weight)
            slope = fused(s, nearest(1 - Fraction(p), FP32), p)
            gate_grads.append(product(product(d, up), slope))
            up_grads.append(product(d, s))
            lanes[place % 128] = fused(grads[place], product(s, up), lanes[place % 128])
        want_q, want_scale = quantised(gate_grads + up_grads, False)
        assert q[row].float().tolist() == want_q
        assert scale[row].tolist() == want_scale
        while len(lanes) > 1:
            pairs = zip(lanes[0::2], lanes[1::2], strict=True)
            lanes = [nearest(Fraction(a) + Fraction(b), FP32) for a, b in pairs]
        if grad_weight is not None:
            assert grad_weight[row].item() == lanes[0]
        assert (grad_weight is None) != weighted


def test_scales_need_not_be_powers_of_two(device: str) -> None:
    """As those of the cases are, with which a product in bf16 would be exact."""
    problems = (
        (swiglu_quant, reference.swiglu_quant, SwigluQuant(t=3, c=256, x="e4m3"), 2),
        (
            swiglu_quant_backward, reference_backward.swiglu_quant_backward,
            SwigluQuantBackward(t=3, c=256), 3,
        ),
    )  # fmt: skip
    for kernel, definition, case, results in problems:
        arguments = case.inputs(device)
        arguments["gate_up_scale"] = arguments["gate_up_scale"] * (4 / 3)
        got, want = kernel(**arguments), definition(**arguments)
        names = ("q", "scale", "grad_row_weight")[:results]
        assert_equal(got, want, Exact(), names=names)


def test_the_formula_of_the_gradient() -> None:
    """gradcheck of the formula that the backward states, in float64."""

    class Formula(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, g: Any, u: Any, w: Any) -> torch.Tensor:
            ctx.save_for_backward(g, u, w)
            h: torch.Tensor = w[:, None] * (g * g.sigmoid() * u)
            return h

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            (grad,) = grads
            g, u, w = ctx.saved_tensors
            p = g.sigmoid()
            s, d = g * p, grad * w[:, None]
            return (d * u) * (s * (1 - p) + p), d * s, (grad * (s * u)).sum(dim=1)

    generator = torch.Generator().manual_seed(3)
    g, u, w = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((3, 9), (3, 9), (3,))
    )
    assert torch.autograd.gradcheck(Formula.apply, (g, u, w))
    extremes = torch.tensor([[-800.0, -40.0, -1.28, 0.0, 1.0, 40.0, 800.0]], dtype=torch.float64)
    one = torch.ones_like(extremes)
    mine = [extremes.clone().requires_grad_(), one.clone().requires_grad_(), torch.ones(1).double()]
    theirs = [part.detach().clone().requires_grad_() for part in mine[:2]]
    got = torch.autograd.grad(Formula.apply(*mine).sum(), mine[:2])  # type: ignore[no-untyped-call]
    want = torch.autograd.grad((torch.nn.functional.silu(theirs[0]) * theirs[1]).sum(), theirs)
    for one_, other in zip(got, want, strict=True):
        assert torch.allclose(one_, other, rtol=1e-12, atol=1e-300)


def test_the_gradients(device: str) -> None:
    """Against autograd in float64: half a step of e4m3 in each, and of the weight's the sum's error.

    u = 2^-24.  A gradient errs by its payload's rounding, 2^-4 of itself or 2^-10 of its scale, and
    before that by fp32's.  p errs by 3 units of 2^-23, s by one u more, s (1 - p) + p by at most 16 u
    of |s| + p, and the products add 3 u: below 24 u (|s| + p) |d u|.  The terms of the weight's sum err by
    8 u, and go through at most c / 128 + 7 additions.
    """
    case = SwigluQuantBackward(t=40, c=512, e=4, k=2, weights=True, pow2=True)
    arguments = case.inputs("cpu")
    taken = taken_rows(arguments["counts"], case.rows, "cpu")
    wide = dequantised(arguments["gate_up_q"], arguments["gate_up_scale"], taken)
    wide.requires_grad_()
    gate, up = wide.chunk(2, dim=1)
    weight = arguments["row_weight"][taken].double().requires_grad_()
    h = torch.nn.functional.silu(gate) * up * weight[:, None]
    grad = arguments["grad_h"][taken].double()
    want, want_weight = torch.autograd.grad(h, (wide, weight), grad)
    q, scale, got_weight = (
        part.cpu() for part in swiglu_quant_backward(**on(device, arguments)) if part is not None
    )
    got = dequantised(q, scale, taken)
    steps = scale[taken].double().repeat_interleave(128, dim=1) * 2.0**-10
    s, p, d = (
        part.detach() for part in (gate * gate.sigmoid(), gate.sigmoid(), grad * weight[:, None])
    )
    slack = (
        24 * 2.0**-24 * torch.cat([(d * up.detach()).abs() * (s.abs() + p), (d * s).abs()], dim=1)
    )
    assert ((got - want).abs() <= torch.maximum(want.abs() * 2.0**-4, steps) + 1.07 * slack).all()
    size = (grad * s * up.detach()).abs().sum(dim=1)
    roundings = (8 + 512 / 128 + 7) * 2.0**-24
    error = (got_weight[taken].double() - want_weight).abs()
    assert (error <= size * roundings / (1 - roundings)).all()
    assert error.any()


@pytest.mark.parametrize("pow2", [False, True])
def test_the_recompute_is_the_forward(pow2: bool, device: str) -> None:
    """From the FP8 cache: as from the numbers that it stands for, where bf16 has them; and with the bits
    of h that the gradient of the weight is made of."""
    case = SwigluQuant(t=7, c=256, e=4, k=2, weights=True)
    arguments = case.inputs(device)
    counts, weight = arguments["counts"], arguments["row_weight"]
    taken = taken_rows(counts, case.rows, device)
    cache, cache_scale = act_quant(arguments["gate_up"], pow2_scale=True)
    first = swiglu_quant(cache, cache_scale, counts, weight, pow2)
    again = swiglu_quant(cache.clone(), cache_scale.clone(), counts, weight, pow2)
    # 4 bits times a power of two: bf16 holds it.
    same = (cache.float() * cache_scale.repeat_interleave(128, dim=1)).to(BF16)
    plain = swiglu_quant(same, None, counts, weight, pow2)
    for one, two, three in zip(first, again, plain, strict=True):
        assert_equal(at(two, taken), at(one, taken), Exact())
        assert_equal(at(three, taken), at(one, taken), Exact())
    # A gradient of 1 in one channel of h gives h there.
    grad = torch.zeros(case.rows, 256, dtype=BF16, device=device)
    grad[:, 77] = 1.0
    _, _, sums = swiglu_quant_backward(grad, cache, cache_scale, counts, weight, pow2)
    gate, up = same[taken].float()[:, [77, 77 + 256]].unbind(dim=1)
    assert sums is not None
    assert_equal(sums[taken], gate * sigmoid(gate) * up, Exact())


def test_gate_comes_first(device: str) -> None:
    """silu(-100) is next to nothing, silu(100) is 100."""
    gate_up = torch.ones(1, 256, dtype=BF16, device=device)
    gate_up[:, :128] = 100.0
    q, scale = swiglu_quant(gate_up, pow2_scale=True)
    assert (q.float() * scale == 96.0).all()  # 100 lies between 96 and 104, and 96 is even
    gate_up[:, :128], gate_up[:, 128:] = 1.0, 100.0
    q, scale = swiglu_quant(gate_up, pow2_scale=True)
    assert (q.float() * scale == 72.0).all()  # 100 sigmoid(1) = 73.1

"""swiglu_quant and its backward keep to their rows, their tiles and their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.cases._expert_rows import at, taken_rows
from benchmarks.cases.swiglu_quant import SwigluQuant
from benchmarks.cases.swiglu_quant_backward import SwigluQuantBackward
from benchmarks.compare import Exact, assert_equal, compare
from kernels import swiglu_quant as forward_module
from kernels._device import recording, sm_limit
from kernels.swiglu_quant import swiglu_quant
from kernels.swiglu_quant_backward import swiglu_quant_backward
from reference_impl import swiglu_quant as reference
from reference_impl import swiglu_quant_backward as reference_backward
from tests._guards import PATTERN, guarded
from tests._operands import on
from tests.test_inputs import refuse

if TYPE_CHECKING:
    from collections.abc import Callable

BF16, E4M3 = torch.bfloat16, torch.float8_e4m3fn
INF, NAN = float("inf"), float("nan")
FORWARDS = pytest.mark.parametrize(
    "function", [swiglu_quant, reference.swiglu_quant], ids=["kernel", "reference"]
)
BACKWARDS = pytest.mark.parametrize(
    "function",
    [swiglu_quant_backward, reference_backward.swiglu_quant_backward],
    ids=["kernel", "reference"],
)

SPARED = pytest.mark.parametrize("kind", ["none", "sizes", "no_first"])


def all_pattern(result: torch.Tensor, rows: torch.Tensor) -> bool:
    return bool((at(result, rows).contiguous().view(torch.uint8) == PATTERN).all())


def left(case: Any, arguments: dict[str, Any], device: str) -> torch.Tensor:
    """Rows that are no expert's, all of NaN."""
    padding = torch.ones(case.rows, dtype=torch.bool, device=device)
    padding[taken_rows(arguments["counts"], case.rows, device)] = False
    rows: torch.Tensor = padding.nonzero()[:, 0]
    return rows


@SPARED
@FORWARDS
def test_padding_is_not_touched(
    function: Callable[..., Any], kind: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SwigluQuant(t=97, c=128, e=6, k=4, x="e4m3", weights=True, routing=kind)
    arguments = case.inputs(device)
    padding = left(case, arguments, device)
    assert at(arguments["gate_up"], padding).float().isnan().all()
    with guarded(monkeypatch):
        results = function(**arguments)
    assert all(all_pattern(part, padding) for part in results)
    taken = taken_rows(arguments["counts"], case.rows, device)
    assert all(at(part, taken).float().isfinite().all() for part in results)


@SPARED
@BACKWARDS
def test_padding_is_not_touched_by_the_backward(
    function: Callable[..., Any], kind: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SwigluQuantBackward(t=97, c=128, e=6, k=4, weights=True, routing=kind)
    arguments = case.inputs(device)
    padding = left(case, arguments, device)
    with guarded(monkeypatch):
        results = function(**arguments)
    assert all(all_pattern(part, padding) for part in results)
    taken = taken_rows(arguments["counts"], case.rows, device)
    assert all(at(part, taken).float().isfinite().all() for part in results)


@pytest.mark.parametrize("which", ["forward", "backward"])
def test_rows_that_do_not_fit_are_not_touched(
    which: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buffer that ends inside the third expert's rows, at no multiple of anything."""
    counts = torch.tensor([3, 0, 200], dtype=torch.int32, device=device)
    case: Any = SwigluQuant(t=263, c=128, x="e4m3", weights=True)
    function: Any = swiglu_quant
    if which == "backward":
        case, function = SwigluQuantBackward(t=263, c=128, weights=True), swiglu_quant_backward
    arguments = case.inputs(device)
    with guarded(monkeypatch):
        results = function(**arguments | {"counts": counts})
    whole = function(**arguments)
    taken = torch.tensor([0, 1, 2, *range(128, 263)], device=device)
    for part, full in zip(results, whole, strict=True):
        assert_equal(at(part, taken), at(full, taken), Exact())
        assert all_pattern(part, torch.arange(3, 128, device=device))


@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_inf_and_nan_stay_in_their_tile(bad: float, device: str) -> None:
    arguments = SwigluQuant(t=20, c=384).inputs(device)
    clean = swiglu_quant(**arguments)
    arguments["gate_up"][3, 384 + 130] = bad
    spoiled = swiglu_quant(**arguments)
    for part, whole, width in zip(spoiled, clean, (128, 1), strict=True):
        assert not part[3, width : 2 * width].float().isfinite().all()
        part[3, width : 2 * width] = whole[3, width : 2 * width]
        assert_equal(part, whole, Exact())


def test_nan_of_the_backward_stays_in_its_tiles(device: str) -> None:
    arguments = SwigluQuantBackward(t=20, c=384, weights=True).inputs(device)
    clean = swiglu_quant_backward(**arguments)
    arguments["gate_up_q"][3, 130] = NAN
    spoiled = swiglu_quant_backward(**arguments)
    assert clean[2] is not None
    assert spoiled[2] is not None
    assert spoiled[2].isnan().nonzero().tolist() == [[3]]
    spoiled[2][3] = clean[2][3]
    assert_equal(spoiled[2], clean[2], Exact())
    for part, whole, width in zip(spoiled[:2], clean[:2], (128, 1), strict=True):
        for tile in (1, 4):  # of gate, and of up: its gradient is d silu(gate)
            place = slice(tile * width, (tile + 1) * width)
            assert part[3, place].float().isnan().all()
            part[3, place] = whole[3, place]
        assert_equal(part, whole, Exact())


def test_a_row_has_the_same_bits_in_any_batch_and_however_many_tiles_a_program_takes(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = SwigluQuant(t=33, c=1024, x="e4m3").inputs(device)
    whole = swiglu_quant(**arguments)
    gate_up, scale = arguments["gate_up"][7:12], arguments["gate_up_scale"][7:12]
    for one, many in zip(swiglu_quant(gate_up, scale), whole, strict=True):
        assert_equal(at(one, torch.arange(5)), at(many, torch.arange(7, 12)), Exact())
    for enough in (1, 8):
        monkeypatch.setattr(forward_module, "ENOUGH", enough)
        forward_module._plans.clear()
        assert_equal(swiglu_quant(**arguments), whole, Exact(), names=("h_q", "h_scale"))
    forward_module._plans.clear()


def test_results_are_the_same_however_many_programs_share_the_rows(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One program, and a few, of which each has some groups of rows and parts of others."""
    case = SwigluQuant(t=11, c=384, e=3, k=2, weights=True)
    arguments = case.inputs(device)
    taken = taken_rows(arguments["counts"], case.rows, device)
    whole = [at(part, taken) for part in swiglu_quant(**arguments)]
    monkeypatch.setattr(forward_module, "PROGRAMS", 1)
    for limit in (1, 7):
        forward_module._plans.clear()
        with sm_limit(limit):
            for part, want in zip(swiglu_quant(**arguments), whole, strict=True):
                assert_equal(at(part, taken), want, Exact())
    forward_module._plans.clear()


def test_a_masked_buffer_of_the_same_shape_has_a_plan_of_its_own() -> None:
    rows = torch.empty(2 * 128, 256, dtype=torch.bfloat16, device="meta")
    counts = torch.empty(2, dtype=torch.int32, device="meta")
    with recording() as launches:
        for capacity in (None, 128):
            swiglu_quant(rows, counts=counts, capacity=capacity)
    assert [launch.options["MASKED"] for launch in launches] == [False, True]


def test_views(device: str) -> None:
    """Rows and scales that lie apart, and start where nothing is aligned."""
    wide = torch.randn(10, 771, generator=torch.Generator().manual_seed(1)).to(device)
    scale = torch.exp2(wide[::2, 5:13:2].round())
    spread = torch.empty(8, 15, device=device)[::2, ::3].T.copy_(scale)
    gate_up, grad = wide[::2, 3:515], wide[1::2, 515:771]
    for dtype in (BF16, E4M3):
        held = wide.to(dtype)[::2, 3:515]
        scales = None if dtype == BF16 else spread
        want = swiglu_quant(held.contiguous(), None if scales is None else scale)
        assert_equal(swiglu_quant(held, scales), want, Exact(), names=("h_q", "h_scale"))
    got = swiglu_quant_backward(wide.to(BF16)[1::2, 515:771], wide.to(E4M3)[::2, 3:515], spread)
    want_ = swiglu_quant_backward(grad.to(BF16), gate_up.to(E4M3), scale)
    assert_equal(got[:2], want_[:2], Exact(), names=("q", "scale"))


def test_weights_matter(device: str) -> None:
    """Each row has its own, and the gradients of gate and up carry it."""
    arguments = SwigluQuantBackward(t=17, c=128, weights=True, pow2=True).inputs(device)
    double = arguments | {"row_weight": arguments["row_weight"] * 2}
    one, two = swiglu_quant_backward(**arguments), swiglu_quant_backward(**double)
    assert_equal(two[0], one[0], Exact())
    assert_equal(two[1].contiguous(), one[1].contiguous() * 2, Exact())
    assert one[2] is not None
    assert compare(two[2], one[2], Exact()).ok


FP8 = torch.ones(4, 512).to(E4M3)
GOOD: dict[str, Any] = {
    "gate_up": FP8, "gate_up_scale": torch.ones(4, 4), "counts": torch.ones(3, dtype=torch.int32),
    "row_weight": torch.ones(4), "pow2_scale": False,
}  # fmt: skip
BACK = {"grad_h": torch.ones(4, 256, dtype=BF16), "gate_up_q": FP8} | {
    name: value for name, value in GOOD.items() if name != "gate_up"
}
SHARED: list[tuple[str, Any, type[Exception], str]] = [
    ("gate_up_scale", torch.ones(4, 2), ValueError, r"expected shape \[4, 4\], got \[4, 2\]"),
    ("counts", torch.ones(3), TypeError, "expected dtype int32, got float32"),
    (
        "counts",
        torch.ones(6, dtype=torch.int32)[::2],
        ValueError,
        "expected a contiguous tensor, .*",
    ),
    ("counts", torch.ones(3, 1, dtype=torch.int32), ValueError, r"expected shape \[any\], got .*"),
    ("row_weight", torch.ones(4, 1), ValueError, r"expected shape \[4\], got \[4, 1\]"),
    ("row_weight", torch.ones(8)[::2], ValueError, "expected a contiguous tensor, .*"),
    ("pow2_scale", 1, TypeError, "expected True or False, got int"),
]
REFUSED = [
    *(("swiglu_quant", *row) for row in SHARED),
    *(("swiglu_quant_backward", *row) for row in SHARED),
    ("swiglu_quant", "gate_up", FP8.to(BF16), TypeError, "None for gate_up of bfloat16, got Tensor"),
    ("swiglu_quant", "gate_up_scale", None, TypeError, r"expected a torch\.Tensor, got NoneType"),
    ("swiglu_quant", "gate_up", FP8[:, :384], ValueError,
     "expected 2I to be a multiple of 256, got 384"),
    ("swiglu_quant", "gate_up", FP8[:, :0], ValueError, "2I: expected 256 to .*, got 0"),
    ("swiglu_quant", "counts", torch.ones(1025, dtype=torch.int32), ValueError,
     "E: expected 1 to 1024, got 1025"),
    ("swiglu_quant_backward", "grad_h", torch.ones(4, 128, dtype=BF16), ValueError,
     r"expected shape \[4, 256\], got \[4, 128\]"),
    ("swiglu_quant_backward", "grad_h", torch.ones(256, 4, dtype=BF16).T, ValueError,
     "expected stride 1 .*"),
    ("swiglu_quant_backward", "gate_up_q", FP8.to(BF16), TypeError,
     "expected dtype float8_e4m3fn, got bfloat16"),
]  # fmt: skip


@pytest.mark.parametrize(("stem", "name", "value", "error", "said"), REFUSED)
def test_refused(
    stem: str, name: str, value: Any, error: type[Exception], said: str, device: str
) -> None:
    good = GOOD if stem == "swiglu_quant" else BACK
    arguments = on(device, good | {name: value})
    refuse(stem, arguments, error, rf"\w+: (expected )?{said}")


def test_the_good_arguments_are_good(device: str) -> None:
    swiglu_quant(**on(device, GOOD))
    swiglu_quant_backward(**on(device, BACK))

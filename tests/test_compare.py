"""The comparator rejects every planted error, all over and in one tile only, and nothing honest.

Each error is one that a kernel of this project could make; most pass a test that a known library
uses.  The bounds are derived (tests/_planted.py), not tuned.  Exact must see all of them, and so
must the bounds, on fp32 and on bf16 results; what no bound can see is tested as such at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from benchmarks.compare import Bound, Exact, assert_equal, compare
from tests import _planted
from tests._planted import TILE, M, N, expected, gemm, operands, tolerance

DTYPES = [torch.float32, torch.bfloat16]
Planted = Callable[[torch.dtype], torch.Tensor]


def check(got: object, want: torch.Tensor, kind: str) -> bool:
    """Whether ``got`` passes as ``want``, exactly or within the derived bound."""
    if kind == "exact":
        return compare(got, want, Exact()).ok
    bound, magnitude = tolerance(want.dtype)
    return compare(got, want, bound, magnitude=magnitude).ok


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("order", ["library", "reversed", "exact"])
def test_honest_differences_pass(order: str, fused: bool, dtype: torch.dtype) -> None:
    got = gemm(operands(), order=order, fused=fused).to(dtype)
    bound, magnitude = tolerance(dtype)
    comparison = compare(got, expected(dtype), bound, magnitude=magnitude)
    assert comparison.ok, comparison.message
    if dtype == torch.float32 and (order, fused) != ("library", True):
        assert comparison.differing > 0  # or this test would say nothing


def _scaled(factor: float) -> Planted:
    return lambda dtype: (expected(torch.float32) * factor).to(dtype)  # noqa: PLW0108 (later)


def _from(**changes: object) -> Planted:
    """Another computation, of operands quantised right."""
    compute = cache(lambda: gemm(operands(), **changes))  # type: ignore[arg-type]
    return lambda dtype: compute().to(dtype)


def _quantised(**changes: bool) -> Planted:
    """Another quantisation of the same numbers."""
    compute = cache(lambda: gemm(operands(**changes)))
    return lambda dtype: compute().to(dtype)


def _truncated(dtype: torch.dtype) -> torch.Tensor:
    """The last cast truncates: fp32 to 16 bits of bf16, or to the model's 13 bits of mantissa."""
    cut = 16 if dtype == torch.bfloat16 else 10
    bits = expected(torch.float32).view(torch.int32) & (-1 << cut)
    return bits.view(torch.float32).to(dtype)


def _noise(dtype: torch.dtype) -> torch.Tensor:
    want = expected(torch.float32)
    generator = torch.Generator().manual_seed(8)
    return (torch.randn(M, N, generator=generator) * want.square().mean().sqrt()).to(dtype)


# Wrong all over; and, taken from here, in one 128x128 tile of an otherwise right result.
EVERYWHERE: dict[str, Planted] = {
    "all zeros": lambda dtype: torch.zeros(M, N, dtype=dtype),
    "0.5 % too large": _scaled(1.005),
    "2 % too large": _scaled(1.02),
    "4.4 % too large": _scaled(1.044),
    "twice as large": _scaled(2.0),
    "last channel dropped": _from(channels=_planted.K - 1),
    "promotion in bf16": _from(promote=torch.bfloat16),
    "powers of two for scales": _quantised(pow2=True),
    "one scale for the tensor": _quantised(whole=True),
    "FP8 cast truncates": _quantised(truncate=True),
    "last cast truncates": _truncated,
    "noise": _noise,
    "next row": lambda dtype: expected(dtype).roll(1, 0),
    "next column": lambda dtype: expected(dtype).roll(1, 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["exact", "bound"])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_wrong_everywhere(name: str, kind: str, dtype: torch.dtype) -> None:
    assert not check(EVERYWHERE[name](dtype), expected(dtype), kind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["exact", "bound"])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_wrong_in_one_tile(name: str, kind: str, dtype: torch.dtype) -> None:
    """One of 8 tiles: an average over the output would drown it."""
    got = expected(dtype).clone()
    got[TILE] = EVERYWHERE[name](dtype)[TILE]
    assert not check(got, expected(dtype), kind)


def _swapped_blocks(given: _planted.Operands) -> _planted.Operands:
    w_scale = given.w_scale.clone()
    w_scale[0, 0], w_scale[1, 3] = given.w_scale[1, 3], given.w_scale[0, 0]
    return replace(given, w_scale=w_scale)


def _doubled_tile(given: _planted.Operands) -> _planted.Operands:
    x_scale = given.x_scale.clone()
    x_scale[100, 2] *= 2
    return replace(given, x_scale=x_scale)


def _pow2_tile(given: _planted.Operands) -> _planted.Operands:
    """One scale rounded up to a power of two, its payload not."""
    x_scale = given.x_scale.clone()
    x_scale[5, 1] = 2.0 ** math.ceil(math.log2(float(x_scale[5, 1])))
    return replace(given, x_scale=x_scale)


def _shifted_scales(given: _planted.Operands) -> _planted.Operands:
    return replace(given, x_scale=given.x_scale.roll(1, 0))


SCALES = {
    "two block scales swapped": cache(lambda: gemm(_swapped_blocks(operands()))),
    "one tile scale doubled": cache(lambda: gemm(_doubled_tile(operands()))),
    "one tile scale a power of two": cache(lambda: gemm(_pow2_tile(operands()))),
    "scales of the next token": cache(lambda: gemm(_shifted_scales(operands()))),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["exact", "bound"])
@pytest.mark.parametrize("name", SCALES)
def test_wrong_scales(name: str, kind: str, dtype: torch.dtype) -> None:
    assert not check(SCALES[name]().to(dtype), expected(dtype), kind)


def _put(index: Any, value: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], None]:
    def plant(out: torch.Tensor) -> None:
        out[index] = value(out)

    return plant


SOMEWHERE = {
    "one element zeroed": _put((317, 93), lambda out: 0.0),
    "one element off by 10 rms": _put((M - 1, N - 1), lambda out: out[-1, -1] + 10 * _rms(out)),
    "one element negated": _put((3, 200), lambda out: -out[3, 200]),
    "two elements exchanged": _put((9, [4, 5]), lambda out: out[9, [5, 4]].clone()),
    "first column zeroed": _put((slice(None), 0), lambda out: 0.0),
    "last row zeroed": _put(-1, lambda out: 0.0),
    "two of 512 rows zeroed": _put([31, 440], lambda out: 0.0),
    "one 128x128 tile zeroed": _put(TILE, lambda out: 0.0),
    "one 1x128 tile zeroed": _put((400, slice(0, 128)), lambda out: 0.0),
    "one of 32 experts noise": _put(slice(96, 112), lambda out: _noise(out.dtype)[96:112]),
    "one NaN": _put((0, 0), lambda out: math.nan),
    "one Inf": _put((8, 8), lambda out: math.inf),
}


def _rms(out: torch.Tensor) -> torch.Tensor:
    return out.float().square().mean().sqrt()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["exact", "bound"])
@pytest.mark.parametrize("name", SOMEWHERE)
def test_wrong_somewhere(name: str, kind: str, dtype: torch.dtype) -> None:
    got = expected(dtype).clone()
    SOMEWHERE[name](got)
    assert not check(got, expected(dtype), kind)


@pytest.mark.parametrize("bad", [math.inf, math.nan, 1.0])
@pytest.mark.parametrize("kind", ["exact", "bound"])
def test_wrong_beside_infinity(kind: str, bad: float) -> None:
    """Where -Inf is right: +Inf, NaN and a number are wrong, and -Inf passes."""
    want = expected(torch.float32).clone()
    want[40, 40] = -math.inf
    got = want.clone()
    assert check(got, want, kind)
    got[40, 40] = bad
    assert not check(got, want, kind)


@pytest.mark.parametrize("kind", ["exact", "bound"])
def test_wrong_structure(kind: str) -> None:
    want = expected(torch.bfloat16)
    wrong = {
        "transposed": want.T,
        "stored by columns": want.T.contiguous().T,
        "rows padded": want.repeat(1, 2)[:, :N],
        "other dtype": want.float(),
        "one row short": want[:-1],
        "one dimension more": want[None],
        "a tuple": (want,),
        "two outputs": (want, want),
        "nothing": None,
        "on no device": want.to("meta"),
    }
    accepted = [name for name, got in wrong.items() if check(got, want, kind)]
    assert not accepted


def test_eight_of_4096_rows() -> None:
    """A cosine distance of 1e-3 and a 95 % match both pass this."""
    want = expected(torch.bfloat16).repeat(8, 1)
    got = want.clone()
    got[torch.arange(8) * 500 + 77] = 0
    bound, size = tolerance(torch.bfloat16)
    assert not compare(got, want, Exact())
    assert not compare(got, want, bound, magnitude=size.repeat(8, 1))
    cosine = 1 - 2 * (got.double() * want.double()).sum() / (
        got.double().square().sum() + want.double().square().sum()
    )
    assert cosine < 1e-3


def _quantiser(**changes: bool) -> tuple[torch.Tensor, torch.Tensor]:
    given = operands(**changes)
    x = given.x.clone()
    x[5, 5] = 0.0
    return x.to(torch.float8_e4m3fn), given.x_scale


def test_wrong_quantiser() -> None:
    """Casts are compared exactly, payload and scales."""
    q, scale = _quantiser()
    doubled, one_up, negative = scale.clone(), q.view(torch.uint8).clone(), q.float()
    doubled[3, 3] *= 2
    one_up[400, 1000] ^= 1
    negative[5, 5] = -0.0
    one_ulp = scale.view(torch.int32).clone()
    one_ulp[17, 2] += 1
    wrong = {
        "one scale doubled": (q, doubled),
        "one scale one ulp off": (q, one_ulp.view(torch.float32)),
        "two scales swapped": (q, scale[[1, 0, *range(2, M)]]),
        "reciprocals": (q, 1 / scale),
        "powers of two": _quantiser(pow2=True),
        "powers of two, payload as before": (q, _quantiser(pow2=True)[1]),
        "cast truncates": _quantiser(truncate=True),
        "one payload bit": (one_up.view(q.dtype), scale),
        "negative zero": (negative.to(q.dtype), scale),
        "scales by columns": (q, scale.T.contiguous().T),
        "swapped outputs": (scale, q),
    }
    names = ("q", "scale")
    for name, got in wrong.items():
        assert not compare(got, (q, scale), Exact(), names=names), name
    assert compare(_quantiser(), (q, scale), Exact(), names=names).ok


def test_one_spacing_is_inside_any_bound() -> None:
    """A result whose last bit is off is what another order of summation gives too: no bound on
    bf16 results can tell, and Exact does.  A whole tile of them is told by its rms.
    """
    want = expected(torch.bfloat16)
    got = want.view(torch.int16).clone()
    got[3, 5] ^= 1
    assert check(got.view(torch.bfloat16), want, "bound")
    assert not check(got.view(torch.bfloat16), want, "exact")
    got[TILE] ^= 1
    assert not check(got.view(torch.bfloat16), want, "bound")


@pytest.mark.parametrize("where", [TILE, (slice(None), slice(None))])
def test_a_small_factor_is_seen_by_the_rms_alone(where: tuple[slice, slice]) -> None:
    """0.3 % is below a spacing of bf16: no element of it breaks the maximum."""
    want = expected(torch.bfloat16)
    got = want.clone()
    got[where] = _scaled(1.003)(torch.bfloat16)[where]
    bound, magnitude = tolerance(torch.bfloat16)
    comparison = compare(got, want, bound, magnitude=magnitude)
    assert comparison.max_error <= bound.max
    assert comparison.tile_rms > bound.tile_rms
    without = Bound(bound.max, 1.0, 1.0, "the maximum alone")
    assert compare(got, want, without, magnitude=magnitude).ok


def test_misuse_cannot_pass_silently() -> None:
    """`assert compare(...)` asserts, and assert_equal raises with the coordinates."""
    want = expected(torch.bfloat16)
    got = want.clone()
    got[7, 11] = 1000
    assert not compare(got, want, Exact())
    with pytest.raises(AssertionError, match=r"out: 1 of .*\n.*\[7, 11\]: got 1000.0"):
        assert_equal(got, want, Exact())

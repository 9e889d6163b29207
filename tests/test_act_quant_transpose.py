"""act_quant_transpose: the definition against act_quant of the transpose, what a re-tile keeps, and what
is not touched."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cases._data import values
from benchmarks.cases._expert_rows import taken_rows
from benchmarks.cases.act_quant_transpose import ActQuantTranspose, defined
from benchmarks.compare import Exact, assert_equal
from kernels import act_quant_transpose as kernel
from kernels._device import Plans, sm_limit
from kernels.act_quant import act_quant
from kernels.act_quant_transpose import act_quant_transpose
from reference_impl import act_quant_transpose as reference
from tests._guards import PATTERN, guarded
from tests._operands import on
from tests.test_inputs import refuse

if TYPE_CHECKING:
    from collections.abc import Callable

BF16, E4M3, BYTE = torch.bfloat16, torch.float8_e4m3fn, torch.uint8
INF, NAN = float("inf"), float("nan")
NAMES = ("q_t", "scale", "lost")
BOTH = pytest.mark.parametrize(
    "function",
    [act_quant_transpose, reference.act_quant_transpose],
    ids=["kernel", "reference"],
)


def drawn(rows: int, channels: int, kind: str = "normal", seed: int = 5) -> torch.Tensor:
    return values((rows, channels), kind, torch.Generator().manual_seed(seed))


@BOTH
@pytest.mark.parametrize("pow2", [False, True])
@pytest.mark.parametrize("kind", ["normal", "wide", "nonfinite"])
def test_it_is_act_quant_of_the_transpose(
    function: Callable[..., Any],
    kind: str,
    pow2: bool,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With as many tokens as tiles of 128 hold; a ragged end is as if zeros followed."""
    x = drawn(200, 48, kind).to(BF16).to(device)
    with guarded(monkeypatch):
        q_t, scale, lost = function(x, pow2_scale=pow2)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 56))
    want_q, want_scale = act_quant(padded.T.contiguous(), pow2)
    assert lost is None
    assert_equal(q_t.contiguous(), want_q[:, :200].contiguous(), Exact())
    assert_equal(scale, want_scale.T.contiguous(), Exact())
    assert q_t.stride() == (256, 1)
    # Behind the last token lies zero, whatever its tile's scale is: TMA may read it.
    behind = q_t.view(BYTE).as_strided((48, 56), (256, 1), q_t.storage_offset() + 200)
    assert not behind.any()


@pytest.mark.parametrize("pow2", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "dropped", "none"])
def test_lasting_programs(
    kind: str, pow2: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few that take tile after tile, most of them without rows, whose losses are zero."""
    case = ActQuantTranspose(
        t=70, c=256, e=4, k=2, x="e4m3", pow2=pow2, routing=kind, scales="spread"
    )
    arguments = case.inputs(device)
    monkeypatch.setattr(kernel, "SPARSE", 0)
    monkeypatch.setattr(kernel, "_plans", Plans())
    with guarded(monkeypatch), sm_limit(1):
        got = act_quant_transpose(**arguments)
    want = reference.act_quant_transpose(**arguments)
    names = list(NAMES)
    assert_equal(defined(arguments, got), defined(arguments, want), Exact(), names=names)


def exact_values(q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return q.double() * scale.double().repeat_interleave(128, dim=1)


@BOTH
@pytest.mark.parametrize("kind", ["normal", "positive", "saturating", "sparse", "zero"])
def test_a_re_tile_loses_nothing(function: Callable[..., Any], kind: str, device: str) -> None:
    """Where all scales of a tile are alike or one power apart and payloads are normal numbers.

    A payload of at least 2^-6 is a multiple of 2^-9, and with half the new scale's unit one of 2^-8 is.
    """
    x = drawn(256, 256, kind).to(BF16).to(device)
    q, scale = act_quant(x, pow2_scale=True)
    small = (q.float().abs() < 2.0**-4) & (q.float() != 0)
    q = torch.where(small, torch.ones((), device=device), q.float()).to(E4M3)
    scale = scale.clamp(min=scale.max() / 2)
    q_t, new_scale, lost = function(q, scale, None, True)
    assert lost.tolist() == [[0, 0], [0, 0]]
    back = q_t.T.double() * new_scale.double().repeat_interleave(128, dim=0)
    assert torch.equal(back, exact_values(q, scale))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    spread=st.integers(0, 24),
    base=st.integers(-100, 90),
)
def test_any_re_tile(seed: int, spread: int, base: int) -> None:
    """What is lost is what no power of two could keep: on whole numbers, a tile at a time."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 256, (128, 128), generator=generator, dtype=BYTE)
    bits[(bits & 127) == 127] = 0  # no NaN
    q = bits.view(E4M3)
    exponents = base + torch.randint(0, spread + 1, (128, 1), generator=generator)
    scale = torch.ldexp(torch.ones(128, 1), exponents)
    q_t, new_scale, lost = reference.act_quant_transpose(q, scale, None, True)
    # In units of 2^(base - 9), of which all numbers are multiples.
    units = torch.ldexp(q.double(), exponents - base + 9).long()
    count = 0
    for channel in range(128):
        column = units[:, channel]
        largest = int(column.abs().max())
        if not largest:
            assert new_scale[0, channel] == 1.0
            continue
        # The smallest power of two that does not saturate: 448 * 2^9 units of it are 448 * 2^base.
        exponent = math.ceil(math.log2(largest) - 40)
        while largest > 448 * 2.0 ** (9 + exponent):
            exponent += 1
        while largest <= 448 * 2.0 ** (9 + exponent - 1):
            exponent -= 1
        assert new_scale[0, channel] == 2.0 ** (base + exponent)
        got = torch.ldexp(q_t[channel].double(), torch.tensor(exponent + 9))
        kept = got == column
        count += int((~kept).sum())
        step = max(1, 2**exponent)
        # 4 bits fit everywhere else: a number stays if the smallest payload divides it.
        assert torch.equal(kept, column % step == 0)
    assert lost is not None
    assert lost.tolist() == [[count]]


@BOTH
def test_what_is_lost_is_counted(function: Callable[..., Any], device: str) -> None:
    """2^-9 beside a number of 448 * 2^k in its channel: kept for k = 0, lost for k = 1."""
    q = torch.zeros(256, 256, device=device)
    q[0, :] = 448.0
    q[1:128, 7], q[1:100, 130] = 2.0**-9, 2.0**-9
    scale = torch.ones(256, 2, device=device)
    assert function(q.to(E4M3), scale, None, True)[2].tolist() == [[0, 0], [0, 0]]
    scale[0] = 2.0
    assert function(q.to(E4M3), scale, None, True)[2].tolist() == [[127, 99], [0, 0]]
    scale[0] = torch.tensor([INF, NAN], device=device)
    assert function(q.to(E4M3), scale, None, True)[2].tolist() == [[128 * 128] * 2, [0, 0]]
    counts = torch.tensor([100], device=device, dtype=torch.int32)
    assert function(q.to(E4M3), scale, counts, True)[2].tolist() == [[100 * 128] * 2, [0, 0]]


SCALES = {
    "near": (-6, 3), "to the limits": (-64, 64), "below": (-65, 64), "above": (-64, 65),
    "all there are": (-126, 127), "subnormal": (-149, -120), "highest": (60, 127),
    "fourteen apart": (-5, 9), "fifteen apart": (-5, 10), "all alike": (2, 2),
}  # fmt: skip


def any_payload(rows: int, seed: int, nan: bool = False) -> torch.Tensor:
    """Every bit pattern, or all but NaN, which would make a whole tile NaN."""
    drawn = torch.randint(0, 256, (rows, 128), generator=torch.Generator().manual_seed(seed))
    if not nan:
        drawn[drawn & 127 == 127] = 128
    return drawn.to(BYTE).view(E4M3)


def power_scales(rows: int, low: int, high: int) -> torch.Tensor:
    exponents = torch.randint(low, high + 1, (rows, 1), generator=torch.Generator().manual_seed(3))
    return torch.ldexp(torch.ones(rows, 1), exponents)


@pytest.mark.parametrize("rows", [128, 131, 5])
@pytest.mark.parametrize("kind", SCALES)
def test_losses_at_the_limits_of_scales(kind: str, rows: int, device: str) -> None:
    """Below and above 2^-64 and 2^64 losses are counted another way."""
    given = any_payload(rows, 7).to(device), power_scales(rows, *SCALES[kind]).to(device)
    got = act_quant_transpose(*given, pow2_scale=True)
    assert_equal(got, reference.act_quant_transpose(*given, pow2_scale=True), Exact(), names=NAMES)


@pytest.mark.parametrize("scale", [1.5, -1.0, 0.0, INF, NAN, 2.0**-130, 3 * 2.0**-149])
@pytest.mark.parametrize("nan", [False, True])
def test_losses_of_one_odd_scale(nan: bool, scale: float, device: str) -> None:
    for row in (0, 77, 127, 130):
        scales = power_scales(131, -3, 3)
        scales[row] = scale
        given = any_payload(131, row, nan).to(device), scales.to(device)
        got = act_quant_transpose(*given, pow2_scale=True)
        assert_equal(
            got, reference.act_quant_transpose(*given, pow2_scale=True), Exact(), names=NAMES
        )


@pytest.mark.parametrize("apart", range(15))
def test_channels_of_small_numbers(apart: int, device: str) -> None:
    """The last 64 channels are 0 but for small payloads under small scales: some want a new scale of less
    than 2^-15 of the largest.  The last 16 are 0 or -0."""
    x = any_payload(128, apart).view(BYTE).clone()
    x[:, 64:] &= 0x80
    for channel in range(64, 112):
        # Bits 0 to 48, from 2^-9 on, and no larger than the channel's number.
        x[64:, channel] |= (torch.arange(64) + channel) % (channel - 63)
    scales = torch.full((128, 1), 2.0)
    scales[64:] = 2.0 ** (1 - apart)
    given = x.view(E4M3).to(device), scales.to(device)
    got = act_quant_transpose(*given, pow2_scale=True)
    assert_equal(got, reference.act_quant_transpose(*given, pow2_scale=True), Exact(), names=NAMES)


def test_the_smallest_numbers_beside_the_largest(device: str) -> None:
    """2^-9 of the smallest scale and 448 of the largest: 2^-148 of the new scale is not 0."""
    x = torch.zeros(128, 128, dtype=BYTE)
    x[::2] = 0x80
    x[3], x[4], x[5] = 1, 0x7E, 0x81
    scales = torch.ones(128, 1)
    scales[3], scales[4], scales[5] = 2.0**-64, 2.0**64, 2.0**-64
    lost = act_quant_transpose(x.view(E4M3).to(device), scales.to(device), pow2_scale=True)[2]
    assert lost is not None
    assert lost.tolist() == [[256]]


def test_without_powers_of_two_nearly_all_is_lost(device: str) -> None:
    q, scale = act_quant(drawn(128, 128).to(BF16).to(device), pow2_scale=False)
    _, _, lost = act_quant_transpose(q, scale, None, False)
    assert lost is not None
    assert 0.9 * 128 * 128 < lost.item() <= 128 * 128


@BOTH
@pytest.mark.parametrize("x", ["bf16", "e4m3"])
@pytest.mark.parametrize("kind", ["none", "sizes", "no_first"])
def test_padding_is_zero_and_the_rest_is_not_touched(
    function: Callable[..., Any], kind: str, x: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = ActQuantTranspose(t=49, c=128, e=6, k=8 if kind == "sizes" else 5, x=x, routing=kind)
    arguments = case.inputs(device)
    with guarded(monkeypatch):
        q_t, scale, lost = function(**arguments)
    counts = arguments["counts"]
    end = int(((counts.long() + 127) // 128 * 128).sum())
    padding = torch.ones(case.rows, dtype=torch.bool, device=device)
    taken = taken_rows(counts, case.rows, device)
    padding[taken] = False
    bits = q_t.view(BYTE)
    assert not bits[:, :end][:, padding[:end]].any()
    assert (bits[:, end:] == PATTERN).all()
    assert (scale[end // 128 :].contiguous().view(BYTE) == PATTERN).all()
    assert scale[: end // 128].isfinite().all()
    assert (q_t.float()[:, taken].isfinite()).all()
    assert (lost is None) == (x == "bf16")
    assert lost is None or (lost[end // 128 :] == 0).all()


@BOTH
@pytest.mark.parametrize("x", ["bf16", "e4m3"])
def test_padding_is_zero_in_a_tile_of_nan(
    function: Callable[..., Any], x: str, device: str
) -> None:
    case = ActQuantTranspose(t=20, c=128, e=2, k=1, x=x)
    arguments = case.inputs(device)
    counts = arguments["counts"]
    assert counts[0] not in (0, 128)
    arguments["x"][0] = NAN
    q_t, scale, _ = function(**arguments)
    assert scale[0].isnan().all()
    assert q_t[:, : counts[0]].float().isnan().all()
    assert not q_t[:, counts[0] : 128].view(BYTE).any()
    assert q_t[:, 128 : 128 + counts[1]].float().isfinite().all()


@BOTH
def test_tiles_do_not_cross_segments(function: Callable[..., Any], device: str) -> None:
    """Each expert's columns are those that its rows alone give."""
    case = ActQuantTranspose(t=49, c=128, e=6, k=8, x="e4m3", routing="sizes")
    arguments = case.inputs(device)
    results = function(**arguments)
    start = 0
    for count in arguments["counts"].tolist():
        rows, end = slice(start, start + count), start + -(-count // 128) * 128
        alone = function(arguments["x"][rows], arguments["x_scale"][rows], None, True)
        assert_equal(results[0][:, rows].contiguous(), alone[0].contiguous(), Exact())
        for part, one in zip(results[1:], alone[1:], strict=True):
            assert_equal(part[start // 128 : end // 128], one, Exact())
        start = end


@pytest.mark.parametrize("x", ["bf16", "e4m3"])
def test_rows_that_do_not_fit(x: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that ends inside the third expert's rows, at no multiple of anything."""
    counts = torch.tensor([3, 0, 200], dtype=torch.int32, device=device)
    arguments = ActQuantTranspose(t=263, c=128, x=x).inputs(device)
    with guarded(monkeypatch):
        got = act_quant_transpose(**arguments | {"counts": counts})
    want = reference.act_quant_transpose(**arguments | {"counts": counts})
    assert_equal(got, want, Exact(), names=NAMES)
    assert got[0].shape == (128, 263)


@pytest.mark.parametrize("x", ["bf16", "e4m3"])
def test_views(x: str, device: str) -> None:
    """Rows and scales that lie apart, and start where nothing is aligned."""
    dtype = {"bf16": BF16, "e4m3": E4M3}[x]
    held = drawn(300, 300).to(dtype).to(device)[::2, 3:259]
    scale = torch.exp2(drawn(300, 13).round()).to(device)[::2, 5:9:2] if x == "e4m3" else None
    plain = None if scale is None else scale.contiguous()
    got = act_quant_transpose(held, scale, None, True)
    want = act_quant_transpose(held.contiguous(), plain, None, True)
    assert_equal(got, want, Exact(), names=NAMES)


def test_the_cases_lose_what_they_are_for(device: str) -> None:
    """Nothing of a payload whose scales are near, and something of one whose scales are not."""
    for scales, some in (("near", False), ("spread", True)):
        case = ActQuantTranspose(t=128, c=128, x="e4m3", scales=scales)
        arguments = case.inputs(device)
        _, _, lost = defined(arguments, act_quant_transpose(**arguments))
        assert (lost > 128 * 64).all() == some
        assert (lost < 128).all() != some


FP8 = torch.ones(6, 256).to(E4M3)
GOOD: dict[str, Any] = {
    "x": FP8, "x_scale": torch.ones(6, 2), "counts": torch.ones(2, dtype=torch.int32),
    "pow2_scale": True,
}  # fmt: skip
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": FP8.to(BF16)}, TypeError, "x_scale: expected None for x of bfloat16, got Tensor"),
    ({"x_scale": None}, TypeError, r"x_scale: expected a torch\.Tensor, got NoneType"),
    ({"x_scale": torch.ones(6, 1)}, ValueError, r"x_scale: expected shape \[6, 2\], got \[6, 1\]"),
    ({"x": FP8[:, :144]}, ValueError, "x: expected C to be a multiple of 128, got 144"),
    ({"x": FP8.to(BF16)[:, :24], "x_scale": None}, ValueError,
     "x: expected C to be a multiple of 16, got 24"),
    ({"x": FP8[:, :0]}, ValueError, "x: C: expected 16 to .*, got 0"),
    ({"x": FP8.view(BYTE).T.contiguous().T.view(E4M3)}, ValueError, "x: expected stride 1 .*"),
    ({"counts": torch.ones(2)}, TypeError, "counts: expected dtype int32, got float32"),
    ({"counts": torch.ones(0, dtype=torch.int32)}, ValueError, "counts: E: expected 1 to .*, got 0"),
    ({"pow2_scale": None}, TypeError, "pow2_scale: expected True or False, got NoneType"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "error", "said"), REFUSED)
def test_refused(bad: dict[str, Any], error: type[Exception], said: str, device: str) -> None:
    refuse("act_quant_transpose", on(device, GOOD | bad), error, said)


def test_the_good_arguments_are_good(device: str) -> None:
    act_quant_transpose(**on(device, GOOD))

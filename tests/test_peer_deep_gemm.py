"""DeepGEMM's adapter, on a module that takes what DeepGEMM takes, refuses what it refuses, and spills
over where it does; the products are the reference's."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases, fingerprint, measure, parity, peers, roofline
from benchmarks.cases.fp8_gemm import Fp8Gemm
from benchmarks.cases.grouped_gemm_contiguous import GroupedGemmContiguous
from benchmarks.cases.grouped_gemm_masked import GroupedGemmMasked
from benchmarks.cases.grouped_gemm_wgrad import GroupedGemmWgrad
from benchmarks.peers import _layouts, deep_gemm
from harness import _desk
from reference_impl.fp8_gemm import fp8_gemm
from reference_impl.grouped_gemm_wgrad import grouped_gemm_wgrad
from tests.test_timing import Clock

if TYPE_CHECKING:
    from benchmarks.cases import Case

Pair = tuple[torch.Tensor, torch.Tensor]
TILE = 128
# Rows in no multiple of 4, experts without rows, capacities below a tile and between two.
CONTIGUOUS = (
    GroupedGemmContiguous(e=3, t=70, n=72, k=256, topk=2, routing="uniform"),
    GroupedGemmContiguous(e=6, t=24, n=128, k=128, topk=2, routing="no_middle"),
)
MASKED = (
    GroupedGemmMasked(e=4, c=80, t=200, n=128, k=256),
    GroupedGemmMasked(e=3, c=33, t=60, n=72, k=128),
    GroupedGemmMasked(e=3, c=128, t=60, n=72, k=128),
    GroupedGemmMasked(e=6, c=8, t=40, n=64, k=128, topk=2, routing="no_middle", over=2),
)
WGRAD = (
    GroupedGemmWgrad(e=3, t=300, n=66, k=132, topk=2, routing="uniform", spare=2),
    GroupedGemmWgrad(e=6, t=24, n=64, k=128, topk=2, routing="no_middle"),
)
ALL = {
    "fp8_gemm": (Fp8Gemm(m=65, n=200, k=384), Fp8Gemm(m=1, n=8, k=128)),
    "grouped_gemm_contiguous": CONTIGUOUS, "grouped_gemm_masked": MASKED,
    "grouped_gemm_wgrad": WGRAD,
}  # fmt: skip
EACH = [(stem, case) for stem, table in ALL.items() for case in table]


def refuse(wrong: bool, why: str) -> None:
    """As DeepGEMM's host code does."""
    if wrong:
        raise RuntimeError(f"Assertion error (gemm.hpp:1): {why}")


def by_columns(scale: torch.Tensor, groups: tuple[int, ...], m: int, blocks: int) -> None:
    """Or DeepGEMM would make a copy, in the call."""
    column = -(-m // 4) * 4
    want = (1, column) if not groups else (column * blocks, 1, column)
    refuse(scale.shape != (*groups, m, blocks) or scale.dtype != torch.float32, "shape")
    assert scale.stride() == want
    padding = scale.as_strided((*groups, blocks, column - m), (*want[:-2], column, 1), m)
    assert not padding.any()


class Library(ModuleType):
    """Stands for deep_gemm.  calls: what it was given."""

    alignment = TILE

    def __init__(self) -> None:
        super().__init__("deep_gemm")
        self.calls: list[tuple[Any, ...]] = []

    def get_mk_alignment_for_contiguous_layout(self) -> int:
        return self.alignment

    def _check(self, a: Pair, b: Pair, d: torch.Tensor) -> None:
        self.calls.append((a, b, d))
        (x, x_scale), (w, w_scale) = a, b
        *groups, m, k = x.shape
        n = w.shape[-2]
        for tensor in (x, w, w_scale, d):
            assert tensor.is_contiguous()
        by_columns(x_scale, tuple(groups), m, k // 128)
        refuse(x.dtype != torch.float8_e4m3fn or w.dtype != x.dtype, "e4m3")
        refuse(w.shape[-1] != k or d.shape != (*groups, m, n), "shape")
        refuse(w_scale.shape != (*w.shape[:-2], -(-n // 128), k // 128), "scales of b")
        refuse(d.dtype != torch.bfloat16 or n % 8 != 0 or 0 in (m, n, k), "d")

    def fp8_gemm_nt(self, a: Pair, b: Pair, d: torch.Tensor, *, disable_ue8m0_cast: bool) -> None:
        assert disable_ue8m0_cast
        self._check(a, b, d)
        d.copy_(fp8_gemm(*a, *b))

    def m_grouped_fp8_gemm_nt_contiguous(
        self, a: Pair, b: Pair, d: torch.Tensor, m_indices: torch.Tensor, *, disable_ue8m0_cast: bool
    ) -> None:  # fmt: skip
        assert disable_ue8m0_cast
        self._check(a, b, d)
        refuse(m_indices.shape != d.shape[:1] or m_indices.dtype != torch.int32, "m_indices")
        for start in range(0, len(d), TILE):
            rows = slice(start, start + TILE)
            expert = int(m_indices[start])  # of a tile the first row says it
            assert set(m_indices[rows].tolist()) <= {expert, -1}
            if expert >= 0:
                d[rows] = fp8_gemm(_take(a[0], rows), a[1][rows], b[0][expert], b[1][expert])

    def m_grouped_fp8_gemm_nt_masked(
        self, a: Pair, b: Pair, d: torch.Tensor, masked_m: torch.Tensor, expected_m: int, *,
        disable_ue8m0_cast: bool,
    ) -> None:  # fmt: skip
        assert disable_ue8m0_cast
        self._check(a, b, d)
        refuse(masked_m.shape != d.shape[:1] or masked_m.dtype != torch.int32, "masked_m")
        refuse(expected_m <= 0 or type(expected_m) is not int, "expected_m")
        capacity, flat = d.shape[1], d.view(-1, d.shape[2])
        assert 0 <= int(masked_m.min()) <= int(masked_m.max()) <= capacity
        for expert in reversed(range(len(d))):  # whole tiles, as if all experts were one buffer
            first, count = expert * capacity, int(masked_m[expert])
            rows = slice(count)
            flat[first : first + -(-count // TILE) * TILE] = 0
            flat[first : first + count] = fp8_gemm(
                _take(a[0][expert], rows), a[1][expert, rows], b[0][expert], b[1][expert]
            )

    def k_grouped_fp8_gemm_nt_contiguous(
        self, a: Pair, b: Pair, d: torch.Tensor, ks: list[int], on_device: torch.Tensor, c: torch.Tensor
    ) -> None:  # fmt: skip
        self.calls.append((a, b, d))
        groups, m, n = d.shape
        refuse(
            on_device.tolist() != ks or on_device.dtype != torch.int32 or len(ks) != groups, "ks"
        )
        refuse(any(k % 128 for k in ks) or d.dtype != torch.float32 or n % 4 != 0, "k, d")
        refuse(c.data_ptr() != d.data_ptr() or not d.is_contiguous(), "c")
        for (fp8, scale), channels in ((a, m), (b, n)):
            refuse(
                fp8.shape != (channels * sum(ks),) or fp8.dtype != torch.float8_e4m3fn, "operand"
            )
            by_columns(scale, (), channels, sum(ks) // 128)
        start = 0
        for group, k in enumerate(ks):
            rows, blocks = slice(start, start + k), slice(start // 128, (start + k) // 128)
            grad, x = (
                fp8[rows.start * size : rows.stop * size].view(size, k)
                for (fp8, _), size in ((a, m), (b, n))
            )
            d[group] += grouped_gemm_wgrad(
                grad, a[1][:, blocks].T, x, b[1][:, blocks].T, on_device[group : group + 1]
            )[0]
            start += k


def _take(fp8: torch.Tensor, rows: slice) -> torch.Tensor:
    return fp8.view(torch.uint8)[rows].view(fp8.dtype)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setitem(sys.modules, "deep_gemm", found)
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    return found


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("stem", "case"), EACH, ids=lambda value: getattr(value, "label", value))
def test_operands_and_results_lie_where_they_should(
    stem: str, case: Case, library: Library, device: str
) -> None:
    arguments = case.inputs(device)
    before = {name: value.clone() for name, value in arguments.items() if torch.is_tensor(value)}
    assert deep_gemm.missing() is None
    run = deep_gemm.prepare(stem, arguments)
    for got in (run().contiguous(), run().contiguous()):
        assert parity.check(stem, case, arguments, got).message == ""
        assert parity.compare_tiles(stem, arguments, got).ok
    for name, value in before.items():
        assert torch.equal(_bits(value), _bits(arguments[name])), name
    # The layouts are made once: every call is given the same tensors.
    pointers = [
        [tensor.data_ptr() for pair in call[:2] for tensor in pair] for call in library.calls
    ]
    assert pointers == pointers[:1] * 3


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.mT if tensor.stride(-1) != 1 else tensor).view(torch.uint8)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("stem", ALL)
def test_the_worker_verifies_it(
    stem: str, wrong: bool, library: Library, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """Poisoned, replayed and compared: padding, and rows in a larger buffer, are no differences."""
    monkeypatch.setattr(peers, "names", lambda stem=None: ["deep_gemm"])
    monkeypatch.setattr(measure, "device_us", Clock().device_us)
    monkeypatch.setattr(measure, "launch_us", lambda call: [3.0])
    monkeypatch.setattr(roofline, "copy_us", lambda nbytes: [5.5])
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    if wrong:
        name = deep_gemm.FUNCTIONS[stem]
        right = getattr(library, name)

        def leaves_out(a: Pair, b: Pair, d: torch.Tensor, *more: Any, **named: Any) -> None:
            right(a, b, d, *more, **named)
            d[0, :8] = 0.0  # of the first expert's rows

        monkeypatch.setattr(library, name, leaves_out)
    ours, theirs = _desk.Desk(stem, device).rows(ALL[stem][0])
    assert not ours.problem
    assert bool(theirs.problem) == wrong
    assert "against fp32" in theirs.problem or not wrong
    assert wrong or (theirs.differing == 0 and theirs.samples)


def test_segments_that_are_negative_or_do_not_fit() -> None:
    counts = torch.tensor([130, -500, 3, 200], dtype=torch.int32)
    assert _layouts.segments(counts, 640) == [256, 0, 128, 256]
    assert _layouts.segments(counts, 512) == [256, 0, 128, 128]
    assert _layouts.segments(counts, 256) == [256, 0, 0, 0]
    found = _layouts.experts(counts, 512)
    assert found.tolist() == [0] * 130 + [-1] * 126 + [2] * 3 + [-1] * 125 + [3] * 128


@pytest.mark.parametrize(
    ("counts", "expected"), [((10, 20, 30), 24), ((0, 0, 1), 1), ((99, 0, -9), 39)]
)
def test_expected_rows(counts: tuple[int, ...], expected: int, library: Library) -> None:
    """1.2 times the mean, at least 1, of counts that there is room for."""
    seen: list[int] = []
    library.m_grouped_fp8_gemm_nt_masked = lambda a, b, d, m, rows, **_: seen.append(rows)  # type: ignore[method-assign]
    arguments = GroupedGemmMasked(e=3, c=128, t=3, n=8, k=128).inputs("cpu")
    arguments["counts"] = torch.tensor(counts, dtype=torch.int32)
    deep_gemm.prepare("grouped_gemm_masked", arguments)
    assert seen == [expected]


@pytest.mark.parametrize(
    ("stem", "case", "said"),
    [
        ("fp8_gemm", Fp8Gemm(m=0, n=8, k=128), "empty"),
        ("fp8_gemm", Fp8Gemm(m=4, n=0, k=128), "empty"),
        ("fp8_gemm", Fp8Gemm(m=4, n=8, k=0), "empty"),
        ("fp8_gemm", Fp8Gemm(m=4, n=9, k=128), "multiples of 8, got 9"),
        ("fp8_gemm", Fp8Gemm(m=4, n=8, k=128, out="fp32"), "bf16"),
        ("grouped_gemm_masked", GroupedGemmMasked(e=3, c=0, t=0, n=64, k=128), "empty"),
        ("grouped_gemm_wgrad", GroupedGemmWgrad(e=3, t=0, n=64, k=128, spare=1), "empty"),
        ("grouped_gemm_wgrad", GroupedGemmWgrad(e=1, t=5, n=64, k=130), "multiples of 4, got 130"),
        ("weight_quant", Fp8Gemm(m=4, n=8, k=128), "has no weight_quant"),
    ],
)
def test_what_it_refuses(stem: str, case: Case, said: str, library: Library) -> None:
    with pytest.raises(NotImplementedError, match=said):
        deep_gemm.prepare(stem, case.inputs("cpu"))
    assert not library.calls


def test_what_it_and_the_library_refuse(library: Library) -> None:
    gradient = GroupedGemmWgrad(e=1, t=5, n=64, k=128).inputs("cpu")
    with pytest.raises(NotImplementedError, match="`out`"):
        deep_gemm.prepare("grouped_gemm_wgrad", gradient | {"out": torch.zeros(1, 64, 128)})
    short = CONTIGUOUS[0].inputs("cpu")
    short |= {"x": _take(short["x"], slice(200)), "x_scale": short["x_scale"][:200]}
    with pytest.raises(NotImplementedError, match="200 rows"):
        deep_gemm.prepare("grouped_gemm_contiguous", short)
    library.alignment = 256
    with pytest.raises(NotImplementedError, match="256"):
        deep_gemm.prepare("grouped_gemm_contiguous", CONTIGUOUS[0].inputs("cpu"))
    arguments = Fp8Gemm(m=4, n=8, k=128).inputs("cpu")
    with pytest.raises(
        NotImplementedError, match=r"DeepGEMM refuses: Assertion error .* scales of b"
    ):
        deep_gemm.prepare("fp8_gemm", arguments | {"w_scale": torch.ones(2, 1)})
    library.fp8_gemm_nt = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("CUDA error"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="CUDA error"):
        deep_gemm.prepare("fp8_gemm", arguments)


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: False)
    assert deep_gemm.missing() == "needs a Hopper GPU"
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    monkeypatch.setitem(sys.modules, "deep_gemm", None)  # its import fails
    assert str(deep_gemm.missing()).startswith("needs the package deep_gemm: ModuleNotFoundError")
    monkeypatch.setitem(sys.modules, "deep_gemm", ModuleType("deep_gemm"))
    assert str(deep_gemm.missing()).endswith(", ".join(deep_gemm.FUNCTIONS.values()))


def test_it_is_found_for_its_operators() -> None:
    assert set(ALL) == set(deep_gemm.OPERATORS) <= set(cases.names())
    assert "deep_gemm" in peers.names("fp8_gemm")
    for stem in set(ALL) - {"fp8_gemm"}:
        assert peers.names(stem) == ["deep_gemm"]

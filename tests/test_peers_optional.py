"""Adapters of packages that may not be installed, on modules with the functions that they have had."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases, fingerprint, measure, parity, peers, roofline, tasks
from benchmarks.cases import act_quant as quantiser
from benchmarks.cases.act_quant import ActQuant, ActQuantOfExperts
from benchmarks.cases.fp8_gemm import Fp8Gemm
from harness import _desk
from tests import _packages
from tests.test_timing import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Case

NAMES = ("sglang", "vllm", "torchao", "transformer_engine")
ODD = ("sglang", "vllm", "torchao")  # that take sizes in multiples of nothing
GEMM = (Fp8Gemm(m=64, n=200, k=384), Fp8Gemm(m=8, n=8, k=128))
QUANT = (ActQuant(m=128, k=384), ActQuant(m=256, k=128, x="fp32"))
ODD_CASES = (Fp8Gemm(m=65, n=129, k=384), Fp8Gemm(m=1, n=1, k=128), ActQuant(m=33, k=256))
ALL = [
    (release, case)
    for release in _packages.RELEASES
    for case in (*GEMM, *QUANT, *(ODD_CASES if release.startswith(ODD) else ()))
]
FLOORED = ActQuant(m=128, k=256, floor=1e-4, data="zero")
POW2 = ActQuant(m=128, k=256, pow2=True)


def stem_of(case: Case) -> str:
    return "fp8_gemm" if isinstance(case, Fp8Gemm) else "act_quant"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Installs a release; gives its adapter."""
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)

    def put(release: str) -> Any:
        _packages.install(monkeypatch, _packages.RELEASES[release])
        return peers.load(release.partition(" ")[0])

    return put


def run(adapter: Any, case: Case, device: str = "cpu") -> Any:
    """What the adapter returns, which is right to the bit, twice, from operands laid out once."""
    stem, arguments = stem_of(case), case.inputs(device)
    before = {name: _bits(value).clone() for name, value in _tensors(arguments)}
    call = adapter.prepare(stem, arguments)
    expected = parity.reference(stem, case, arguments)
    for got in (call(), call()):
        laid = parity.laid_as(got, expected)
        assert parity.check(stem, case, arguments, laid, expected).message == ""
        assert parity.close(stem, arguments, laid, expected)
    for name, value in _tensors(arguments):
        assert torch.equal(before[name], _bits(value)), name
    pointers = {tuple(part.data_ptr() for part in given) for given in _packages.calls}
    assert len(pointers) == 1
    assert len(_packages.calls) >= 3
    return got, expected


def _tensors(arguments: dict[str, Any]) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for name, value in arguments.items() if torch.is_tensor(value)]


def _bits(value: torch.Tensor) -> torch.Tensor:
    return (value if value.stride(-1) == 1 else value.mT).view(torch.uint8)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("release", "case"), ALL, ids=lambda value: getattr(value, "label", value))
def test_operands_and_results_lie_where_they_should(
    release: str, case: Case, install: Callable[[str], Any], device: str
) -> None:
    adapter = install(release)
    assert adapter.missing() is None
    got, expected = run(adapter, case, device)
    if not (isinstance(got, tuple) and release.startswith("torchao")) and "early" not in release:
        for one, other in zip(*map(_outputs, (got, expected)), strict=True):
            assert one.stride() == other.stride()


def _outputs(got: Any) -> tuple[torch.Tensor, ...]:
    return got if isinstance(got, tuple) else (got,)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("name", ["sglang", "vllm", "transformer_engine"])
def test_a_product_in_fp32(name: str, install: Callable[[str], Any]) -> None:
    run(install(name), Fp8Gemm(m=8, n=136, k=256, out="fp32"))


@pytest.mark.parametrize(
    ("release", "case"),
    [("vllm", FLOORED), ("vllm early", FLOORED), ("transformer_engine", FLOORED),
     ("sglang early", FLOORED), ("vllm", POW2), ("transformer_engine", POW2),
     ("transformer_engine", ActQuant(m=128, k=256, data="zero"))],
)  # fmt: skip
def test_options_of_quantisers(release: str, case: Case, install: Callable[[str], Any]) -> None:
    run(install(release), case)


ZERO = ActQuant(m=128, k=256, data="zero")
EXPERTS = ActQuantOfExperts(t=19, c=256, e=8, k=2)
REFUSED: list[tuple[str, Case, str]] = [
    *(
        (name, Fp8Gemm(m=m, n=n, k=k), "empty")
        for name in NAMES
        for m, n, k in ((0, 8, 128), (8, 0, 128), (8, 8, 0))
    ),
    *((name, ActQuant(m=m, k=k), "empty") for name in NAMES for m, k in ((0, 128), (4, 0))),
    *((name, EXPERTS, "counts") for name in NAMES),
    *((name, ZERO, "largest magnitude is 0") for name in ODD),
    *((name, ActQuant(m=4, k=128, data="tiny", x="fp32"), "1e-10") for name in ("sglang", "vllm")),
    ("sglang", FLOORED, r"SGLang refuses: bakes .* got 0\.0001"),
    ("sglang", POW2, "powers of two"),
    ("vllm early", POW2, "powers of two"),
    ("torchao", POW2, "powers of two"),
    ("torchao", FLOORED, "no floor"),
    ("torchao", replace(GEMM[0], out="fp32"), r"writes torch\.bfloat16, not torch\.float32"),
    ("transformer_engine", replace(GEMM[0], m=4), "M in multiples of 8, got 4"),
    ("transformer_engine", replace(GEMM[0], n=9), "N in multiples of 8, got 9"),
    ("transformer_engine", ActQuant(m=64, k=128), "M in multiples of 128, got 64"),
]


@pytest.mark.parametrize(
    ("release", "case", "said"), REFUSED, ids=lambda value: getattr(value, "label", value)
)
def test_what_they_refuse(
    release: str, case: Case, said: str, install: Callable[[str], Any]
) -> None:
    adapter = install(release)
    with pytest.raises(NotImplementedError, match=said):
        adapter.prepare(stem_of(case), case.inputs("cpu"))


@pytest.mark.usefixtures("products")
def test_torchao_wrote_the_default_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    _packages.install(monkeypatch, _packages.EARLY_TORCHAO)
    adapter = peers.load("torchao")
    run(adapter, replace(GEMM[0], out="fp32"))
    with pytest.raises(NotImplementedError, match=r"writes torch\.float32, not torch\.bfloat16"):
        adapter.prepare("fp8_gemm", GEMM[0].inputs("cpu"))


@pytest.mark.parametrize("text", ["Caller must pad.", "CUBLAS_STATUS_NOT_SUPPORTED"])
def test_transformer_engines_own_checks(
    text: str, install: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, module = install("transformer_engine"), f"{_packages.TE}.cpp_extensions.gemm"
    monkeypatch.setattr(sys.modules[module], "general_gemm", lambda *_, **__: _fail(text))
    with pytest.raises(NotImplementedError, match=text):
        adapter.prepare("fp8_gemm", GEMM[0].inputs("cpu"))
    monkeypatch.setattr(sys.modules[module], "general_gemm", lambda *_, **__: _fail("CUDA error"))
    with pytest.raises(RuntimeError, match="CUDA error"):
        adapter.prepare("fp8_gemm", GEMM[0].inputs("cpu"))


def _fail(text: str) -> None:
    raise RuntimeError(text)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    adapter = importlib.reload(peers.load(name))  # imports nothing of the package, which would fail
    assert set(adapter.OPERATORS) == {"fp8_gemm", "act_quant"}
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: False)
    assert adapter.missing() == "needs a Hopper GPU"
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    said = str(adapter.missing())
    assert said.startswith(f"needs the package {name}: found none of {name}.")
    assert "ModuleNotFoundError" in said
    places = [place for table in adapter.FUNCTIONS.values() for place in table]
    assert all(f"{place.module}.{place.name}" in said for place in places)
    with pytest.raises(NotImplementedError, match="has no weight_quant"):
        adapter.prepare("weight_quant", {})


def test_one_function_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    adapter = peers.load("vllm")
    _packages.install(monkeypatch, {_packages.VLLM: {"per_token_group_quant_fp8": None}})
    assert adapter.missing() is None
    with pytest.raises(NotImplementedError, match=r"w8a8_triton_block_scaled_mm, .*fp8_matmul$"):
        adapter.prepare("fp8_gemm", GEMM[0].inputs("cpu"))


def test_an_absent_package_leaves_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = {"cublaslt", "deep_gemm", *NAMES}
    assert set(peers.names("fp8_gemm")) == everyone
    assert set(peers.names("act_quant")) == set(NAMES)
    for name in (*NAMES, "deep_gemm"):
        monkeypatch.setitem(sys.modules, name, None)
    for stem, left in (("fp8_gemm", ["cublaslt"]), ("act_quant", [])):
        assert peers.here(stem) == left
        found = tasks.tasks(stem, "run", hopper=True)
        assert {task.implementation for task in found} == {"kernels", *left}
    _packages.install(monkeypatch, {})
    monkeypatch.delitem(sys.modules, "vllm")
    _packages.install(monkeypatch, _packages.RELEASES["vllm"])
    assert peers.here("act_quant") == ["vllm"]


def _desk_rows(
    name: str, case: Case, device: str, monkeypatch: pytest.MonkeyPatch
) -> list[_desk.Row]:
    monkeypatch.setattr(peers, "names", lambda stem=None: [name])
    monkeypatch.setattr(measure, "device_us", Clock().device_us)
    monkeypatch.setattr(measure, "launch_us", lambda call: [3.0])
    monkeypatch.setattr(roofline, "copy_us", lambda nbytes: [5.5])
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return list(_desk.Desk(stem_of(case), device).rows(case))


FAULTS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "right": (lambda q, scale: (q, scale), ""),
    "last bits": (lambda q, scale: (q, scale * (1 + 2.0**-22)), ""),
    "twice": (lambda q, scale: ((q.float() / 2).to(q.dtype), scale * 2), "scale"),
    "neighbours": (lambda q, scale: (q, scale.roll(1, 0)), "scale"),
    "a row": (lambda q, scale: (q.view(torch.uint8).roll(1, 0).view(q.dtype), scale), "q \\* scale"),
    "truncated": (lambda q, scale: ((q.view(torch.uint8) - 1).view(q.dtype), scale), "q \\* scale"),
    "an element": (lambda q, scale: (_zeroed(q), scale), "q \\* scale"),
}  # fmt: skip


def _zeroed(q: torch.Tensor) -> torch.Tensor:
    q = q.clone()
    q.view(torch.uint8)[5, 7] = 0
    return q


@pytest.mark.parametrize("fault", FAULTS)
def test_the_worker_verifies_a_quantiser(
    fault: str, install: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    install("vllm")
    change, said = FAULTS[fault]
    module = sys.modules[_packages.VLLM]
    right = module.per_token_group_quant_fp8

    def wrong(
        x: Any, group_size: int, *, column_major_scales: bool, tma_aligned_scales: bool, use_ue8m0: bool
    ) -> Any:  # fmt: skip
        named = {"column_major_scales": column_major_scales, "use_ue8m0": use_ue8m0}
        return change(*right(x, group_size, tma_aligned_scales=tma_aligned_scales, **named))

    monkeypatch.setattr(module, "per_token_group_quant_fp8", wrong)
    ours, theirs = _desk_rows("vllm", ActQuant(m=128, k=384), device, monkeypatch)
    assert not ours.problem
    assert bool(theirs.problem) == bool(said)
    assert said.replace("\\", "") in theirs.problem
    assert said or (theirs.differing > 0) == (fault == "last bits")


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("name", NAMES)
def test_the_worker_verifies_a_product(
    name: str, install: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    install(name)
    ours, theirs = _desk_rows(name, GEMM[0], device, monkeypatch)
    assert (ours.problem, theirs.problem, theirs.differing) == ("", "", 0)


@pytest.mark.parametrize("data", ["normal", "outlier", "wide", "subnormal"])
def test_a_product_with_a_reciprocal_is_close(data: str) -> None:
    """What SGLang's and TransformerEngine's kernels compute: other bits, a right result."""
    case = ActQuant(m=128, k=1024, x="fp32", data=data)
    arguments = case.inputs("cpu")
    expected = cases.call(cases.public("reference_impl", "act_quant"), arguments)
    tiles = arguments["x"].unflatten(1, (-1, 128))
    up = 448 / tiles.abs().amax(dim=2)
    q = (tiles * up[:, :, None]).clamp(-448, 448).to(torch.float8_e4m3fn).flatten(1)
    got = parity.laid_as((q, 1 / up), expected)
    assert quantiser.close(arguments, got, expected)
    assert parity.check("act_quant", case, arguments, got, expected).differing

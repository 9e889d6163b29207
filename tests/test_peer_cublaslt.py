"""cuBLASLt's adapter: what it refuses and what it hands over, anywhere; that its results are right, on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import parity, peers
from benchmarks.cases.fp8_gemm import Fp8Gemm
from benchmarks.peers import cublaslt
from harness import _adapter, _backends, _memory
from reference_impl.fp8_gemm import fp8_gemm

functional = torch.nn.functional
has_function = pytest.mark.skipif(
    not hasattr(functional, "scaled_mm"), reason="torch.nn.functional.scaled_mm is of torch 2.10"
)
# K/128 with each remainder of 4: the scales of the weights are padded to a multiple of 4.
SHAPES = (
    Fp8Gemm(m=64, n=128, k=256), Fp8Gemm(m=128, n=144, k=384), Fp8Gemm(m=16, n=576, k=512),
    Fp8Gemm(m=65, n=272, k=640, out="fp32"),
)  # fmt: skip


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stands for scaled_mm: our reference on what it is given, which is kept."""
    given: list[tuple[Any, ...]] = []

    def scaled_mm(  # noqa: PLR0913  (torch's own)
        a: Any, b: Any, a_scale: Any, a_kind: Any, b_scale: Any, b_kind: Any, *,
        swizzle_a: Any, swizzle_b: Any, output_dtype: torch.dtype,
    ) -> torch.Tensor:  # fmt: skip
        given.append((a, b, a_scale, b_scale))
        kinds = functional.ScalingType
        assert (a_kind, b_kind) == (kinds.BlockWise1x128, kinds.BlockWise128x128)
        assert swizzle_a == swizzle_b == functional.SwizzleType.NO_SWIZZLE
        return fp8_gemm(a, a_scale, b.t(), b_scale[: b.shape[0] // 128].t(), output_dtype)

    monkeypatch.setattr(functional, "scaled_mm", scaled_mm)
    return given


@has_function
@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.label)
def test_operands_lie_as_cublaslt_reads_them(
    case: Fp8Gemm, product: list[tuple[Any, ...]], device: str
) -> None:
    arguments = case.inputs(device)
    got = cublaslt.prepare("fp8_gemm", arguments)()
    assert parity.check("fp8_gemm", case, arguments, got).ok
    a, b, a_scale, b_scale = product[-1]
    assert (a.stride(1), b.stride(0), a_scale.stride()) == (1, 1, (1, case.m))
    blocks = case.k // 128
    assert b_scale.shape[0] == -(-blocks // 4) * 4
    assert b_scale.stride() == (1, b_scale.shape[0])
    padded = b_scale.as_strided((b_scale.shape[1], b_scale.stride(1)), (b_scale.stride(1), 1))
    assert not padded[:, blocks:].any()


@pytest.mark.parametrize(
    ("operator", "case", "said"),
    [
        ("fp8_gemm", Fp8Gemm(m=0, n=128, k=256), "empty"),
        ("fp8_gemm", Fp8Gemm(m=16, n=0, k=256), "empty"),
        ("fp8_gemm", Fp8Gemm(m=16, n=128, k=0), "empty"),
        ("fp8_gemm", Fp8Gemm(m=16, n=136, k=256), "N in multiples of 16, got 136"),
        ("act_quant", Fp8Gemm(m=16, n=128, k=256), "has no act_quant"),
    ],
)
@has_function
@pytest.mark.usefixtures("product")
def test_what_it_refuses(operator: str, case: Fp8Gemm, said: str) -> None:
    with pytest.raises(NotImplementedError, match=said):
        cublaslt.prepare(operator, case.inputs("cpu"))


@has_function
def test_what_cublaslt_itself_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul"

    def failing(*args: Any, **options: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(functional, "scaled_mm", failing)
    arguments = SHAPES[0].inputs("cpu")
    with pytest.raises(NotImplementedError, match="no algorithm for 64x128x256"):
        cublaslt.prepare("fp8_gemm", arguments)
    text = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal"):
        cublaslt.prepare("fp8_gemm", arguments)


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cublaslt.missing() == "needs a GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delattr(functional, "scaled_mm", raising=False)
    assert str(cublaslt.missing()).startswith("needs torch 2.10 or newer, got ")


@has_function
@pytest.mark.cpu
@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("factor", [1, 2])
def test_its_column_is_judged_by_the_bound(
    factor: int, memory: _memory.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All hazards, on a function that is right, and on one that is not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("benchmarks.fingerprint.has_hopper", lambda: True)
    backend = _backends.find("cublaslt", "fp8_gemm")
    monkeypatch.setattr("benchmarks.fingerprint.has_hopper", lambda: False)
    assert (backend.absent, backend.contract) == ("", "derived bound")
    right = functional.scaled_mm
    monkeypatch.setattr(functional, "scaled_mm", lambda *a, **o: right(*a, **o) * factor)
    verdict = _adapter.Bench(backend, memory).probe(SHAPES[0])
    assert verdict.status == ("right" if factor == 1 else "wrong"), verdict.message
    odd = _adapter.Bench(backend, memory).probe(Fp8Gemm(m=16, n=136, k=256))
    assert odd.status == "not supported"


@pytest.mark.gpu
@pytest.mark.parametrize("case", SHAPES[:3], ids=lambda case: case.label)
def test_on_a_gpu_it_is_close(case: Fp8Gemm, memory: _memory.Memory) -> None:
    """Prepared, called and compared, under the hazards; and an error would be seen."""
    if reason := peers.load("cublaslt").missing():
        pytest.skip(reason)
    verdict = _adapter.Bench(_backends.find("cublaslt", "fp8_gemm"), memory).probe(case)
    assert verdict.status == "right", verdict.message
    arguments = case.inputs("cuda")
    got = cublaslt.prepare("fp8_gemm", arguments)()
    assert parity.close("fp8_gemm", arguments, got, None)
    got[-1, -1] += got.abs().max()
    assert not parity.close("fp8_gemm", arguments, got, None)

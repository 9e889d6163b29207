"""Packages with the functions that SGLang, vLLM, torchao and TransformerEngine have had.

Names, order of arguments and defaults are theirs.  Each looks at what it is given as the package's own
checks and kernels do (which read by plain arithmetic where the kernel takes no strides), then computes
with the reference.
"""

# ruff: noqa: N803, PLR0913, PLR0917, PT018  (signatures and names of others)

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from reference_impl.act_quant import act_quant
from reference_impl.fp8_gemm import fp8_gemm

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

Tensor = torch.Tensor
FP8, TILE = torch.float8_e4m3fn, 128
SGLANG_GEMM, SGLANG_QUANT, SGLANG = (
    "sglang.kernels.ops.gemm.fp8_kernel",
    "sglang.kernels.ops.quantization.fp8_kernel",
    "sglang.srt.layers.quantization.fp8_kernel",
)
VLLM = "vllm.model_executor.layers.quantization.utils.fp8_utils"
AO_GEMM = "torchao.quantization.quantize_.workflows.float8.kernels"
AO_QUANT = "torchao.prototype.blockwise_fp8_inference.kernels"
AO = "torchao.kernel.blockwise_quantization"
AO_OLD = "torchao.prototype.blockwise_fp8.blockwise_quantization"
TE = "transformer_engine.pytorch"

calls: list[tuple[Any, ...]] = []  # what the functions were given


def _operands(x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor) -> None:
    calls.append((x, x_scale, w, w_scale))
    (m, k), n = x.shape, w.shape[0]
    assert x.dtype == w.dtype == FP8
    assert x_scale.dtype == w_scale.dtype == torch.float32
    assert x.is_contiguous()
    assert w.is_contiguous()
    assert w.shape == (n, k)
    assert x_scale.shape == (m, k // TILE)
    assert w_scale.shape == (-(-n // TILE), k // TILE)


def _by_columns(scale: Tensor) -> Tensor:
    m, tiles = scale.shape
    return scale.new_full((tiles, -(-m // 4) * 4), 7.0).T[:m].copy_(scale)


# SGLang and vLLM.


def triton_product(
    A: Tensor, B: Tensor, As: Tensor, Bs: Tensor, block_size: list[int],
    output_dtype: torch.dtype = torch.float16,
) -> Tensor:  # fmt: skip
    _operands(A, As, B, Bs)
    assert block_size == [TILE, TILE]
    assert As.is_contiguous()  # as the layers of both pass them to this kernel
    assert Bs.is_contiguous()
    return fp8_gemm(A, As, B, Bs, output_dtype)


def product_of_either(
    A: Tensor, B: Tensor, As: Tensor, Bs: Tensor, block_size: list[int],
    output_dtype: torch.dtype = torch.float16,
) -> Tensor:  # fmt: skip
    """SGLang's while one function chose between Triton and DeepGEMM."""
    _operands(A, As, B, Bs)
    assert block_size == [TILE, TILE]
    assert As.stride() == (1, -(-len(A) // 4) * 4)
    return fp8_gemm(A, As, B, Bs, output_dtype)


def sglang_quant(
    x: Tensor, group_size: int, eps: float = 1e-10, column_major_scales: bool = False,
    scale_tma_aligned: bool = False, scale_ue8m0: bool = False, fuse_silu_and_mul: bool = False,
    masked_m: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    assert eps == 1e-10, f"bakes the absmax floor in at 1e-10, got {eps}"
    assert column_major_scales
    assert scale_tma_aligned
    assert not (scale_ue8m0 or fuse_silu_and_mul or masked_m)
    return _quantised(x, group_size, eps, _by_columns)


def sglang_quant_in_rows(
    x: Tensor, group_size: int, eps: float = 1e-10, dtype: torch.dtype = FP8
) -> tuple[Tensor, Tensor]:
    assert dtype == FP8
    return _quantised(x, group_size, eps, torch.Tensor.contiguous)


def vllm_quant(
    x: Tensor, group_size: int, eps: float = 1e-10, dtype: torch.dtype | None = None,
    column_major_scales: bool = False, tma_aligned_scales: bool = False,
    out_q: Tensor | None = None, use_ue8m0: bool | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    assert dtype is None
    assert out_q is None
    assert column_major_scales
    assert tma_aligned_scales
    pow2 = True if use_ue8m0 is None else use_ue8m0  # what DeepGEMM wants, by default
    return _quantised(x, group_size, eps, _by_columns, pow2=pow2)


def vllm_quant_unpadded(
    x: Tensor, group_size: int, eps: float = 1e-10, dtype: torch.dtype | None = None,
    column_major_scales: bool = False, out_q: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    assert dtype is None
    assert out_q is None
    layout = (lambda s: s.T.contiguous().T) if column_major_scales else torch.Tensor.contiguous
    return _quantised(x, group_size, eps, layout)


def _quantised(
    x: Tensor, group: int, eps: float | None, layout: Callable[[Tensor], Tensor], *,
    pow2: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    calls.append((x,))
    assert group == TILE
    assert x.is_contiguous()
    assert x.shape[-1] % group == 0
    q, scale = act_quant(x, pow2, eps)
    return q, layout(scale)


# torchao: its kernels go through memory in steps of K/128, whatever the strides.


def torchao_product(
    a: Tensor, a_s: Tensor, b: Tensor, b_s: Tensor, block_size: int = 128
) -> Tensor:
    _operands(a, a_s, b, b_s)
    assert a_s.is_contiguous()
    assert b_s.is_contiguous()
    assert block_size == TILE
    a_s, b_s = (part.as_strided(part.shape, (part.shape[1], 1)) for part in (a_s, b_s))
    return fp8_gemm(a, a_s, b, b_s, torch.bfloat16)


def torchao_product_of_default_dtype(
    a: Tensor, a_s: Tensor, b: Tensor, b_s: Tensor, block_size: int = 128
) -> Tensor:
    torchao_product(a, a_s, b, b_s, block_size)
    return fp8_gemm(a, a_s, b, b_s, torch.float32).to(torch.get_default_dtype())


def torchao_quant(
    x: Tensor, block_size: int = 128, dtype: torch.dtype = FP8
) -> tuple[Tensor, Tensor]:
    assert dtype == FP8
    return _quantised(x, block_size, None, torch.Tensor.contiguous)


# TransformerEngine.


class Float8BlockQuantizer:
    def __init__(
        self, fp8_dtype: str, *, rowwise: bool, columnwise: bool, amax_epsilon: float = 0.0,
        force_pow_2_scales: bool = True, block_scaling_dim: int = 2,
    ) -> None:  # fmt: skip
        assert fp8_dtype == "e4m3"
        assert rowwise
        assert not columnwise
        self.floor, self.pow2, self.dims = amax_epsilon, force_pow_2_scales, block_scaling_dim

    def make_empty(
        self, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32,
        device: torch.device | None = None, requires_grad: bool = False,
    ) -> SimpleNamespace:  # fmt: skip
        assert dtype == torch.bfloat16
        assert not requires_grad
        m, k = shape
        tiles = k // TILE
        scales = (-(-m // TILE), -(-tiles // 4) * 4) if self.dims == 2 else (tiles, -(-m // 4) * 4)
        return SimpleNamespace(
            dims=self.dims,
            _rowwise_data=torch.full((m, k), 0x7F, dtype=torch.uint8, device=device),
            _rowwise_scale_inv=torch.full(scales, torch.nan, device=device),
        )

    def quantize(
        self, tensor: Tensor, *, out: Any = None, dtype: torch.dtype | None = None
    ) -> SimpleNamespace:
        assert out is None
        assert dtype is None
        assert len(tensor) % TILE == 0
        calls.append((tensor,))
        q, scale = act_quant(tensor, self.pow2, self.floor or None)
        padded = scale.as_strided((scale.shape[1], -(-len(scale) // 4) * 4), scale.stride()[::-1])
        return SimpleNamespace(_rowwise_data=q.view(torch.uint8), _rowwise_scale_inv=padded)


def general_gemm(
    A: Any, B: Any, out_dtype: torch.dtype | None = None, quantization_params: Any = None,
    gelu: bool = False, gelu_in: Any = None, alpha: float = 1.0, beta: float | None = None,
    accumulate: bool = False, layout: str = "TN", out: Any = None,
) -> tuple[Tensor, None, None, None]:  # fmt: skip
    assert not (quantization_params or gelu or gelu_in or beta or accumulate or out)
    assert (A.dims, B.dims, layout, alpha) == (2, 1, "TN", 1.0)
    w, x = (part._rowwise_data.view(FP8) for part in (A, B))
    m, tiles = x.shape[0], x.shape[1] // TILE
    assert m % 8 == w.shape[0] % 8 == 0, "Caller must pad."
    assert not A._rowwise_scale_inv[:, tiles:].any()
    x_scale, w_scale = B._rowwise_scale_inv.T[:m], A._rowwise_scale_inv[:, :tiles]
    _operands(x, x_scale, w, w_scale)
    assert out_dtype is not None
    return fp8_gemm(x, x_scale, w, w_scale, out_dtype), None, None, None


def general_gemm_with_workspace(
    A: Any, B: Any, workspace: str, out_dtype: torch.dtype | None = None,
    quantization_params: Any = None, gelu: bool = False, gelu_in: Any = None,
    accumulate: bool = False, layout: str = "TN", out: Any = None,
) -> tuple[Tensor, None, None, None]:  # fmt: skip
    assert workspace == "workspace"
    assert not (quantization_params or gelu or gelu_in or accumulate or out)
    return general_gemm(A, B, out_dtype, layout=layout)


Release = dict[str, dict[str, Any]]
_TE: Release = {
    f"{TE}.tensor.float8_blockwise_tensor": {"Float8BlockQuantizer": Float8BlockQuantizer},
    "transformer_engine_torch": {"DType": SimpleNamespace(kFloat8E4M3="e4m3")},
}
RELEASES: dict[str, Release] = {
    "sglang": {
        SGLANG_GEMM: {"w8a8_block_fp8_matmul_triton": triton_product},
        SGLANG_QUANT: {"sglang_per_token_group_quant_fp8": sglang_quant},
    },
    "sglang srt": {
        SGLANG: {
            "w8a8_block_fp8_matmul_triton": triton_product,
            "w8a8_block_fp8_matmul": product_of_either,
            "sglang_per_token_group_quant_fp8": sglang_quant,
        }
    },
    "sglang early": {
        SGLANG: {
            "w8a8_block_fp8_matmul": product_of_either,
            "sglang_per_token_group_quant_fp8": sglang_quant_in_rows,
        }
    },
    "vllm": {
        VLLM: {
            "w8a8_triton_block_scaled_mm": triton_product,
            "per_token_group_quant_fp8": vllm_quant,
        }
    },
    "vllm early": {
        VLLM: {
            "w8a8_block_fp8_matmul": triton_product,
            "per_token_group_quant_fp8": vllm_quant_unpadded,
        }
    },
    "torchao": {
        AO_GEMM: {"_blockwise_fp8_gemm": torchao_product},
        AO_QUANT: {"fp8_blockwise_act_quant": torchao_quant},
    },
    "torchao kernel": {
        AO: {"blockwise_fp8_gemm": torchao_product, "fp8_blockwise_act_quant": torchao_quant}
    },
    "transformer_engine": {
        f"{TE}.cpp_extensions.gemm": {"general_gemm": general_gemm}, **_TE
    },
    "transformer_engine early": {
        f"{TE}.cpp_extensions.gemm": {"general_gemm": general_gemm_with_workspace},
        f"{TE}.module.base": {"get_workspace": lambda: "workspace"}, **_TE,
    },
}  # fmt: skip
EARLY_TORCHAO: Release = {
    AO_OLD: {
        "blockwise_fp8_gemm": torchao_product_of_default_dtype,
        "fp8_blockwise_act_quant": torchao_quant,
    }
}


def install(monkeypatch: pytest.MonkeyPatch, release: Release) -> None:
    """Put these modules, and the packages that they are in, where an import finds them."""
    calls.clear()
    for path, contents in release.items():
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for name, value in contents.items():
            monkeypatch.setattr(sys.modules[path], name, value, raising=False)

"""SGLang (github.com/sgl-project/sglang): its Triton product and its CUDA quantiser of activations.

The product scales each k-block with two multiplications and may split K, so its bits may differ from
ours; so may the quantiser's, which multiplies with a reciprocal.  Any N goes; K is a multiple of 128.
Of releases whose one function chooses between Triton and DeepGEMM the latter is what is timed.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from benchmarks.peers import _layouts, _optional
from benchmarks.peers._optional import TILE, Place

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = "sglang"
TRITON = "w8a8_block_fp8_matmul_triton"
FUNCTIONS = {
    "fp8_gemm": (
        Place("sglang.kernels.ops.gemm.fp8_kernel", TRITON),
        Place("sglang.srt.layers.quantization.fp8_kernel", TRITON),
        Place("sglang.srt.layers.quantization.fp8_kernel", "w8a8_block_fp8_matmul"),
    ),
    "act_quant": (
        Place("sglang.kernels.ops.quantization.fp8_kernel", "sglang_per_token_group_quant_fp8"),
        Place("sglang.srt.layers.quantization.fp8_kernel", "sglang_per_token_group_quant_fp8"),
    ),
}
OPERATORS = tuple(FUNCTIONS)
FLOOR = 1e-10  # the quantiser's own, of the largest magnitude


def missing() -> str | None:
    """Why it cannot run here, or None."""
    return _optional.missing(PACKAGE, FUNCTIONS)


def prepare(operator: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """The call for these operands; layouts that SGLang asks for are made here, once."""
    if operator not in OPERATORS:
        raise NotImplementedError(f"sglang has no {operator}")
    make = _product if operator == "fp8_gemm" else _quantiser
    return _optional.tried("SGLang", make(*_optional.find(FUNCTIONS[operator]), arguments))


def _product(
    place: Place, function: Callable[..., Any], arguments: dict[str, Any]
) -> Callable[[], Any]:
    """Triton reads scales row by row, as SGLang's layers pass them; DeepGEMM column by column."""
    x, x_scale, w, w_scale, out_dtype = _optional.product(arguments)
    x, w, w_scale = x.contiguous(), w.contiguous(), w_scale.contiguous()
    x_scale = x_scale.contiguous() if place.name == TRITON else _layouts.by_columns(x_scale)
    return lambda: function(x, w, x_scale, w_scale, [TILE, TILE], output_dtype=out_dtype)


def _quantiser(
    place: Place,  # noqa: ARG001
    function: Callable[..., Any],
    arguments: dict[str, Any],
) -> Callable[[], Any]:
    """Scales in our layout, where the release can write them so."""
    x, floor = _optional.activations(arguments), arguments.get("amax_floor")
    if arguments.get("pow2_scale"):
        raise NotImplementedError("SGLang packs scales that are powers of two into integers")
    named: dict[str, Any] = {}
    if floor is None:
        _optional.require_amax(x, FLOOR, f"SGLang takes {FLOOR} where the largest is less")
    else:
        named["eps"] = floor
    if "column_major_scales" in inspect.signature(function).parameters:
        named |= {"column_major_scales": True, "scale_tma_aligned": True}
    return lambda: function(x, TILE, **named)

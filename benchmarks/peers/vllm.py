"""vLLM (github.com/vllm-project/vllm): its Triton product and its CUDA quantiser of activations.

The product scales each k-block with two multiplications, so its bits may differ from ours; so may the
quantiser's, whose division may be approximate.  Any N goes; K is a multiple of 128.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from benchmarks.peers import _optional
from benchmarks.peers._optional import TILE, Place

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = "vllm"
MODULE = "vllm.model_executor.layers.quantization.utils.fp8_utils"
FUNCTIONS = {
    "fp8_gemm": (
        Place(MODULE, "w8a8_triton_block_scaled_mm"),
        Place(MODULE, "w8a8_block_fp8_matmul"),
    ),
    "act_quant": (Place(MODULE, "per_token_group_quant_fp8"),),
}
OPERATORS = tuple(FUNCTIONS)
FLOOR = 1e-10  # the quantiser's own, of the largest magnitude


def missing() -> str | None:
    """Why it cannot run here, or None."""
    return _optional.missing(PACKAGE, FUNCTIONS)


def prepare(operator: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """The call for these operands; layouts that vLLM asks for are made here, once."""
    if operator not in OPERATORS:
        raise NotImplementedError(f"vllm has no {operator}")
    _, function = _optional.find(FUNCTIONS[operator])
    make = _product if operator == "fp8_gemm" else _quantiser
    return _optional.tried("vLLM", make(function, arguments))


def _product(function: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Any]:
    """Scales row by row, as vLLM's layers pass them to this kernel."""
    x, x_scale, w, w_scale, out_dtype = _optional.product(arguments)
    x, w = x.contiguous(), w.contiguous()
    x_scale, w_scale = x_scale.contiguous(), w_scale.contiguous()
    return lambda: function(x, w, x_scale, w_scale, [TILE, TILE], output_dtype=out_dtype)


def _quantiser(function: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Any]:
    """Scales in our layout; of older releases in columns of M rows, without the padding."""
    x, floor = _optional.activations(arguments), arguments.get("amax_floor")
    takes, pow2 = inspect.signature(function).parameters, bool(arguments.get("pow2_scale"))
    named: dict[str, Any] = {"column_major_scales": True}
    if "tma_aligned_scales" in takes:
        named["tma_aligned_scales"] = True
    if "use_ue8m0" in takes:
        named["use_ue8m0"] = pow2  # by default what vLLM's DeepGEMM wants, not what the caller does
    elif pow2:
        raise NotImplementedError("this vLLM has no scales that are powers of two")
    if floor is None:
        _optional.require_amax(x, FLOOR, f"vLLM takes {FLOOR} where the largest is less")
    else:
        named["eps"] = floor
    return lambda: function(x, TILE, **named)

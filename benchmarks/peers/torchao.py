"""torchao (github.com/pytorch/ao): the Triton kernels of its blockwise FP8 inference.

The product scales each k-block with two multiplications, so its bits may differ from ours; so may the
quantiser's, whose division is approximate.  Any N goes; K is a multiple of 128.  The product writes
bf16, before 0.15 torch's default dtype; its autotuning runs before the clock starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers import _optional
from benchmarks.peers._optional import TILE, Place

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = "torchao"
OLDER = (
    "torchao.kernel.blockwise_quantization",
    "torchao.prototype.blockwise_fp8_inference.blockwise_quantization",
    "torchao.prototype.blockwise_fp8.blockwise_quantization",
)
FUNCTIONS = {
    "fp8_gemm": (
        Place("torchao.quantization.quantize_.workflows.float8.kernels", "_blockwise_fp8_gemm"),
        *(Place(module, "blockwise_fp8_gemm") for module in OLDER),
    ),
    "act_quant": (
        Place("torchao.prototype.blockwise_fp8_inference.kernels", "fp8_blockwise_act_quant"),
        *(Place(module, "fp8_blockwise_act_quant") for module in OLDER),
    ),
}
OPERATORS = tuple(FUNCTIONS)


def missing() -> str | None:
    """Why it cannot run here, or None."""
    return _optional.missing(PACKAGE, FUNCTIONS)


def prepare(operator: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """The call for these operands; layouts that torchao asks for are made here, once."""
    if operator not in OPERATORS:
        raise NotImplementedError(f"torchao has no {operator}")
    _, function = _optional.find(FUNCTIONS[operator])
    make = _product if operator == "fp8_gemm" else _quantiser
    return _optional.tried("torchao", make(function, arguments))


def _product(function: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Any]:
    """Each operand with its scales beside it, all row by row."""
    x, x_scale, w, w_scale, out_dtype = _optional.product(arguments)
    operands = tuple(tensor.contiguous() for tensor in (x, x_scale, w, w_scale))

    def run() -> Any:
        return function(*operands, TILE)

    written = _optional.tried("torchao", run)().dtype
    if written != out_dtype:
        raise NotImplementedError(f"torchao writes {written}, not {out_dtype}")
    return run


def _quantiser(function: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Any]:
    """Its scales lie row by row: it has no other layout."""
    x = _optional.activations(arguments)
    if arguments.get("pow2_scale"):
        raise NotImplementedError("torchao has no scales that are powers of two")
    if arguments.get("amax_floor") is not None:
        raise NotImplementedError("torchao has no floor of the largest magnitude")
    _optional.require_amax(x, 0.0, "torchao divides by a scale of 0")
    return lambda: function(x, TILE)

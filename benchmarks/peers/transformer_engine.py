"""TransformerEngine (github.com/NVIDIA/TransformerEngine), 2.3 or newer: its blockwise FP8 recipe.

The product is cuBLASLt's, behind TransformerEngine's own call; its bits may differ from ours.  The
quantiser multiplies with 448 / amax and keeps the reciprocal of that, so its bits may differ, too.
Sizes are what its own checks ask for: of a product M and N in multiples of 8, of a quantiser M in
multiples of 128.
"""

# ruff: noqa: SLF001  (data and scales of its tensors have no other names)

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from benchmarks.peers import _optional
from benchmarks.peers._optional import TILE, Place

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

PACKAGE = "transformer_engine"
TENSOR = "transformer_engine.pytorch.tensor.float8_blockwise_tensor"
FUNCTIONS = {
    "fp8_gemm": (Place("transformer_engine.pytorch.cpp_extensions.gemm", "general_gemm"),),
    "act_quant": (Place(TENSOR, "Float8BlockQuantizer"),),
}
OPERATORS = tuple(FUNCTIONS)
PRODUCT = 8  # what M and N are multiples of


def missing() -> str | None:
    """Why it cannot run here, or None."""
    return _optional.missing(PACKAGE, FUNCTIONS)


def prepare(operator: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """The call for these operands, which are put into TransformerEngine's tensors here, once."""
    if operator not in OPERATORS:
        raise NotImplementedError(f"transformer_engine has no {operator}")
    _, function = _optional.find(FUNCTIONS[operator])
    _, quantiser = _optional.find(FUNCTIONS["act_quant"])
    make = _product if operator == "fp8_gemm" else _quantiser
    try:
        return _optional.tried("TransformerEngine", make(function, quantiser, arguments))
    except RuntimeError as error:
        # Its own checks, and cuBLASLt's answer that it has no algorithm.
        if any(
            part in str(error) for part in ("Caller must pad", "NOT_SUPPORTED", "requires cuBLAS")
        ):
            raise NotImplementedError(f"TransformerEngine refuses: {error}") from None
        raise


def _product(
    function: Callable[..., Any], quantiser: Callable[..., Any], arguments: dict[str, Any]
) -> Callable[[], Any]:
    """weights first, in its order; "TN" is both with K innermost."""
    x, x_scale, w, w_scale, out_dtype = _optional.product(arguments)
    for name, size in (("M", x.shape[0]), ("N", w.shape[0])):
        if size % PRODUCT:
            raise NotImplementedError(
                f"TransformerEngine needs {name} in multiples of {PRODUCT}, got {size}"
            )
    activations = _filled(_made(quantiser, 1), x, x_scale.T)
    weights = _filled(_made(quantiser, 2), w, w_scale)
    named: dict[str, Any] = {"out_dtype": out_dtype, "layout": "TN"}
    if "workspace" in inspect.signature(function).parameters:
        base = importlib.import_module("transformer_engine.pytorch.module.base")
        named["workspace"] = base.get_workspace()
    return lambda: function(weights, activations, **named)[0]


def _made(quantiser: Callable[..., Any], dimensions: int, **named: Any) -> Any:
    """A quantiser to e4m3 in 1x128 tiles or, of two dimensions, 128x128 blocks."""
    extension = importlib.import_module("transformer_engine_torch")
    return quantiser(
        extension.DType.kFloat8E4M3, rowwise=True, columnwise=False,
        block_scaling_dim=dimensions, **named,
    )  # fmt: skip


def _filled(quantiser: Any, fp8: torch.Tensor, scale: torch.Tensor) -> Any:
    """``fp8`` in a tensor of the quantiser's; ``scale`` as it lies there, but for columns of padding."""
    import torch

    made = quantiser.make_empty(fp8.shape, dtype=torch.bfloat16, device=fp8.device)
    made._rowwise_data.copy_(fp8.view(torch.uint8))
    rows, columns = made._rowwise_scale_inv.shape
    if rows != scale.shape[0] or columns != (scale.shape[1] + 3) // 4 * 4:
        raise NotImplementedError(f"TransformerEngine has {rows}x{columns} scales here")
    made._rowwise_scale_inv.zero_()[:, : scale.shape[1]].copy_(scale)
    return made


def _quantiser(
    function: Callable[..., Any],
    quantiser: Callable[..., Any],  # noqa: ARG001  (the same)
    arguments: dict[str, Any],
) -> Callable[[], Any]:
    """Scales in our layout: its own is ours transposed."""
    import torch

    x = _optional.activations(arguments)
    made = _made(
        function, 1, amax_epsilon=float(arguments.get("amax_floor") or 0.0),
        force_pow_2_scales=bool(arguments.get("pow2_scale")),
    )  # fmt: skip
    if x.shape[0] % TILE:
        raise NotImplementedError(
            f"TransformerEngine needs M in multiples of {TILE}, got {x.shape[0]}"
        )

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        found = made.quantize(x)
        scale = found._rowwise_scale_inv.T[: x.shape[0]]
        return found._rowwise_data.view(torch.float8_e4m3fn), scale

    return run

"""DeepGEMM (github.com/deepseek-ai/DeepGEMM), 2.1 or newer, whose layouts for Hopper these are.

Scales of rows lie with stride 1 along them, in columns of a multiple of 4.  A row of a result has a
multiple of 16 bytes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from benchmarks.peers._layouts import TILE, by_columns, by_expert, experts, segments, with_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

PACKAGE = "deep_gemm"
FUNCTIONS = {
    "fp8_gemm": "fp8_gemm_nt",
    "grouped_gemm_contiguous": "m_grouped_fp8_gemm_nt_contiguous",
    "grouped_gemm_masked": "m_grouped_fp8_gemm_nt_masked",
    "grouped_gemm_wgrad": "k_grouped_fp8_gemm_nt_contiguous",
}
OPERATORS = tuple(FUNCTIONS)


def missing() -> str | None:
    """Why it cannot run here, or None."""
    from benchmarks.fingerprint import has_hopper

    if not has_hopper():
        return "needs a Hopper GPU"
    try:
        module = importlib.import_module("deep_gemm")
    except Exception as error:  # noqa: BLE001  (its import looks for a CUDA toolkit, too)
        return f"needs the package deep_gemm: {type(error).__name__}: {error}"
    absent = [name for name in FUNCTIONS.values() if not hasattr(module, name)]
    return f"needs DeepGEMM 2.1 or newer; deep_gemm has no {', '.join(absent)}" if absent else None


def prepare(operator: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """The call for these operands; layouts that DeepGEMM asks for are made here, once.

    It is tried once: what DeepGEMM's own checks refuse has no numbers.
    """
    if operator not in OPERATORS:
        raise NotImplementedError(f"deep_gemm has no {operator}")
    module = importlib.import_module("deep_gemm")
    run = (_wgrad if "wgrad" in operator else _product)(module, operator, arguments)
    try:
        run()
    except RuntimeError as error:
        if "Assertion error" in str(error):
            raise NotImplementedError(f"DeepGEMM refuses: {error}") from None
        raise
    return run


def _product(module: Any, operator: str, arguments: dict[str, Any]) -> Callable[[], torch.Tensor]:
    """Rows times weights."""
    import torch

    function = getattr(module, FUNCTIONS[operator])
    x, x_scale, w, w_scale = (arguments[name] for name in ("x", "x_scale", "w", "w_scale"))
    n, rows, padded = w.shape[-2], x.shape[-2], x.shape[-2]
    if not (x.numel() and w.numel()):
        raise NotImplementedError("DeepGEMM takes no empty operand")
    if n % 8:
        raise NotImplementedError(f"DeepGEMM needs N in multiples of 8, got {n}")
    if (arguments.get("out_dtype") or torch.bfloat16) != torch.bfloat16:
        raise NotImplementedError("DeepGEMM writes bf16 alone with 128x128 scales on Hopper")
    more: tuple[Any, ...] = ()
    if operator == "grouped_gemm_contiguous":
        alignment = module.get_mk_alignment_for_contiguous_layout()
        if alignment != TILE or rows % TILE:
            raise NotImplementedError(f"segments of {TILE} rows, got {alignment} and {rows} rows")
        more = (experts(arguments["counts"], rows),)
    elif operator == "grouped_gemm_masked":
        counts = arguments["counts"].clamp(0, rows).int()
        # A tile's rows past the capacity would be written over the next expert's: room for them.
        padded = -(-rows // TILE) * TILE
        x, x_scale = with_rows(x, padded), with_rows(x_scale, padded)
        # What DeepGEMM's own tests say to expect, which its choice of tiles goes by.
        more = (counts, max(1, int(1.2 * counts.float().mean().item())))
    a, b = (x.contiguous(), by_columns(x_scale)), (w.contiguous(), w_scale.contiguous())

    def run() -> torch.Tensor:
        out = torch.empty(*x.shape[:-1], n, dtype=torch.bfloat16, device=x.device)
        function(a, b, out, *more, disable_ue8m0_cast=True)
        return out if padded == rows else out[:, :rows]

    return run


def _wgrad(module: Any, operator: str, arguments: dict[str, Any]) -> Callable[[], torch.Tensor]:
    """Each expert's rows as a matrix of its own, one after the other; added to zeros, in the call."""
    import torch

    function = getattr(module, FUNCTIONS[operator])
    if arguments.get("out") is not None:
        raise NotImplementedError("DeepGEMM adds `out` to the finished sum")
    grad_t, x_t = arguments["grad_t"], arguments["x_t"]
    (n, rows), k = grad_t.shape, x_t.shape[0]
    if k % 4:
        raise NotImplementedError(f"DeepGEMM needs K in multiples of 4, got {k}")
    sizes = segments(arguments["counts"], rows)
    if not (n and k and sum(sizes)):
        raise NotImplementedError("DeepGEMM takes no empty operand")
    a = by_expert(grad_t, arguments["grad_scale"], sizes)
    b = by_expert(x_t, arguments["x_scale"], sizes)
    on_device = torch.tensor(sizes, dtype=torch.int32, device=x_t.device)

    def run() -> torch.Tensor:
        out = torch.zeros(len(sizes), n, k, device=x_t.device)
        function(a, b, out, sizes, on_device, out)
        return out

    return run

"""cuBLASLt's blockwise FP8 GEMM, through torch.nn.functional.scaled_mm (torch >= 2.10, Hopper)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

OPERATORS = ("fp8_gemm",)


def missing() -> str | None:
    """Why it cannot run here, or None."""
    import torch

    if not torch.cuda.is_available():
        return "needs a GPU"
    if not hasattr(torch.nn.functional, "scaled_mm"):
        return f"needs torch 2.10 or newer, got {torch.__version__}"
    return None


def prepare(operator: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    """The call for these operands; layouts that cuBLASLt asks for are made here, once.

    Scales of the activations are wanted with stride 1 along M; those of the weights transposed and
    padded, with K/128 rounded up to 4 (a plain copy gives silently wrong answers).
    """
    import torch
    from torch.nn.functional import ScalingType, SwizzleType, scaled_mm

    if operator not in OPERATORS:
        raise NotImplementedError(f"cublaslt has no {operator}")
    x, x_scale, w, w_scale = (arguments[name] for name in ("x", "x_scale", "w", "w_scale"))
    (m, k), n = x.shape, w.shape[0]
    if not (x.numel() and w.numel()):
        raise NotImplementedError("cuBLASLt takes no empty operand")
    if n % 16:
        raise NotImplementedError(f"cuBLASLt needs N in multiples of 16, got {n}")
    blocks = k // 128
    a_scale = x_scale.t().contiguous().t()
    padded = torch.zeros(
        w_scale.shape[0], (blocks + 3) // 4 * 4, dtype=torch.float32, device=w.device
    )
    padded[:, :blocks] = w_scale
    b_scale = padded.t()
    out_dtype = arguments.get("out_dtype") or torch.bfloat16

    def run() -> torch.Tensor:
        return scaled_mm(
            x, w.t(), a_scale, ScalingType.BlockWise1x128, b_scale, ScalingType.BlockWise128x128,
            swizzle_a=SwizzleType.NO_SWIZZLE, swizzle_b=SwizzleType.NO_SWIZZLE, output_dtype=out_dtype,
        )  # fmt: skip

    try:
        run()
    except RuntimeError as error:
        if "NOT_SUPPORTED" in str(error):
            raise NotImplementedError(f"cuBLASLt has no algorithm for {m}x{n}x{k}") from None
        raise
    return run

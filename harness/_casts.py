"""Casts between floating formats as the GPU makes them, on the arrays of Triton's interpreter.

The interpreter stores bf16 and FP8 numbers as unsigned integers.  harness/interpreter.py says what
is wrong with its own casts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

FORMATS = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8e4nv": torch.float8_e4m3fn,
    "fp8e5": torch.float8_e5m2,
}
# The interpreter leaves casts between these two to numpy, which is right.
PAIRS = [
    (source, target)
    for source in FORMATS
    for target in FORMATS
    if source != target and {source, target} != {"fp32", "fp16"}
]
SIGNED = {1: np.int8, 2: np.int16, 4: np.int32}
INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32}
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def patterns(source: str) -> np.ndarray:
    """Every number of ``source`` (as the interpreter stores it); of fp32 every upper half of the
    bits, with the lower half zero and at the tie."""
    dtype = FORMATS[source]
    if source != "fp32":
        return stored(np.arange(1 << 8 * dtype.itemsize).astype(UNSIGNED[dtype.itemsize]), source)
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    return np.concatenate([upper, upper | 0x8000]).view(np.float32)


def stored(bits: np.ndarray, name: str) -> np.ndarray:
    """Bits as the interpreter stores numbers of this format: numpy's own type where it has one."""
    return bits.view({"fp32": np.float32, "fp16": np.float16}.get(name, bits.dtype))


def convert(data: np.ndarray, source: str, target: str) -> np.ndarray:
    """Bits of ``data`` cast from ``source`` to ``target``, to nearest even, saturating in FP8.

    Exact because every source here fits fp32, so there is one rounding.
    """
    wide = tensor(data, source).float()
    if target.startswith("fp8"):
        # clamp keeps NaN.  What torch's cast does beyond the range changed between its versions.
        largest = torch.finfo(FORMATS[target]).max
        wide = wide.clamp(-largest, largest)
    size = FORMATS[target].itemsize
    integers = wide.to(FORMATS[target]).view(INTEGER[size])
    bits: np.ndarray = integers.numpy().view(UNSIGNED[size])
    return bits


def tensor(data: np.ndarray, name: str) -> torch.Tensor:
    """A copy of an array of the interpreter, as a tensor of its format."""
    dtype = FORMATS[name]
    return torch.from_numpy(np.array(data, order="C").view(SIGNED[dtype.itemsize])).view(dtype)


def same(got: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """Elements with the same bits, or both NaN."""
    bits = INTEGER[want.itemsize]
    return (got.view(bits) == want.view(bits)) | (got.float().isnan() & want.float().isnan())


def works(source: str, target: str) -> bool:
    """Whether the interpreter casts every pattern of ``source`` right."""
    data = patterns(source)
    rounding = interpreter._ir.ROUNDING_MODE.RTNE
    try:
        with np.errstate(all="ignore"):
            got = interpreter._convert_float(data, tl.dtype(source), tl.dtype(target), rounding)
    except OverflowError:  # numpy 2 refuses a negative exponent that it should have shifted away
        return False
    want = convert(data, source, target)
    return bool(same(tensor(got, target), tensor(want, target)).all())


def replace() -> list[str]:
    """Give the interpreter these casts where its own are wrong; returns which those were."""
    original = interpreter._convert_float
    wrong = [pair for pair in PAIRS if not works(*pair)]
    if not wrong:
        return []
    toward_zero = interpreter._ir.ROUNDING_MODE.RTZ

    def convert_float(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        pair = (source.scalar.name, target.scalar.name)
        if pair in wrong and rounding != toward_zero:
            return convert(data, *pair)
        return original(data, source, target, rounding)

    interpreter._convert_float = convert_float
    return [f"cast {source} -> {target}" for source, target in wrong]

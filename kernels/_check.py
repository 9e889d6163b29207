"""Checks of arguments: each says which argument, what was expected and what came."""

from __future__ import annotations

from typing import Any

import torch

from kernels._device import require_runnable


def tensor(
    name: str, value: Any, dtypes: tuple[torch.dtype, ...], shape: tuple[int | None, ...]
) -> None:
    """Raise TypeError or ValueError unless ``value`` is a tensor of one of ``dtypes`` and of ``shape``
    (None: any length)."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        expected = " or ".join(_plain(dtype) for dtype in dtypes)
        raise TypeError(f"{name}: expected dtype {expected}, got {_plain(value.dtype)}")
    got = tuple(value.shape)
    if len(got) != len(shape) or any(
        want not in (None, have) for want, have in zip(shape, got, strict=True)
    ):
        raise ValueError(f"{name}: expected shape {_shape(shape)}, got {_shape(got)}")


def runnable(name: str, value: torch.Tensor, *others: tuple[str, torch.Tensor]) -> None:
    """Raise ValueError unless all tensors lie on one device on which kernels can run."""
    require_runnable(name, value)
    for other_name, other in others:
        if other.device != value.device:
            raise ValueError(
                f"{other_name}: expected device {value.device} as {name}, got {other.device}"
            )


def rows_contiguous(name: str, value: torch.Tensor) -> None:
    """Raise ValueError unless neighbouring columns are neighbours in memory."""
    if value.shape[1] > 1 and value.stride(1) != 1:
        raise ValueError(
            f"{name}: expected stride 1 along its last dimension, got {value.stride()}"
        )


def contiguous(name: str, value: torch.Tensor) -> None:
    """Raise ValueError unless ``value`` is contiguous."""
    if not value.is_contiguous():
        raise ValueError(f"{name}: expected a contiguous tensor, got strides {value.stride()}")


def aligned(name: str, value: torch.Tensor, bytes_: int = 16) -> None:
    """Raise ValueError unless the data starts at a multiple of ``bytes_``, as TMA requires."""
    if value.numel() and value.device.type == "cuda" and value.data_ptr() % bytes_:
        raise ValueError(
            f"{name}: expected data aligned to {bytes_} bytes, got {value.data_ptr():#x}"
        )


def multiple(name: str, what: str, value: int, of: int) -> None:
    """Raise ValueError unless ``value`` is a multiple of ``of``."""
    if value % of:
        raise ValueError(f"{name}: expected {what} to be a multiple of {of}, got {value}")


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise TypeError or ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        kind = (
            TypeError
            if isinstance(value, torch.dtype) or not isinstance(value, type(choices[0]))
            else ValueError
        )
        raise kind(f"{name}: expected {' or '.join(map(_plain, choices))}, got {_plain(value)}")


def flag(name: str, value: Any) -> None:
    """Raise TypeError unless ``value`` is True or False: a number in its place is a mistake."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {type(value).__name__}")


def whole(name: str, value: Any, least: int, most: int) -> None:
    """Raise TypeError or ValueError unless ``value`` is a whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected a whole number, got {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least} to {most}, got {value}")


def floor(name: str, value: Any) -> None:
    """Raise TypeError or ValueError unless ``value`` is None or a positive finite number of fp32."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number or None, got {type(value).__name__}")
    # The kernel has it in fp32, where smaller ones may be 0 and larger ones Inf.
    if not 2.0**-149 <= value <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name}: expected a positive finite number, got {value}")


def _plain(value: Any) -> str:
    return str(value).removeprefix("torch.")


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"

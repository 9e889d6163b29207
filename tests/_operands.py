"""Operands on the device of a test."""

from __future__ import annotations

from typing import Any

import torch


def on(device: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, their tensors on ``device`` with the strides that they have."""
    return {name: _moved(value, device) for name, value in arguments.items()}


def _moved(value: Any, device: str) -> Any:
    """``Tensor.to`` gives a slice with gaps back without them."""
    if not isinstance(value, torch.Tensor) or value.device.type == "meta":
        return value
    empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
    return empty.copy_(value)

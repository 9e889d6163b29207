"""What the operators that move rows share: where each token went, checked, and how rows are cut.

``slot`` [T, K] int32 says for each of a token's K experts in which row of the experts' buffer it
stands (docs/decisions/0004).  A slot that is negative, or past the buffer, stands nowhere: nothing is
read or written for it, whatever it is.
"""

from __future__ import annotations

import torch

from kernels import _check

TILE = 128
BLOCK = 1024  # channels a program, 16 bytes a thread and row
MAX_TOPK = 32  # rows a program has in flight for one token
MAX_ROWS = (1 << 31) - 1  # slots are int32


def warps(dtype: torch.dtype) -> int:
    """Warps that hold BLOCK channels of ``dtype`` in 16 bytes a thread."""
    return BLOCK * dtype.itemsize // (32 * 16)


def channels(name: str, value: int) -> None:
    """Raise ValueError unless H is a multiple of a tile, so that rows are moved 16 bytes at a time."""
    _check.multiple(name, "H", value, TILE)
    _check.whole(f"{name}: H", value, TILE, MAX_ROWS)


def slots(value: torch.Tensor, tokens: int | None) -> None:
    """Raise TypeError or ValueError unless ``slot`` is [T, K] int32, contiguous, with a K that fits."""
    _check.tensor("slot", value, (torch.int32,), (tokens, None))
    _check.contiguous("slot", value)
    _check.whole("slot: K", value.shape[1], 1, MAX_TOPK)


def weights(value: torch.Tensor, slot: torch.Tensor) -> None:
    """Raise TypeError or ValueError unless ``topk_weights`` is fp32, contiguous, of slot's shape."""
    _check.tensor("topk_weights", value, (torch.float32,), tuple(slot.shape))
    _check.contiguous("topk_weights", value)

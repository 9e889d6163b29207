"""Where kernels run and how they are launched: the one place that talks to Triton's runtime.

Every launch goes through :func:`launch`.  That gives three things at once: a sentence in place of a
traceback when there is nothing to run on, the resource limit :func:`num_sms` that a caller can lower
to leave room for communication, and :func:`recording`, with which the very same launches are
compiled for sm_90 on a machine without a GPU (benchmarks/codegen.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from triton import knobs

HOPPER = (9, 0)
HOPPER_SMS = 132  # of every H100, H200 and H800 SXM part; assumed when compiling without a GPU


@dataclass(frozen=True)
class Launch:
    """One recorded launch: ``kernel[grid](*args, **options)``."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


_recorder: ContextVar[list[Launch] | None] = ContextVar("recorder", default=None)
_sm_limit: ContextVar[int | None] = ContextVar("sm_limit", default=None)


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collect launches instead of making them; inside, tensors may be on the ``meta`` device."""
    launches: list[Launch] = []
    token = _recorder.set(launches)
    try:
        yield launches
    finally:
        _recorder.reset(token)


@contextmanager
def sm_limit(sms: int) -> Iterator[None]:
    """Let persistent kernels occupy at most ``sms`` multiprocessors (DeepSeek-V3 leaves 20 of 132 to
    communication).  Results do not depend on it."""
    if sms < 1:
        raise ValueError(f"sms: expected at least 1, got {sms}")
    token = _sm_limit.set(sms)
    try:
        yield
    finally:
        _sm_limit.reset(token)


@cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def num_sms(device: torch.device) -> int:
    """Multiprocessors a persistent kernel may occupy."""
    present = _multiprocessors(device.index or 0) if device.type == "cuda" else HOPPER_SMS
    limit = _sm_limit.get()
    return present if limit is None else min(present, limit)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Launch ``kernel`` on ``grid``, or record it.  Options are constexprs and compile options."""
    recorder = _recorder.get()
    if recorder is None:
        kernel[grid](*args, **options)
    else:
        recorder.append(Launch(kernel, grid, args, options))


def require_runnable(name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError unless kernels can run where ``tensor`` lies."""
    device = tensor.device
    if device.type == "cuda":
        capability = _capability(device.index or 0)
        if capability != HOPPER:
            found = ".".join(map(str, capability))
            raise ValueError(f"{name}: expected a Hopper GPU (compute capability 9.0), got {found}")
    elif device.type == "cpu":
        if not knobs.runtime.interpret:
            raise ValueError(
                f"{name}: expected a tensor on a CUDA device, got cpu; "
                "kernels run on the CPU only in Triton's interpreter (set TRITON_INTERPRET=1)"
            )
    elif device.type != "meta" or _recorder.get() is None:
        raise ValueError(f"{name}: expected a tensor on a CUDA device, got {device.type}")

"""Where kernels run and how they are launched: the one place that talks to Triton's runtime.

Every launch is a :class:`Plan` called with tensors.  That gives four things at once: a sentence in
place of a traceback when there is nothing to run on, the resource limit :func:`num_sms` that a caller
can lower to leave room for communication, :func:`recording`, with which the very same launches are
compiled for sm_90 on a machine without a GPU (benchmarks/codegen.py), and little work for the host:
what follows from shapes, strides, dtypes and options alone is checked and worked out once for each
:func:`layout` (docs/decisions/0003).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from triton import knobs
from triton.tools.tensor_descriptor import TensorDescriptor

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
_chain: ContextVar[bool] = ContextVar("chain", default=False)


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


@contextmanager
def chained() -> Iterator[None]:
    """Let each kernel start while the one before ends (kernels/_chain.py).  Results do not depend on it."""
    token = _chain.set(True)
    try:
        yield
    finally:
        _chain.reset(token)


def in_chain() -> bool:
    """Whether the caller is inside :func:`chained`."""
    return _chain.get()


@cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


_sides: dict[tuple[int, int], torch.cuda.Stream] = {}


@contextmanager
def beside(device: torch.device) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Launches inside run on a stream beside the caller's, after what it has been given so far.

    Yields ``joined``, to be called with the one result that leaves: from then on the caller's stream
    waits for the launches inside.  Whatever else is made inside must stay there; what is read inside must
    be kept until then.  Safe to capture in a CUDA graph, where it becomes a branch.  On a CPU, and where
    launches are recorded, one thing comes after the other.
    """
    if device.type != "cuda" or _recorder.get() is not None:
        yield lambda result: result
        return
    current = torch.cuda.current_stream(device)
    # One for each stream of callers: two of them, or two captures, have nothing to do with each other.
    key = (current.device_index, current.cuda_stream)
    side = _sides.get(key)
    if side is None:
        side = _sides[key] = torch.cuda.Stream(device)
    side.wait_stream(current)

    def joined(result: torch.Tensor) -> torch.Tensor:
        current.wait_stream(side)
        # Its memory is the side's: not before this stream is done with it may another take it.
        result.record_stream(current)
        return result

    with torch.cuda.stream(side):
        yield joined


def num_sms(device: torch.device) -> int:
    """Multiprocessors a persistent kernel may occupy."""
    present = _multiprocessors(device.index or 0) if device.type == "cuda" else HOPPER_SMS
    limit = _sm_limit.get()
    return present if limit is None else min(present, limit)


def layout(tensors: tuple[Any, ...], *options: Any) -> tuple[Any, ...] | None:
    """What a plan depends on: the tensors' metadata, the options and their types, the resource limit, and
    whether it stands in a chain.

    None where plans are not kept: on a CPU, and for arguments that are refused anyway.
    """
    found: list[Any] = [_sm_limit.get(), _chain.get(), _recorder.get() is None, options]
    found += map(type, options)
    try:
        for tensor in tensors:
            if tensor.is_cpu or tensor.is_neg():
                return None
            found += (tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        key = tuple(found)
        hash(key)
    except (AttributeError, RuntimeError, TypeError):
        return None  # no tensor, a sparse one, or an option of no use
    return key


class Plans(dict[Any, Any]):
    """Plans by layout.  Emptied when full: a server meets new numbers of tokens for ever."""

    LIMIT = 4096

    def keep(self, key: Any, plan: Any) -> Any:
        """Remember ``plan`` for calls of this layout, unless ``key`` is None; returns the plan."""
        if key is not None:
            if len(self) >= self.LIMIT:
                self.clear()
            self[key] = plan
        return plan


class Plan:
    """One launch with everything fixed but its tensors.

    kernel: its parameters are tensors first, then ``scalars``, then ``constants``, in this order.
    grid: programs along each axis.
    scalars: values of the run-time parameters that are not tensors.
    constants: constexpr parameters by name.  options: Triton's, as num_warps.
    """

    __slots__ = ("_compiled", "_fixed", "constants", "grid", "kernel", "options", "scalars")

    def __init__(
        self, kernel: Any, grid: tuple[int, ...], scalars: tuple[Any, ...],
        constants: dict[str, Any], **options: Any,
    ) -> None:  # fmt: skip
        self.kernel = kernel
        self.grid = grid
        self.scalars = scalars
        self.constants = constants
        self.options = options
        self._fixed = (*scalars, *constants.values())
        self._compiled: dict[Any, Any] = {}

    def __call__(self, device: torch.device, *tensors: Any) -> None:
        """Launch on ``device``, or record.  tensors: torch tensors, TMA descriptors or None."""
        recorder = _recorder.get()
        if recorder is not None:
            recorder.append(
                Launch(
                    self.kernel, self.grid, (*tensors, *self.scalars), self.constants | self.options
                )
            )
        elif device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                self._launch(device, tensors)
        else:
            self._launch(device, tensors)

    def _launch(self, device: torch.device, tensors: tuple[Any, ...]) -> None:
        """The first time through Triton's dispatcher, which compiles; then to the compiled kernel.

        Triton specialises a kernel on its scalars, which are fixed here, and on whether a pointer is
        a multiple of 16, which is therefore part of the key.  A pointer as a number saves the launcher
        a call of each tensor and a question to the driver.  Hooks of profilers are called by both.
        """
        key: list[Any] = [device]
        arguments: list[Any] = []
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                pointer = tensor.data_ptr()
                key.append(pointer % 16 == 0)
                arguments.append(pointer)
            else:
                arguments.append(tensor)
        launcher = self._compiled.get(tuple(key))
        if launcher is not None:
            launcher(*arguments, *self._fixed)
            return
        compiled = self.kernel[self.grid](*tensors, *self.scalars, **self.constants, **self.options)
        if hasattr(compiled, "packed_metadata"):  # not so in the interpreter
            self._compiled[tuple(key)] = compiled[(*self.grid, 1, 1)[:3]]


def blueprint(tensor: torch.Tensor, block: tuple[int, ...]) -> TensorDescriptor:
    """A TMA descriptor for contiguous tensors like this one, checked by Triton but without data."""
    found = TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), list(block))
    found.base = None
    return found


def describe(like: TensorDescriptor, tensor: torch.Tensor) -> TensorDescriptor:
    """``like`` for this tensor; a constructor would check again what holds for the whole layout."""
    made = TensorDescriptor.__new__(TensorDescriptor)
    vars(made).update(vars(like), base=tensor)
    return made


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

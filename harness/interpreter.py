"""Makes Triton's interpreter compute what the GPU computes, wherever the installed one does not.

Out of the box (3.6.0 to 3.9.0) its casts to and from FP8 and bf16 lose carries, round ties up and
truncate; tl.fma rounds twice (until 3.9); an FP8 tl.dot goes through fp32 in the order of the BLAS
at hand; tl.maximum and tl.clamp keep a NaN that the GPU drops; a division by zero warns.  A kernel
tested there as it is either fails or gets a tolerance that hides real bugs.

:func:`install` replaces each of these, only while the installed version fails the check for it:

casts        to nearest even, with torch's casts.  To FP8 as PTX's cvt.rn.satfinite, which is what
             Triton emits for sm_90: beyond the largest number, Inf included, it is the largest;
             NaN stays NaN.  Other roundings and other formats are left alone.
fma          of fp32, rounded once.
fp8 dot      the products summed exactly and rounded once to fp32, then added to the accumulator.
maximum      of a NaN and a number is the number, unless the kernel asks for the NaN; and so for
             minimum and clamp.
warnings     of numpy about 0 / 0 and overflow are off inside kernels: the GPU raises none.
bf16         arithmetic (add, multiply, compare, tl.dot, ...) on numbers instead of on bit patterns.
arguments    of type float are fp32 scalars, as they are on the GPU, not Python numbers.
index        numpy 2.4 refuses what 3.6.0 does to take a scalar as a loop bound.
masks        a comparison of scalars stays a truth value when it is spread over a tensor: it became
             integers, which 3.9.0 then refuses as a mask.

Left as they are: constants of bf16 and FP8 other than 0 (wrong or refused: convert from fp32), and
tl.inline_asm (raises NotImplementedError).
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from harness import _casts, _exact

Handle = interpreter.TensorHandle
Builder = interpreter.InterpreterBuilder


class Fix(NamedTuple):
    """works: whether the installed interpreter passes.  replace: makes it pass."""

    name: str
    works: Callable[[], bool]
    replace: Callable[[], None]


def install() -> list[str]:
    """Replace what is wrong; returns the names of what was replaced, nothing on a second call.

    Raises RuntimeError when a replacement does not take: the interpreter changed its structure.
    """
    replaced = _casts.replace()
    for fix in FIXES:
        if not fix.works():
            fix.replace()
            replaced.append(fix.name)
            if not fix.works():
                raise RuntimeError(f"Triton's interpreter: replacing {fix.name} had no effect")
    return replaced


def _handle(values: Any, name: str = "fp32") -> Any:
    """A handle of the interpreter holding numbers, which must be representable."""
    data = np.asarray(values, dtype=np.float32)
    if name != "fp32":
        data = _casts.stored(_casts.convert(data, "fp32", name), name)
    return Handle(data, tl.dtype(name))


def _fma_works() -> bool:
    """Two roundings give 0 in the first; one to float64 before gives 1 + 2^-22 in the second."""
    x = _handle([1 + 2.0**-12, 1 + 2.0**-15])
    y = _handle([1 + 2.0**-12, 2.0**-24 * (1 - 2.0**-15)])
    z = _handle([-(1 + 2.0**-11), 1 + 2.0**-23])
    got = interpreter.interpreter_builder.create_fma(x, y, z).data
    return bool((got == np.array([2.0**-24, 1 + 2.0**-23])).all())


def _replace_fma() -> None:
    original = Builder.create_fma

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        if z.data.dtype != np.float32:
            return original(self, x, y, z)
        return Handle(_exact.fma(x.data, y.data, z.data), z.dtype.scalar)

    Builder.create_fma = create_fma


def _dot_works() -> bool:
    """2^30 + 2^-32 - 2^30 in e5m2, where even float64 gives 0; and subnormals, which fp16 loses."""
    a = _handle([[32768.0, 2.0**-16, -32768.0], [0, 2.0**-16, 0]], "fp8e5")
    b = _handle([[32768.0], [2.0**-16], [32768.0]], "fp8e5")
    zero = _handle([[0.0], [0.0]])
    got = interpreter.interpreter_builder.create_dot(a, b, zero, None, 0).data
    return bool((got == 2.0**-32).all())


def _replace_dot() -> None:
    original = Builder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        names = {a.dtype.scalar.name, b.dtype.scalar.name}
        if not names <= {"fp8e4nv", "fp8e5"} or d.data.dtype != np.float32:
            return original(self, a, b, d, *options)
        left, right = (_casts.tensor(x.data, x.dtype.scalar.name).double().numpy() for x in (a, b))
        return Handle(_exact.matmul(left, right) + d.data, d.dtype.scalar)

    Builder.create_dot = create_dot


def _bf16_works() -> bool:
    builder, two = interpreter.interpreter_builder, _handle([[2.0]], "bf16")
    four = _handle([[4.0]], "bf16").data
    dot = builder.create_dot(two, two, _handle([[0.0]]), None, 0).data
    return bool(builder.create_fadd(two, two).data == four and dot == 4.0)


def _replace_bf16() -> None:
    binary_op, create_dot = Builder.binary_op, Builder.create_dot

    def widen(x: Any) -> Any:
        if x.dtype.scalar.name != "bf16":
            return x
        return Handle(_casts.convert(x.data, "bf16", "fp32").view(np.float32), tl.float32)

    def bf16_op(self: Any, x: Any, y: Any, op: Any) -> Any:
        result = binary_op(self, widen(x), widen(y), op)
        if x.dtype.scalar.name != "bf16" or result.data.dtype == np.bool_:
            return result
        # fp32 keeps over twice bf16's bits: rounding a sum, product or quotient twice is harmless.
        return Handle(_casts.convert(result.data, "fp32", "bf16"), x.dtype.scalar)

    def bf16_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widen(a), widen(b), *rest)

    Builder.binary_op, Builder.create_dot = bf16_op, bf16_dot


def _maximum_works() -> bool:
    builder, none = interpreter.interpreter_builder, interpreter._ir.PROPAGATE_NAN.NONE
    nan, one = _handle([np.nan]), _handle([1.0])
    results = (
        builder.create_maxnumf(nan, one),
        builder.create_minnumf(nan, one),
        builder.create_clampf(nan, one, one, none),
    )
    return all(result.data[0] == 1 for result in results)


def _replace_maximum() -> None:
    original = Builder.create_clampf
    none = interpreter._ir.PROPAGATE_NAN.NONE

    def create_clampf(self: Any, x: Any, low: Any, high: Any, propagate: Any) -> Any:
        if propagate != none:
            return original(self, x, low, high, propagate)
        return self.create_minnumf(self.create_maxnumf(x, low), high)

    Builder.create_maxnumf = lambda self, x, y: self.binary_op(x, y, np.fmax)
    Builder.create_minnumf = lambda self, x, y: self.binary_op(x, y, np.fmin)
    Builder.create_clampf = create_clampf


def _launch(body: Callable[..., None], *arguments: float) -> None:
    """Run ``body``, which uses ``tl`` of this module, as the interpreter runs a kernel."""
    interpreter.GridExecutor(body, list(body.__code__.co_varnames), (1,))(*arguments)


def _divide_by_zero() -> None:
    tl.div_rn(tl.full((1,), 0.0, tl.float32), tl.full((1,), 0.0, tl.float32))


def _silent() -> bool:
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        _launch(_divide_by_zero)
    return not raised


def _silence() -> None:
    original = interpreter.GridExecutor.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            return original(self, *args, **kwargs)

    interpreter.GridExecutor.__call__ = call


def _use_argument(number: Any) -> None:
    number.to(tl.float32)


def _arguments_work() -> bool:
    try:
        _launch(_use_argument, 0.5)
    except interpreter.InterpreterError:
        return False
    return True


def _replace_arguments() -> None:
    original = interpreter._implicit_cvt

    def convert_argument(argument: Any) -> Any:
        if isinstance(argument, float):
            return tl.tensor(Handle(np.array([argument], dtype=np.float32), tl.float32), tl.float32)
        return original(argument)

    interpreter._implicit_cvt = convert_argument


def _take_index() -> None:
    operator.index(tl.num_programs(0))


def _index_works() -> bool:
    try:
        _launch(_take_index)
    except interpreter.InterpreterError:
        return False
    return True


def _replace_index() -> None:
    original = interpreter._patch_lang_tensor

    def patch(lang_tensor: Any, scope: Any) -> None:
        original(lang_tensor, scope)
        scope.set_attr(lang_tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch


def _masks_work() -> bool:
    truth = Handle(np.array([True]), tl.int64)  # as a comparison of two int64 leaves it
    spread = interpreter.interpreter_builder.create_splat(tl.block_type(tl.int1, [2]), truth)
    return bool(spread.data.dtype == np.bool_)


def _replace_masks() -> None:
    original = Builder.create_splat

    def create_splat(self: Any, result: Any, argument: Any) -> Any:
        if argument.data.dtype != np.bool_:
            return original(self, result, argument)
        return Handle(np.full(result.shape, argument.data.item()), tl.int1)

    Builder.create_splat = create_splat


FIXES = (
    Fix("fma", _fma_works, _replace_fma),
    Fix("fp8 dot", _dot_works, _replace_dot),
    Fix("bf16", _bf16_works, _replace_bf16),
    Fix("maximum", _maximum_works, _replace_maximum),
    Fix("arguments", _arguments_work, _replace_arguments),
    Fix("index", _index_works, _replace_index),
    Fix("masks", _masks_work, _replace_masks),
    Fix("warnings", _silent, _silence),
)

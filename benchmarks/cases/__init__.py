"""The problems on which ``reference_impl/X.py`` and ``kernels/X.py`` must agree, and what they cost.

One file an operator, found by its name; ``names()`` and ``load(stem)`` are all a caller needs.  A
case file ``cases/X.py`` holds, in this order:

``class X(Case)``
    a frozen dataclass, its fields the axes of the problem in reading order, with ``inputs`` and
    ``cost`` and ``interpreter_steps`` (and ``untouched`` where some bytes are);
``CASES``
    production rows first, then edges;
``OUTPUTS``
    names of what the operator returns, in order;
``TOLERANCE``
    how far two implementations may differ (:mod:`benchmarks.compare`), and why;
``against_float64``
    ``(arguments, outputs) -> (approximate, exact)``, two tensors of one shape whose difference is the
    error that is tracked;
``defined``
    ``(arguments, outputs) -> outputs``, only where some results are not defined, as the rows of
    padding: what is left of the results when those are taken out, and what is compared.

A matrix product, which is too large to be modelled whole in every run (:mod:`benchmarks.parity`), also
has, where :class:`Part` is some of a problem:

``parts``
    ``(arguments, elements) -> iterator of Part``: all of the result once, by parts of about so many
    elements; an expert whose rows are fewer shares a part with the next ones;
``sample``
    ``arguments -> Part`` that touches every expert, 128-wide tile and 64-row slab of the result;
``dense``
    ``arguments -> (product in fp32, sum of the magnitudes of its terms)``, both as ``defined`` leaves
    a result;
``AGAINST_FP32``
    the :class:`~benchmarks.compare.Bound` on the difference of a result and ``dense``.

An operator that is no product and whose peers may differ in bits also has

``close``
    ``(arguments, got, expected) -> Comparison``: whether a peer's result is a right one.

A layer, which is several products, has ``parts`` and ``sample`` alone.

Cases live here and not beside the tests because asv imports today's ``benchmarks`` against every
commit's packages: a table inside a measured package would change its meaning from commit to commit.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable  # of a NamedTuple, whose annotations may be looked at
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import torch

# Triton's interpreter takes about 3 ms for one 128x128x128 step of work (measured on 2 CPU cores);
# an operator may spend this many steps on the CPU in all, some 15 s.
INTERPRETER_BUDGET = 5000
# A single case above this goes to the GPU whatever the rest of the operator costs.
INTERPRETER_CASE_LIMIT = 400


class Cost(NamedTuple):
    """Work of one call.

    flops: multiplications plus additions of the tensor-core part; 0 where there is none.
    read, written: bytes, each input read once and each output written once.
    """

    flops: int
    read: int
    written: int

    @property
    def bytes(self) -> int:
        """Bytes moved in all."""
        return self.read + self.written


class Part(NamedTuple):
    """Some of a problem, which is a problem of the same operator.

    name: what it is, for messages.  arguments: of the operator.  take: cuts the part's result from
    the whole one; a result of another shape than the whole one's it leaves as it is.
    """

    name: str
    arguments: dict[str, Any]
    take: Callable[[Any], Any]


def taker(shape: tuple[int, ...], cut: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``take`` of a :class:`Part`: ``cut`` for results of this shape."""
    return lambda result: cut(result) if tuple(getattr(result, "shape", ())) == shape else result


@dataclass(frozen=True, kw_only=True)
class Case:
    """One problem.  Subclasses add the axes; every field but ``bench`` is spelled in the label."""

    layer: str = field(default="")
    bench: bool = field(default=False, compare=False)

    # Spelled in the label under these names when the field's own is too long to read.
    SHORT: ClassVar[dict[str, str]] = {}

    @property
    def label(self) -> str:
        """``layer=o,m=4096,...``: asv keys history by it, so it must always mean the same work."""
        parts = []
        ordered = sorted(dataclasses.fields(self), key=lambda item: item.name != "layer")
        for item in ordered:
            value = getattr(self, item.name)
            if item.name == "bench" or (item.name == "layer" and not value):
                continue
            parts.append(f"{self.SHORT.get(item.name, item.name)}={value}")
        return ",".join(parts)

    @property
    def seed(self) -> int:
        """Seed of the inputs: of the label alone, so that a case has the same data everywhere."""
        return int.from_bytes(hashlib.sha256(self.label.encode()).digest()[:6], "big")

    def inputs(self, device: str) -> dict[str, Any]:
        """Keyword arguments of the operator, on ``device`` ("cpu", "cuda", or "meta" for shapes)."""
        raise NotImplementedError

    def cost(self) -> Cost:
        """Work of one call."""
        raise NotImplementedError

    def untouched(self) -> Cost:
        """Bytes of the operands and results that a call neither reads nor writes, as padding between
        experts: with those of :meth:`cost` they are all bytes of the tensors."""
        return Cost(flops=0, read=0, written=0)

    def interpreter_steps(self) -> int:
        """Work in Triton's interpreter, in 128x128x128 steps of about 3 ms."""
        raise NotImplementedError

    def generator(self, device: str) -> torch.Generator:
        """Random generator of this case on ``device``: the same data in every run on that kind of device."""
        import torch

        return torch.Generator(device=device).manual_seed(self.seed)


def names() -> list[str]:
    """Stems of all operators that have cases, sorted."""
    return list(_stems())


@functools.cache
def _stems() -> tuple[str, ...]:
    """Looked for once: reading the folder for each case of a report takes longer than the report."""
    found = (item.name for item in pkgutil.iter_modules(__path__) if not item.name.startswith("_"))
    return tuple(sorted(found))


def load(stem: str) -> ModuleType:
    """The case module of operator ``stem``.  Raises ValueError for an unknown one, naming the known."""
    if stem not in names():
        raise ValueError(f"operator: expected one of {', '.join(names())}, got {stem!r}")
    return importlib.import_module(f"{__name__}.{stem}")


def find(stem: str, label: str) -> Case:
    """The case of operator ``stem`` with this label."""
    table: Sequence[Case] = load(stem).CASES
    for case in table:
        if case.label == label:
            return case
    raise ValueError(f"case: {stem} has no case {label!r}")


def on_cpu(stem: str) -> list[Case]:
    """The cases that Triton's interpreter can run inside the operator's budget, in table order."""
    chosen, spent = [], 0
    for case in load(stem).CASES:
        steps = case.interpreter_steps()
        if steps <= INTERPRETER_CASE_LIMIT and spent + steps <= INTERPRETER_BUDGET:
            chosen.append(case)
            spent += steps
    return chosen


def public(package: str, stem: str) -> Callable[..., Any]:
    """The public function of one side, ``kernels`` or ``reference_impl``.

    Raises NotImplementedError when that commit does not have the operator: asv shows it as n/a.
    """
    try:
        module = importlib.import_module(f"{package}.{stem}")
    except ModuleNotFoundError as error:
        if error.name not in (package, f"{package}.{stem}"):
            raise
        raise NotImplementedError(f"{package} has no {stem} at this commit") from None
    function: Callable[..., Any] = getattr(module, stem)
    return function


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call with the arguments the function knows; see :func:`bind`."""
    return bind(function, arguments)()


def bind(function: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Any]:
    """A call with the arguments the function knows, which costs no more than the function itself.

    An argument it lacks must hold its default.

    An old commit may lack a later argument.  Where the case needs that argument the old commit
    cannot be measured, which is NotImplementedError (n/a), not a failure.
    """
    known = inspect.signature(function).parameters
    unknown = {name for name in arguments if name not in known}
    # By identity: a tensor has no truth value.
    needed = {n for n in unknown if arguments[n] is not None and arguments[n] is not False}
    if needed:
        raise NotImplementedError(f"this commit has no argument {', '.join(sorted(needed))}")
    return functools.partial(
        function, **{name: value for name, value in arguments.items() if name not in unknown}
    )

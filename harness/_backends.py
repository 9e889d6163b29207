"""What can be put to the cases of an operator: a kernel from outside, ours, or a peer.

A name is a file's path, ``ours``, a peer's of ``benchmarks/peers``, or an entry point's of GROUP.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases, fingerprint, parity, peers

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Case

GROUP = "fp8_bench.kernels"
OURS = "ours"


class AdapterError(ValueError):
    """What was named is no adapter; the message is a sentence."""


def _nothing(arguments: dict[str, Any]) -> Callable[[], Any]:
    """``prepare`` of a backend that is absent."""
    raise NotImplementedError(f"is absent, and was given {', '.join(arguments)}")


def anything(case: Case) -> bool:
    """``supports`` of a backend that has none."""
    del case
    return True


@dataclass(frozen=True)
class Backend:
    """One implementation of ``operator``.

    prepare: from operands to the call on them.  supports: of a case, True or the reason why not.
    exact: whether its results must have the reference's bits, though the operator has a bound.
    laid_freely: whether they may lie in any strides.  absent: why it cannot run here, or nothing.
    """

    name: str
    operator: str = ""
    prepare: Callable[[dict[str, Any]], Callable[[], Any]] = _nothing
    supports: Callable[[Case], object] = anything
    exact: bool = False
    laid_freely: bool = False
    absent: str = ""

    @property
    def judged_exactly(self) -> bool:
        """Whether by the operator's own tolerance; else by the bound derived for other orders."""
        return self.exact or not parity.bounded(self.operator)

    @property
    def contract(self) -> str:
        """By what its results are judged, in words."""
        if self.exact:
            return "exact, as declared"
        return "exact, there is no bound" if self.judged_exactly else "derived bound"


def shipped(name: str) -> bool:
    """Whether ``name`` is ours or a peer, which says of no operator that it is for that one."""
    return not Path(name).is_file() and (name == OURS or name in peers.names())


def find(name: str, operator: str | None = None) -> Backend:
    """The backend of this name.  Raises AdapterError when it is none, or none of ``operator``.

    One whose package is not installed is found, and absent.
    """
    if shipped(name):
        if operator is None:
            raise AdapterError(f"{name}: expected --operator, one of {', '.join(cases.names())}")
        return _ours(operator) if name == OURS else _peer(name, operator)
    try:
        adapter = load(name)
    except ImportError as error:
        return Backend(Path(name).stem, absent=f"needs what is not installed: {error}")
    found = described(adapter)
    if operator not in (None, found.operator):
        raise AdapterError(f"{name}: expected an adapter of {operator}, got {found.operator}")
    return found


def load(name: str) -> Any:
    """An adapter by the path of its file, or by its name among the entry points of GROUP."""
    if Path(name).is_file():
        spec = importlib.util.spec_from_file_location("fp8_bench_adapter", name)
        if spec is None or spec.loader is None:
            raise AdapterError(f"{name}: expected a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    found = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in found:
        installed = ", ".join(sorted(found)) or "none"
        known = ", ".join((OURS, *peers.names()))
        raise AdapterError(
            f"{name}: expected a file, one of {known}, or an entry point of {GROUP} "
            f"(there are: {installed})"
        )
    return found[name].load()


def described(adapter: Any) -> Backend:
    """What an adapter says of itself.  Raises AdapterError, naming what it lacks."""
    for attribute in ("NAME", "OPERATOR"):
        value = getattr(adapter, attribute, None)
        if not isinstance(value, str) or not value:
            raise AdapterError(f"{attribute}: expected a string, got {value!r}")
    stem, exact = adapter.OPERATOR, getattr(adapter, "EXACT", False)
    if stem not in cases.names():
        raise AdapterError(f"OPERATOR: expected one of {', '.join(cases.names())}, got {stem!r}")
    if not isinstance(exact, bool):
        raise AdapterError(f"EXACT: expected True or False, got {exact!r}")
    function = getattr(adapter, stem, None)
    if not callable(function):
        raise AdapterError(f"{stem}: expected a function of the operator's name, got {function!r}")
    prepare = functools.partial(_bound, function)
    supports = getattr(adapter, "supports", anything)
    return Backend(adapter.NAME, stem, prepare, supports, exact)


def _bound(function: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Any]:
    """A call of somebody's function, which may take whatever there is."""
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return functools.partial(function, **arguments)
    try:
        return cases.bind(function, arguments)
    except NotImplementedError as reason:
        raise NotImplementedError(str(reason).replace("this commit", "the function")) from None


def _ours(stem: str) -> Backend:
    function = cases.public("kernels", stem)
    return Backend(OURS, stem, functools.partial(cases.bind, function), exact=True)


def _peer(name: str, stem: str) -> Backend:
    peer = peers.load(name)
    reason = None if stem in peer.OPERATORS else f"has no {stem}"
    reason = reason or peer.missing()
    if not (reason or fingerprint.has_hopper()):
        reason = "needs a Hopper GPU"
    prepare = functools.partial(peer.prepare, stem)
    return Backend(name, stem, prepare, laid_freely=True, absent=reason or "")

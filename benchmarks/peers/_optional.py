"""What the adapters of packages that may not be installed share: names that moved, refusals, floors.

Their functions moved from module to module between releases, so each adapter lists the places that
its function has had, the newest first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

TILE = 128


class Place(NamedTuple):
    """Where a release of a package has a function."""

    module: str
    name: str


def find(places: Sequence[Place]) -> tuple[Place, Callable[..., Any]]:
    """The first of ``places`` that holds a function.  Raises NotImplementedError when none does."""
    said = ""
    for place in places:
        try:
            module = importlib.import_module(place.module)
        except Exception as error:  # noqa: BLE001  (an import may look for a driver, a toolkit, a flag)
            said = said or f"; {type(error).__name__}: {error}"
            continue
        if hasattr(module, place.name):
            return place, getattr(module, place.name)
    looked = ", ".join(f"{module}.{name}" for module, name in places)
    raise NotImplementedError(f"found none of {looked}{said}")


def missing(package: str, functions: Mapping[str, Sequence[Place]]) -> str | None:
    """Why no operator can run here, or None: one function is enough, ``prepare`` refuses the others."""
    from benchmarks.fingerprint import has_hopper

    if not has_hopper():
        return "needs a Hopper GPU"
    reasons = []
    for places in functions.values():
        try:
            find(places)
        except NotImplementedError as reason:
            reasons.append(str(reason))
        else:
            return None
    return f"needs the package {package}: {'; '.join(reasons)}"


def tried(package: str, run: Callable[[], Any]) -> Callable[[], Any]:
    """``run``, called once: what it compiles and tunes is done, what the package asserts is a refusal."""
    try:
        run()
    except AssertionError as error:
        raise NotImplementedError(f"{package} refuses: {str(error) or 'an assertion'}") from None
    return run


def product(arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """(x, x_scale, w, w_scale, out_dtype) of a product; raises NotImplementedError for an empty one."""
    import torch

    x, x_scale, w, w_scale = (arguments[name] for name in ("x", "x_scale", "w", "w_scale"))
    if not (x.numel() and w.numel()):
        raise NotImplementedError("takes no empty operand")
    return x, x_scale, w, w_scale, arguments.get("out_dtype") or torch.bfloat16


def activations(arguments: Mapping[str, Any]) -> torch.Tensor:
    """x of act_quant; raises NotImplementedError for an empty one, and for rows of experts."""
    if arguments.get("counts") is not None:
        raise NotImplementedError("has no counts of rows of experts")
    x: torch.Tensor = arguments["x"]
    if not x.numel():
        raise NotImplementedError("takes no empty operand")
    return x.contiguous()


def require_amax(x: torch.Tensor, least: float, why: str) -> None:
    """Raise NotImplementedError unless each tile's largest magnitude is positive and ``least`` or more.

    Below, the package gives a tile another scale than ours.
    """
    smallest = float(x.abs().unflatten(1, (-1, TILE)).amax(dim=2).min())
    if not (smallest >= least and smallest > 0):
        raise NotImplementedError(f"{why}, and a tile's largest magnitude is {smallest:.3g}")

"""Other people's implementations of our operators, timed and checked beside ours in the same run.

One small adapter a file, found by its name.  An adapter has

``OPERATORS``
    the operators it offers, a tuple of stems;
``missing()``
    why it cannot run here, a sentence, or None when it can;
``prepare(operator, arguments)``
    takes the operator's keyword arguments, does whatever the peer wants done once (layouts,
    padding) and returns a function of no arguments whose result compares with the reference's.
    Raises NotImplementedError, with a reason, for a problem the peer does not support.
``PACKAGE``
    only where it needs one that may not be installed, its top-level name: then a sweep and a table
    on a machine without it are as if there were no such peer.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def names(operator: str | None = None) -> list[str]:
    """Peers, sorted; only those that offer ``operator`` when one is given."""
    stems = sorted(
        item.name for item in pkgutil.iter_modules(__path__) if not item.name.startswith("_")
    )
    return [stem for stem in stems if operator is None or operator in load(stem).OPERATORS]


def here(operator: str) -> list[str]:
    """Of :func:`names` those whose package is installed.  Imports no package."""
    return [name for name in names(operator) if _installed(getattr(load(name), "PACKAGE", None))]


def _installed(package: str | None) -> bool:
    try:
        return package is None or importlib.util.find_spec(package) is not None
    except ValueError:  # a module put in place by hand
        return True


def load(name: str) -> ModuleType:
    """The adapter of this name.  Imports no peer: that waits for ``missing`` and ``prepare``."""
    return importlib.import_module(f"{__name__}.{name}")

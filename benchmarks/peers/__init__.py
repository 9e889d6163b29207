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
"""

from __future__ import annotations

import importlib
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


def load(name: str) -> ModuleType:
    """The adapter of this name.  Imports no peer: that waits for ``missing`` and ``prepare``."""
    return importlib.import_module(f"{__name__}.{name}")

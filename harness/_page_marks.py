"""What the gate, or a person, said about commits beside their numbers, for the page's curves.

``results/verdicts.json``, where it exists: a list of objects, or an object whose ``verdicts`` is that
list.  Each names a ``commit`` (7 or more hex digits) and holds a ``verdict`` (``regressed``,
``improved``, ``same``, ``inconclusive``) or a ``text``.  ``machine``, ``operator``, ``case`` and
``metric`` narrow down what it is about; without them it is about all.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "verdicts"
VERDICTS = ("regressed", "improved", "same", "inconclusive")
SCOPE = ("machine", "operator", "case", "metric")
COMMIT = re.compile(r"[0-9a-f]{7,40}")


def load(results: Path, warn: Callable[[str], None]) -> list[dict[str, str]]:
    """Every mark, in the file's order; what cannot be used is named to ``warn``."""
    found = []
    path = results / f"{NAME}.json"
    for number, item in enumerate(_items(path, warn) if path.is_file() else ()):
        problem = _problem(item)
        if problem:
            warn(f"{path}: entry {number}: skipped: {problem}")
        else:
            found.append(_mark(item))
    return found


def _items(path: Path, warn: Callable[[str], None]) -> list[Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        warn(f"{path}: skipped: not JSON: {error}")
        return []
    items = read.get(NAME) if isinstance(read, dict) else read
    if not isinstance(items, list):
        warn(f"{path}: skipped: expected a list, or an object with a list {NAME!r}")
        return []
    return items


def _problem(item: Any) -> str | None:
    """Why an entry cannot be used, or None."""
    if not isinstance(item, dict):
        return f"expected an object, got {type(item).__name__}"
    if not COMMIT.fullmatch(str(item.get("commit", ""))):
        return f"expected a commit of 7 to 40 hex digits, got {item.get('commit')!r}"
    if "verdict" in item and item["verdict"] not in VERDICTS:
        return f"expected a verdict of {', '.join(VERDICTS)}, got {item['verdict']!r}"
    if "verdict" not in item and not item.get("text"):
        return "neither a verdict nor a text"
    return None


def _mark(item: dict[str, Any]) -> dict[str, str]:
    kept = {name: str(item[name]) for name in (*SCOPE, "verdict", "text") if item.get(name)}
    return {"commit": str(item["commit"])[:12], **kept}

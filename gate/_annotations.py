"""Changes that a person accepted: ``results/annotations.toml``.

    [[accepted]]
    commit = "38cd947f2d00"          # what changed it, 7 digits or more
    operator = "act_quant"           # patterns as of the shell; "*" by default, but for the operator
    case = "layer=o,*"
    metric = "registers"
    machine = "nvidia-h200"
    reason = "wider tiles: more registers, 8 % faster"

The commit need not be one that was measured: a change found between two measured commits is the
annotation's when its commit lies after the first and not after the second.
"""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from gate._series import Commits

FIELDS = {
    "commit": None,
    "operator": None,
    "reason": None,
    "case": "*",
    "metric": "*",
    "machine": "*",
}


class AnnotationError(ValueError):
    """An annotation that cannot be meant; the message names the file, the entry and the field."""


@dataclass(frozen=True)
class Annotation:
    """One accepted change.  place: of its commit in the order of the commit graph."""

    commit: str
    place: int
    operator: str
    case: str
    metric: str
    machine: str
    reason: str


def read(path: Path, commits: Commits, operators: Collection[str]) -> list[Annotation]:
    """The annotations of a file; none where there is no file.

    operators: those that are known.  Raises AnnotationError for anything misspelt: an unknown key,
    commit, operator or metric, an empty reason.
    """
    if not path.exists():
        return []
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: not TOML: {error}") from None
    if unknown := sorted(set(held) - {"accepted"}):
        raise AnnotationError(f"{path}: expected [[accepted]] only, got {', '.join(unknown)}")
    entries = held.get("accepted", [])
    if not isinstance(entries, list):
        raise AnnotationError(f"{path}: accepted: expected [[accepted]], got one table")
    return [
        _annotation(f"{path}: accepted, number {number}", entry, commits, operators)
        for number, entry in enumerate(entries, 1)
    ]


def _annotation(
    where: str, entry: dict[str, Any], commits: Commits, operators: Collection[str]
) -> Annotation:
    if unknown := sorted(set(entry) - set(FIELDS)):
        raise AnnotationError(f"{where}: expected {', '.join(FIELDS)}, got {', '.join(unknown)}")
    fields: dict[str, str] = {}
    for name, default in FIELDS.items():
        value = entry.get(name, default)
        if not isinstance(value, str) or not value.strip():
            raise AnnotationError(f"{where}: {name}: expected a text, got {value!r}")
        fields[name] = value.strip()
    commit = commits.full(fields["commit"]) if len(fields["commit"]) >= 7 else None
    if commit is None:
        raise AnnotationError(
            f"{where}: commit: expected 7 or more digits of a commit in HEAD's history, "
            f"got {fields['commit']!r}"
        )
    for name, known in (("operator", operators), ("metric", METRICS)):
        if not fnmatch.filter(known, fields[name]):
            raise AnnotationError(
                f"{where}: {name}: expected a pattern of {', '.join(sorted(known))}, "
                f"got {fields[name]!r}"
            )
    return Annotation(**(fields | {"commit": commit}), place=commits.order[commit])

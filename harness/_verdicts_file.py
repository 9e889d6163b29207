"""``results/verdicts.json``: what the gate said of commits, as harness/_page_marks.py reads it.

Derived from a comparison's verdicts (``python -m gate compare --json``).  Entries of other commits, and
what a person wrote, stay; the same cost of the same commit and machine has one entry, the newest.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from harness._page_marks import SCOPE, VERDICTS
from harness.bench import BenchError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

NAME = "verdicts.json"


def entries(
    machine: str, told: dict[str, Any], asked: Collection[tuple[str, str, str]]
) -> list[dict[str, str]]:
    """Marks of one comparison.  asked: (operator, case, metric) that are marked even if ``same``."""
    made = []
    for row in told["rows"]:
        # A curve is of a kernel, or of the reference's time on a CPU.
        drawn = row["implementation"] == "kernels" or row["metric"] == "cpu_us"
        known = (row["operator"], row["case"], row["metric"]) in asked or row["verdict"] != "same"
        if drawn and known and row["gates"] and row["verdict"] in VERDICTS:
            made.append(
                {
                    "machine": machine, "commit": told["head"], "operator": row["operator"],
                    "case": row["case"], "metric": row["metric"], "verdict": row["verdict"],
                    "text": f"the gate, against {told['base'][:12]}{_size(row)}",
                }
            )  # fmt: skip
    return made


def _size(row: dict[str, Any]) -> str:
    if row["change"] is not None:
        return f": {row['change']:+.2%}".replace("%", " %")
    if row["base"] is not None and row["head"] is not None:
        return f": {row['base']:.5g} to {row['head']:.5g}"
    return ""


def merge(results: Path, made: Sequence[dict[str, str]]) -> None:
    """Put entries into the file.  Raises BenchError where it is not what it should be."""
    path = results / NAME
    if not made:
        return
    held: Any = []
    if path.is_file():
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BenchError(f"{path}: not JSON: {error}") from None
        held = held.get("verdicts") if isinstance(held, dict) else held
    if not isinstance(held, list) or not all(isinstance(item, dict) for item in held):
        raise BenchError(f"{path}: expected a list of objects")
    new = {_about(item) for item in made}
    whole = [*(item for item in held if _about(item) not in new), *made]
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def _about(item: dict[str, Any]) -> tuple[str, ...]:
    return (str(item.get("commit"))[:12], *(str(item.get(name)) for name in SCOPE))

"""Do both commits run the same program?  Then a difference of its time is noise."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from gate import plan, stats
from gate.rows import Case, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gate.log import Process


def programs(processes: Sequence[Process], chosen: dict[str, list[str]]) -> dict[Case, str]:
    """By case, why both sides are not the same program; empty where they are.

    Where either side's program is not known the case is missing.
    """
    ours: dict[Case, dict[str, Any]] = defaultdict(dict)
    reference: dict[str, set[str]] = defaultdict(set)
    for process in processes:
        for row in process.samples:
            which = Case(row["operator"], row["case"], row["implementation"])
            if not plan.wanted(chosen, *which[:2]):
                continue
            if row["metric"] == "registers" and (known := _parts(row.get("detail", {}))):
                ours[which][process.turn.side] = known
            elif row["metric"] == "cpu_us":
                reference[process.turn.side].add(process.reference)
    found = {
        which: _difference(sides[plan.BASE], sides[plan.HEAD])
        for which, sides in ours.items()
        if len(sides) == len(plan.SIDES)
    }
    codes = [reference[side] for side in plan.SIDES]
    if codes[0] == codes[1] and len(codes[0]) == 1 and "" not in codes[0]:
        for which in _cases(processes, chosen, "cpu_us"):
            found[which] = ""
    return found


def _cases(processes: Iterable[Process], chosen: dict[str, list[str]], metric: str) -> set[Case]:
    return {
        Case(row["operator"], row["case"], row["implementation"])
        for process in processes
        for row in process.samples
        if row["metric"] == metric and plan.wanted(chosen, row["operator"], row["case"])
    }


def _parts(detail: dict[str, Any]) -> list[tuple[str, Any]] | None:
    """What a call runs, each part with its name; None where a part is not known."""
    kernels, host = detail.get("kernels"), detail.get("host")
    if not kernels or not host or not all(kernel.get("launch") for kernel in kernels):
        return None
    parts: list[tuple[str, Any]] = [("number of kernels", len(kernels))]
    for kernel in kernels:
        name = kernel["name"]
        parts.append((f"machine code of {name}", kernel["sass_code"]))
        launch = [kernel[part] for part in ("grid", "warps", "shared", "launch")]
        parts.append((f"launch of {name}", launch))
    return [*parts, ("calls of torch", host)]


def _difference(base: list[tuple[str, Any]], head: list[tuple[str, Any]]) -> str:
    if len(base) != len(head):
        return "number of kernels"
    return ", ".join(name for old, (name, new) in zip(base, head, strict=True) if old[1] != new)


def untimed(which: Case, difference: str) -> Row:
    """A kernel that was not timed here: equal machine code decides, other machine code cannot."""
    if not difference:
        return Row(which, "device_us", stats.SAME, note="the same program; not timed")
    return Row(which, "device_us", stats.INCONCLUSIVE, note=f"not timed; differs: {difference}")

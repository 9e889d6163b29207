"""What harness.exact, exact_backward and sanitize found, kept commit by commit, and their page, docs/exact.md.

A kept row of ``exact`` is a case: operator, case, the elements of its result, seconds, and by
configuration how many elements differ (``differing``) and what was wrong (``messages``, empty when
nothing is).  One of ``exact_backward`` is a part of a case: operator, case, part, elements, differing,
message, seconds.  One of ``sanitize`` is a tool on an operator: operator, tool, cases, verdict, errors,
first (the first error's line), launches of kernels, seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness import _kept, _problem
from harness._markdown import count

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterable, Sequence

    from harness._kept import Row
    from harness.exact import Found
    from harness.sanitize import Finding

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


class Keeper:
    """A file of kept rows that grows row by row, so that a run cut short keeps what it found.

    ``key`` names the fields that tell rows apart: a row found again takes the older one's place.
    """

    def __init__(self, out: Path, commit: tuple[str, str], key: Sequence[str]) -> None:
        """Raises UsageError for a file of another commit or machine."""
        self.out, self.commit, self.key = out, commit, key
        self.rows: dict[tuple[str, ...], Row] = {}
        if out.is_file():
            held = _kept.read(out)
            for name, expected in (("commit", commit[0]), ("machine", _problem.machine())):
                if held[name] != expected:
                    raise _problem.UsageError(
                        f"--out: {out} is of {name} {held[name]}, expected {expected}"
                    )
            self.rows = {self._which(row): row for row in held["rows"]}

    def add(self, row: Row) -> None:
        """Keep one more."""
        self.rows[self._which(row)] = row
        _kept.keep(self.out, self.commit, list(self.rows.values()))

    def _which(self, row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.key)


def options(parser: ArgumentParser) -> None:
    """What both commands take."""
    parser.add_argument("--commit", help="40 digits of the commit that this tree is; default: HEAD")
    parser.add_argument("--out", type=Path, help="keep what was found in this file, JSON")
    parser.add_argument(
        "--write", action="store_true", help=f"only write {EXACT.path} from results/"
    )


def keeper(given: Namespace, key: Sequence[str]) -> Callable[[Row], None]:
    """What keeps a row.  Raises UsageError: a modified tree is no commit, and its results are nobody's."""
    return Keeper(given.out, _problem.commit(given.commit), key).add if given.out else forget


def forget(row: object) -> None:
    """Keeps nothing."""


def exact_row(found: Sequence[Found], seconds: float) -> Row:
    """The results of one case, of one configuration each."""
    return {
        "operator": found[0].operator, "case": found[0].case, "elements": found[0].elements,
        "seconds": round(seconds, 2), "differing": {one.variant: one.differing for one in found},
        "messages": {one.variant: one.message for one in found if one.message},
    }  # fmt: skip


def part_row(found: Found, seconds: float) -> Row:
    """A part of a result, whose name is the variant's."""
    return {
        "operator": found.operator, "case": found.case, "part": found.variant,
        "elements": found.elements, "differing": found.differing, "message": found.message,
        "seconds": round(seconds, 2),
    }  # fmt: skip


def sanitize_row(found: Finding) -> Row:
    """What one tool said of one operator."""
    verdict = "clean" if found.clean else "did not finish" if found.errors is None else "errors"
    return {
        "operator": found.operator, "tool": found.tool, "cases": found.cases, "verdict": verdict,
        "errors": found.errors, "first": found.first if verdict != "clean" else "",
        "launches": found.launches, "seconds": round(found.seconds, 2),
    }  # fmt: skip


def by_operator(rows: Iterable[Row]) -> list[Row]:
    """Cases added up."""
    found: dict[str, Row] = {}
    none = {"cases": 0, "results": 0, "elements": 0, "differing": 0, "wrong": 0, "seconds": 0.0}
    for row in rows:
        results = row["differing"]
        sums = found.setdefault(row["operator"], {"operator": row["operator"]} | none)
        for name, more in (
            ("cases", 1), ("results", len(results)), ("elements", row["elements"] * len(results)),
            ("differing", sum(results.values())), ("wrong", len(row["messages"])),
            ("seconds", row["seconds"]),
        ):  # fmt: skip
            sums[name] += more
    return sorted(found.values(), key=lambda row: str(row["operator"]))


def by_case(rows: Iterable[Row]) -> list[Row]:
    """Parts added up."""
    found: dict[str, Row] = {}
    for row in rows:
        sums = found.setdefault(
            row["case"],
            {
                "case": row["case"],
                "parts": 0,
                "elements": 0,
                "differing": 0,
                "wrong": 0,
                "seconds": 0.0,
            },
        )
        for name, more in (("parts", 1), ("wrong", bool(row["message"]))):
            sums[name] += more
        for name in ("elements", "differing", "seconds"):
            sums[name] += row[name]
    return list(found.values())


def by_tool(rows: Iterable[Row]) -> list[Row]:
    """A row an operator, a cell a tool; ``-`` where it was not run."""
    found: dict[str, Row] = {}
    for row in rows:
        which = {"operator": row["operator"], "cases": row["cases"], "seconds": 0.0}
        one = found.setdefault(row["operator"], which | dict.fromkeys(TOOLS, "-"))
        errors = f"{row['errors']} errors"
        one[row["tool"]] = errors if row["verdict"] == "errors" else row["verdict"]
        one["seconds"] += row["seconds"]
    return sorted(found.values(), key=lambda row: str(row["operator"]))


EXACT = _kept.Page(
    "docs/exact.md", "exact", """
# Checked on the chip

Generated by `python -m harness.exact --write`, of what is kept under `results/`
([its README](../results/README.md) says how); do not edit. An operator without a row was not checked at
that commit.

## Every element

Of `nox -s exact`: each timed case whole, with `--untimed` each of production, in memory that read as NaN
before, against the reference. Results: of the launcher and, with `--configs`, of each configuration that
it can choose. Elements: of all results. Wrong: results that break the operator's tolerance, or failed.
""", ("operator", "cases", "results", "elements", "differing", "wrong", "s"), 1,
    lambda row: [
        f"`{row['operator']}`", str(row["cases"]), str(row["results"]), count(row["elements"]),
        count(row["differing"]), str(row["wrong"]), f"{row['seconds']:.1f}",
    ],
    by_operator, "###",
)  # fmt: skip
BACKWARD = _kept.Page(
    "docs/exact.md", "exact_backward", """
## The backward of all experts

Of `python -m harness.exact_backward`: `moe_layer_backward` against a reference that streams through it.
Parts: some 64 tokens' gradients, and the weights' gradients of some experts, each whole.
""", ("case", "parts", "elements", "differing", "wrong", "s"), 1,
    lambda row: [
        f"`{row['case']}`", str(row["parts"]), count(row["elements"]), count(row["differing"]),
        str(row["wrong"]), f"{row['seconds']:.1f}",
    ],
    by_case, "###",
)  # fmt: skip
SANITIZE = _kept.Page(
    "docs/exact.md", "sanitize", """
## Under compute-sanitizer

Of `nox -s sanitize`: each tool on the operator's small cases and on every configuration. Clean: it
finished, the kernels ran, and it counted no error.
""", ("operator", "cases", *TOOLS, "s"), 1,
    lambda row: [
        f"`{row['operator']}`", str(row["cases"]), *(row[tool] for tool in TOOLS), f"{row['seconds']:.0f}",
    ],
    by_tool, "###",
)  # fmt: skip
NOTHING = "Nothing is kept yet.\n"


def text(exact: Sequence[Path], sanitize: Sequence[Path], backward: Sequence[Path] = ()) -> str:
    """The page of these files; of the backward nothing where there are none."""
    pages = ((EXACT, exact), *([(BACKWARD, backward)] if backward else []), (SANITIZE, sanitize))
    return "\n".join(
        page.text(files) if files else f"{page.text(files)}\n{NOTHING}" for page, files in pages
    )


def write() -> None:
    """The page, into ``docs/``."""
    page = text(EXACT.files(), SANITIZE.files(), BACKWARD.files())
    (_problem.ROOT / EXACT.path).write_text(page, encoding="utf-8")

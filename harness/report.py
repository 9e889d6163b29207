"""``python -m harness.report``: everything that is derived from the raw logs and kept in git.

``results/summary.csv`` (one row per measured value), ``results/report.html`` (all of it to browse, one
file that needs no network), the marked tables of ``README.md`` and ``results/README.md``, and
``docs/roofline.svg``.  Runs anywhere, without a GPU, and gives the same bytes for the same logs, so
that a diff shows what was measured and nothing else.

``--check`` writes nothing and exits with 1 when a file is not what the logs give.  The picture is
left out of that: its bytes also depend on matplotlib's version.  So is the page where git does not
know every measured commit, as in a shallow clone: it shows them in the history's order.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness import _history, _logs, _page, _page_changes, _page_marks, _tables, doctor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas

    from harness._logs import Log

COLUMNS = (
    "machine", "gpu", "driver", "torch", "triton", "commit", "date", "operator", "case",
    "implementation", "metric", "value", "unit", "q25", "q75", "samples", "throttled",
)  # fmt: skip
SUMMARY = Path("results/summary.csv")
PICTURE = Path("docs/roofline.svg")
BROWSED = Path("results/report.html")
# Files that may hold marked tables; one that does not exist is passed over.
PAGES = (Path("README.md"), Path("results/README.md"))
BLOCK = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n(?P<body>.*?)<!-- end table -->", re.DOTALL)
MARK = re.compile(r"<!-- (table: [\w-]+|end table) -->")


def frame(logs: Sequence[Log]) -> pandas.DataFrame:
    """One row per measured value, sorted; ``value`` is the median of its samples."""
    import pandas

    rows = []
    for log in sorted(logs, key=lambda log: (log.machine, log.date, log.path.name)):
        facts = [log.machine, *(log.fact(name) for name in ("gpu", "driver", "torch", "triton"))]
        for key in sorted(log.measured):
            measured = log.measured[key]
            low, middle, high = (
                _logs.quantile(measured.samples, part) for part in (0.25, 0.5, 0.75)
            )
            numbers = [middle, measured.unit, low, high, len(measured.samples), measured.throttled]
            rows.append([*facts, log.commit, log.date, *key, *numbers])
    return pandas.DataFrame(rows, columns=list(COLUMNS))


def csv(table: pandas.DataFrame) -> str:
    """The frame as text: counts whole, other numbers with 7 significant digits."""
    shown = table.copy()
    for column in ("value", "q25", "q75"):
        shown[column] = [number(value) for value in shown[column]]
    return str(shown.to_csv(index=False, lineterminator="\n"))


def number(value: float) -> str:
    """A number as summary.csv spells it."""
    if math.isfinite(value) and value == int(value):
        return str(int(value))
    return f"{value:.7g}"


def refresh(text: str, blocks: dict[str, str], name: str) -> str:
    """``text`` with the body of every marked block replaced.

    Raises SystemExit, naming the file ``name``, for a table nobody generates or a mark without its
    partner: either would leave an old table standing as if it were new.
    """
    found = list(BLOCK.finditer(text))
    unknown = sorted({block["name"] for block in found} - set(blocks))
    if unknown:
        raise SystemExit(
            f"{name}: no table {', '.join(unknown)}; there are {', '.join(sorted(blocks))}"
        )
    if len(MARK.findall(text)) != 2 * len(found) or any(
        MARK.search(block["body"]) for block in found
    ):
        raise SystemExit(
            f"{name}: a <!-- table: NAME --> without its <!-- end table -->, or the reverse"
        )
    return BLOCK.sub(
        lambda block: (
            f"<!-- table: {block['name']} -->\n{blocks[block['name']]}\n<!-- end table -->"
        ),
        text,
    )


def derived(root: Path, logs: Sequence[Log]) -> dict[Path, str]:
    """What the text files under ``root`` should hold, by path relative to it."""
    texts = {SUMMARY: csv(frame(logs))}
    blocks = _tables.blocks(logs, PICTURE)
    for page in PAGES:
        if (root / page).is_file():
            texts[page] = refresh((root / page).read_text(encoding="utf-8"), blocks, str(page))
    return texts


def browsed(root: Path, logs: Sequence[Log], repository: Path | None = None) -> tuple[str, bool]:
    """The page, and whether its bytes are settled: the history knows every commit that it shows.

    repository: where git is asked, unless that is ``root``.
    """
    known = _history.commits(repository or root)

    def warn(said: str) -> None:
        print(said, file=sys.stderr)

    marks = _page_marks.load(root / "results", warn)
    annotations = root / "results" / "annotations.toml"
    changes = _page_changes.marks(logs, repository or root, known, annotations, warn)
    return _page.html(logs, marks, known, changes), _history.whole(logs, known)


def stale(root: Path, texts: dict[Path, str]) -> list[Path]:
    """The files that do not hold what they should."""
    return [
        path
        for path, text in texts.items()
        if not (root / path).is_file() or (root / path).read_bytes() != text.encode()
    ]


def draw(root: Path, logs: Sequence[Log]) -> str:
    """Draw the picture when there is something to draw; says in a sentence what came of it."""
    log = _logs.newest(logs, _logs.GEMM)
    if log is None:
        return f"{PICTURE}: not drawn: no log of a Hopper GPU holds fp8_gemm yet"
    if not doctor.has("matplotlib"):
        return f"{PICTURE}: not drawn: matplotlib is not installed"
    from harness import _plots

    (root / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    return f"{PICTURE}: {_plots.roofline(log, root / PICTURE)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.report", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when a file is stale"
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the repository (default: here)")
    options = parser.parse_args(arguments)
    doctor.require(["pandas"], "the report")
    logs = _logs.load(options.root / "results", lambda text: print(text, file=sys.stderr))
    texts = derived(options.root, logs)
    page, settled = browsed(options.root, logs)
    if settled or not options.check:
        texts[BROWSED] = page
    old = stale(options.root, texts)
    if options.check:
        for path in old:
            print(
                f"{path}: not what the raw logs give; run: python -m harness.report",
                file=sys.stderr,
            )
        return 1 if old else 0
    for path in old:
        (options.root / path).parent.mkdir(parents=True, exist_ok=True)
        (options.root / path).write_bytes(texts[path].encode())
    for path in texts:
        print(f"{path}: {'written' if path in old else 'unchanged'}, from {len(logs)} raw logs")
    print(draw(options.root, logs))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m gate history``: every change in the committed history, and what became of it.

Reads the raw logs under results/, joins the commits measured on one and the same machine (GPU, driver,
clocks, CPU, Python, torch, Triton) in the order of the commit graph, and lists where time, accuracy
or machine code changed.  Exit code: 0 nothing is open, 10 a regression is open, 12 no series has two
commits, anything else broken.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases
from benchmarks.metrics import METRICS
from gate import _annotations, _changes, _series
from harness import _logs
from harness._markdown import markdown
from harness._problem import shortened
from harness._verdict import BROKEN, NOTHING, OK, REGRESSED, WORDS
from harness.bench import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gate._changes import Change
    from gate._series import Series

# Costs that stand for themselves.  What follows from the device time repeats its changes, and the
# time of a compilation says little about a kernel.
METRICS_SHOWN = (
    "device_us", "launch_us", "peak_bytes", "cpu_us", "differing_elements", "max_error", "rms_error",
    "registers", "spills", "shared_bytes", "wgmma", "instructions",
)  # fmt: skip
ORDER = (
    _changes.OPEN, _changes.RECOVERED, _changes.ACCEPTED, _changes.HARMLESS, _changes.NOISE,
    _changes.IMPROVED, _changes.CHANGED,
)  # fmt: skip
STYLES = {_changes.OPEN: "red", _changes.RECOVERED: "yellow", _changes.IMPROVED: "green"}
HEADER = (
    "status", "machine", "operator", "case", "metric", "after", "first with", "before", "now", "ratio",
    "evidence", "mended or why",
)  # fmt: skip
ALL = "all"


def look(
    results: Path, metrics: Sequence[str], annotations: Path, warn: Callable[[str], None]
) -> tuple[list[Series], list[Change]]:
    """The series and their changes, annotated, those of most concern first.

    Raises AnnotationError for a wrong annotation, BenchError where git cannot tell the history.
    """
    commits = _series.Commits(Path.cwd())
    logs = _logs.load(results, warn)
    series = _series.build(logs, commits, metrics, warn)
    known = {*cases.names(), *(one.key.operator for one in series)}
    accepted = _annotations.read(annotations, commits, known)
    found = _changes.changes(series)
    for unused in _changes.accept(found, accepted):
        warn(
            f"{annotations}: nothing is accepted by {unused.commit[:12]} {unused.operator} "
            f"{unused.case} {unused.metric} {unused.machine}"
        )
    found.sort(key=lambda change: (ORDER.index(change.status), -_size(change)))
    return series, found


def _size(change: Change) -> float:
    ratio = change.ratio
    return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf


def code(series: Sequence[Series], found: Sequence[Change]) -> int:
    """The exit code."""
    if not any(len(one.points) > 1 for one in series):
        return NOTHING
    return REGRESSED if any(change.status == _changes.OPEN for change in found) else OK


def row(change: Change, case: str) -> list[str]:
    """Cells of a change, under HEADER."""
    key, unit = change.series.key, change.series.unit
    why = change.mended[:12] or change.reason
    metric = key.metric if unit in key.metric else f"{key.metric} {unit}"
    ratio = f"{change.ratio:.3f}" if math.isfinite(change.ratio) else "-"
    return [
        change.status, change.series.machine, key.operator, case, metric,
        change.since.commit[:8], change.commit.commit[:8], f"{change.before:.5g}", f"{change.after:.5g}",
        ratio, change.evidence, why,
    ]  # fmt: skip


def rows(found: Sequence[Change]) -> list[list[str]]:
    """Cells of all changes; a case without what all cases of its operator have in common."""
    labels: dict[str, list[str]] = {}
    for change in found:
        labels.setdefault(change.series.key.operator, []).append(change.series.key.case)
    names = {operator: shortened(sorted(set(held)))[1] for operator, held in labels.items()}
    return [
        row(change, names[change.series.key.operator][change.series.key.case]) for change in found
    ]


def as_json(series: Sequence[Series], found: Sequence[Change]) -> str:
    """Everything, for programs."""
    entries: list[dict[str, Any]] = []
    for change in found:
        key = change.series.key
        entries.append(
            key._asdict()
            | {
                "status": change.status, "machine": change.series.machine, "unit": change.series.unit,
                "since": change.since.commit, "commit": change.commit.commit, "evidence": change.evidence,
                "before": change.before, "after": change.after, "mended": change.mended or None,
                "reason": change.reason or None,
            }
        )  # fmt: skip
    verdict = code(series, found)
    held = {"verdict": WORDS[verdict], "code": verdict, "series": len(series), "changes": entries}
    return json.dumps(held, indent=1)


def summary(series: Sequence[Series], found: Sequence[Change]) -> str:
    """One line: the verdict and the counts."""
    counts = Counter(change.status for change in found)
    told = ", ".join(f"{counts[status]} {status}" for status in ORDER if counts[status])
    long = [one for one in series if len(one.points) > 1]
    machines = len({one.facts for one in long})
    return (
        f"{WORDS[code(series, found)]}: {len(long)} series of more than one commit, on {machines} "
        f"machines; {told or 'nothing changed'}"
    )


def _print(found: Sequence[Change], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, title_justify="left")
    for index, name in enumerate(HEADER):
        drawn.add_column(name, justify="left" if index < 7 or index == 11 else "right")
    for change, cells in zip(found, rows(found), strict=True):
        drawn.add_row(*cells, style=STYLES.get(change.status))
    console = Console()
    Console(width=max(console.width, 160)).print(drawn)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m gate history", description=__doc__.split(":")[0])
    made.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    made.add_argument("--annotations", type=Path, help="default: annotations.toml in the results")
    made.add_argument(
        "--metrics", type=lambda text: text.split(","), default=list(METRICS_SHOWN),
        help="comma-separated; default: " + ",".join(METRICS_SHOWN),
    )  # fmt: skip
    made.add_argument("--machine", help="of this folder of the results only")
    made.add_argument(
        "--status", default=",".join(ORDER[:3]),
        help=f"what is listed: {', '.join(ORDER)} or {ALL}; default: {','.join(ORDER[:3])}",
    )  # fmt: skip
    shape = made.add_mutually_exclusive_group()
    shape.add_argument("--markdown", action="store_true", help="the table as Markdown")
    shape.add_argument("--json", action="store_true", help="all changes as JSON")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    line = parser()
    options = line.parse_args(arguments)
    wanted = ORDER if options.status == ALL else tuple(options.status.split(","))
    if unknown := [name for name in wanted if name not in ORDER]:
        line.error(f"--status: expected {', '.join(ORDER)} or {ALL}, got {', '.join(unknown)}")
    if unknown := [name for name in options.metrics if name not in METRICS]:
        line.error(f"--metrics: expected of {', '.join(METRICS)}, got {', '.join(unknown)}")
    path = options.annotations or options.results / "annotations.toml"
    try:
        series, found = look(
            options.results, options.metrics, path, lambda said: print(said, file=sys.stderr)
        )
    except (BenchError, _annotations.AnnotationError) as error:
        print(error, file=sys.stderr)
        return BROKEN
    if options.machine:
        series = [one for one in series if one.machine == options.machine]
        found = [change for change in found if change.series.machine == options.machine]
    if options.json:
        print(as_json(series, found))
        return code(series, found)
    shown = [change for change in found if change.status in wanted]
    if options.markdown:
        print(summary(series, found) + "\n\n" + markdown(HEADER, rows(shown), left=7))
    else:
        if shown:
            _print(shown, "History")
        print(summary(series, found))
    return code(series, found)


if __name__ == "__main__":
    sys.exit(main())

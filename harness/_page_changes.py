"""Where the history's curves changed, and what became of it: what ``gate history`` finds, as marks.

Derived from the committed logs, the commit graph and ``results/annotations.toml`` each time a page is
made, so that there is no file of it that could be stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks import cases
from gate import _annotations, _changes, _series, history
from harness import _history
from harness.bench import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gate._changes import Change
    from harness._history import Commit
    from harness._logs import Log


class Mark(NamedTuple):
    """A change of one curve with this commit (12 digits).  word: a status of gate/_changes.py, but that
    an open one has ``regressed``."""

    machine: str
    operator: str
    case: str
    metric: str
    commit: str
    word: str
    text: str


def marks(
    logs: Sequence[Log], repository: Path, known: dict[str, Commit], annotations: Path,
    warn: Callable[[str], None],
) -> list[Mark]:  # fmt: skip
    """All of them; none where git does not know every measured commit, as in a shallow clone."""
    if not logs or not _history.whole(logs, known):
        return []
    try:
        commits = _series.Commits(repository)
        series = _series.build(logs, commits, history.METRICS_SHOWN, warn)
        operators = {*cases.names(), *(one.key.operator for one in series)}
        accepted = _annotations.read(annotations, commits, operators)
    except (BenchError, _annotations.AnnotationError) as error:
        warn(f"no change is marked on the curves: {error}")
        return []
    found = _changes.changes(series)
    _changes.accept(found, accepted)
    return sorted(_mark(change) for change in found)


def _mark(change: Change) -> Mark:
    key, unit = change.series.key, change.series.unit
    said = f"{change.before:.4g} to {change.after:.4g} {unit}".rstrip()
    said += f", since {change.since.commit[:8]}"
    if change.mended:
        said += f"\nbrought back by {change.mended[:8]}"
    if change.reason:
        said += f"\n{change.reason}"
    word = "regressed" if change.status == _changes.OPEN else change.status
    commit = change.commit.commit[:12]
    return Mark(change.series.machine, key.operator, key.case, key.metric, commit, word, said)

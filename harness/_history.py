"""The commits of a repository, in the order of its history, for what dates cannot tell apart."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from harness._logs import Log


class Commit(NamedTuple):
    """rank: its place in the history, 0 the oldest.  subject: first line of its message."""

    rank: int
    subject: str


def commits(repository: Path) -> dict[str, Commit]:
    """Every commit that HEAD descends from, by 12 digits; none without git or its whole history."""
    if _git(repository, "rev-parse", "--is-shallow-repository").strip() != "false":
        return {}
    listed = _git(repository, "log", "--topo-order", "--reverse", "--format=%H %s").splitlines()
    found = {}
    for rank, line in enumerate(listed):
        commit, _, subject = line.partition(" ")
        found[commit[:12]] = Commit(rank, subject)
    return found


def _git(repository: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def whole(logs: Iterable[Log], known: dict[str, Commit]) -> bool:
    """Whether the history holds every commit that was measured."""
    return all(log.commit in known for log in logs)


def ordered(logs: Sequence[Log], known: dict[str, Commit]) -> list[Log]:
    """Logs from the oldest commit to the newest: by the history if that is whole, else by date."""
    if whole(logs, known):
        return sorted(logs, key=lambda log: (known[log.commit].rank, log.times, log.path.name))
    return sorted(logs, key=lambda log: log.age)

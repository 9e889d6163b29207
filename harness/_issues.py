"""One open issue a regression, found by its title among those with our label; through gh."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from harness.bench import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LABEL = "nightly-regression"
LISTED = 500
GITHUB = "https://github.com"


class Issue(NamedTuple):
    """title: also the key by which the open one is found.  new: open it where none is open."""

    title: str
    body: str
    new: bool


def write(path: Path, issues: Sequence[Issue]) -> None:
    """Keep the issues for :func:`post`, or no file where there is none."""
    path.unlink(missing_ok=True)
    if issues:
        held = [issue._asdict() for issue in issues]
        path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> list[Issue]:
    """What :func:`write` kept.  Raises BenchError for anything else."""
    try:
        return [Issue(**held) for held in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise BenchError(f"{path}: not the issues of a night: {error}") from None


def post(issues: Sequence[Issue]) -> None:
    """Open each, or replace the text of the one that is open.  gh reads its own settings."""
    run(["gh", "label", "create", LABEL, "--force", "--description", "opened by the nightly job"])
    asked = ["gh", "issue", "list", "--label", LABEL, "--state", "open"]
    listed = run([*asked, "--limit", str(LISTED), "--json", "number,title"])
    numbers: dict[str, int] = {}
    for held in json.loads(listed or "[]"):
        numbers[held["title"]] = min(held["number"], numbers.get(held["title"], held["number"]))
    for issue in issues:
        number = numbers.get(issue.title)
        if number is not None:
            run(["gh", "issue", "edit", str(number), "--body-file", "-"], told=issue.body)
            print(f"updated: {number}: {issue.title}")
        elif issue.new:
            made = ["gh", "issue", "create", "--title", issue.title, "--label", LABEL]
            print(f"opened: {run([*made, '--body-file', '-'], told=issue.body)}: {issue.title}")
        else:
            print(f"none is open, and it is no regression: {issue.title}")


def pages() -> str | None:
    """Address of the repository's pages, where the job runs on GitHub and says which it is."""
    whose = re.fullmatch(r"([\w-]+)/([\w.-]+)", os.environ.get("GITHUB_REPOSITORY", ""))
    if whose is None or os.environ.get("GITHUB_SERVER_URL", GITHUB) != GITHUB:
        return None
    host = f"{whose[1].lower()}.github.io"
    return f"https://{host}/" if whose[2].lower() == host else f"https://{host}/{whose[2]}/"


def run(
    command: list[str],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    told: str | None = None,
) -> str:
    """Output of a command.  told: what it reads.  Raises BenchError with its own words."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, input=told, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise BenchError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise BenchError(f"{' '.join(command[:3])}: {done.stderr.strip()}")
    return done.stdout.strip()

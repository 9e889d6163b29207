"""``python -m harness.bench [COMMITS]``: the main job, from a commit to browsable history.

1. The sweep measures what the raw log of each commit lacks, in a clean checkout under ``.asv``.
2. asv records the values of those logs.
3. The pages are published, the headline values printed.

COMMITS are commits (default HEAD) and ranges such as ``v1..main``.  The measuring code is always
the working tree's; what is measured is always a commit.  ``--derive`` measures nothing and lets asv
record every raw log in ``results/`` again, on any machine, whichever machine measured it.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness._logs import Log

RESULTS = Path("results")
CHECKOUT = Path(".asv/sweep")
NEEDED = ("asv", "rich", "torch", "triton")
# Measured packages; a change in any other file is either measuring code or of no consequence.
MEASURING = ("benchmarks/", "harness/")
NAMED_FILES = 8
WIDTH = 140


class BenchError(RuntimeError):
    """The job cannot go on; the message is a sentence for the user."""


def git(root: Path, *arguments: str) -> str:
    """Output of a git command in ``root``.  Raises BenchError with git's own words."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise BenchError("git is not installed, and commits are what is measured") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BenchError(f"git {arguments[0]}: {said[0]}")
    return done.stdout


def resolve(root: Path, commits: Sequence[str]) -> list[str]:
    """Full hashes of single commits and of ranges' first-parent histories, oldest first in each."""
    found: list[str] = []
    for spelled in commits:
        if ".." in spelled or "^" in spelled:
            found += git(root, "rev-list", "--first-parent", "--reverse", spelled, "--").split()
        else:
            found.append(git(root, "rev-parse", "--verify", f"{spelled}^{{commit}}").strip())
    if not found:
        raise BenchError(f"no commit in {' '.join(commits)}")
    return list(dict.fromkeys(found))


def dirty(root: Path, commits: Sequence[str], hashes: Sequence[str]) -> str | None:
    """The sentence on what was not measured, or None on a clean tree.

    ``results/`` does not count: measuring itself changes it.
    """
    entries = git(root, "status", "--porcelain", "--untracked-files=all", "-z").split("\0")
    # A renamed file's old name follows as an entry of its own, without the two letters.
    changed = [entry[3:] for entry in entries if len(entry) > 3 and entry[2] == " "]
    changed = sorted(path for path in changed if not path.startswith(f"{RESULTS}/"))
    if not changed:
        return None
    unmeasured = [path for path in changed if not path.startswith(MEASURING)]
    measuring = [path for path in changed if path.startswith(MEASURING)]
    counted = hashes[0][:10] if len(hashes) == 1 else f"({len(hashes)} commits)"
    text = f"measured: {' '.join(commits)} {counted}"
    if unmeasured:
        text += f"; not measured, because not committed: {_names(unmeasured)}"
    if measuring:
        text += f"; measured with uncommitted measuring code: {_names(measuring)}"
    return text


def _names(paths: Sequence[str]) -> str:
    rest = f" and {len(paths) - NAMED_FILES} more" if len(paths) > NAMED_FILES else ""
    return ", ".join(paths[:NAMED_FILES]) + rest


def missing() -> str | None:
    """What has to be installed first, a sentence, or None."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not lacking:
        return None
    names = ", ".join(lacking)
    return f"not installed in {sys.executable}: {names}. nox -s bench installs what it needs."


def limits() -> str | None:
    """What this machine cannot measure, a sentence, or None on a Hopper GPU."""
    if fingerprint.has_hopper():
        return None
    card = fingerprint.gpu().get("name")
    return (
        f"{f'{card} is not a Hopper GPU' if card else 'no GPU with a driver here'}: exactness, "
        "codegen for sm_90 and the reference's time are measured, device time and throughput not"
    )


def checkout(root: Path, commit: str, place: Path = CHECKOUT) -> Path:
    """A clean tree of ``commit`` at ``place``, sharing this repository's objects."""
    target = root / place
    if not (target / ".git").is_dir():
        git(root, "clone", "--quiet", "--shared", "--no-checkout", ".", str(target))
    git(target, "checkout", "--quiet", "--force", "--detach", commit)
    git(target, "clean", "-ffdxq")
    return target


def measure(root: Path, hashes: Sequence[str], operators: Sequence[str] | None) -> list[Path]:
    """Sweep each commit; the raw logs.  Raises BenchError when a sweep itself fails."""
    from benchmarks.sweep import sweep

    logs = []
    for number, commit in enumerate(hashes, 1):
        print(f"sweep of {commit[:10]} ({number} of {len(hashes)})", flush=True)
        tree = checkout(root, commit)
        try:
            logs.append(sweep(tree, commit, root / RESULTS, operators=operators, tell=_tell))
        except Exception as error:
            raise BenchError(
                f"the sweep of {commit[:10]} failed: {type(error).__name__}: {error}"
            ) from error
    return logs


def _tell(text: str) -> None:
    print(f"  {text}", flush=True)


def record(root: Path, logs: Sequence[Log]) -> bool:
    """Let asv record the logs; whether every value was a number.  Raises BenchError."""
    from harness import _asv

    started = time.monotonic()
    try:
        done = _asv.record(root, logs)
    except _asv.AsvError as error:
        raise BenchError(str(error)) from error
    print(f"asv recorded {done.values} values in {time.monotonic() - started:.0f} s", flush=True)
    if done.unplaced:
        print(f"not recorded: {done.unplaced} values of cases or implementations no longer timed")
    return done.whole


def report(logs: Sequence[Log], *, derived: bool) -> int:
    """Print the headline values of the newest log, and what failed in all; how many failed.

    Nothing was measured just now when ``derived``, so there is no table to look at.
    """
    from rich.console import Console

    from harness import _headline

    console, count = Console(), 0
    if not console.is_terminal:
        # Nobody's window is 80 columns wide because the output goes to a file.
        console = Console(width=WIDTH)
    if not derived:
        newest = max(logs, key=lambda log: log.age)
        versions = f"torch {newest.fact('torch')}, triton {newest.fact('triton')}"
        print(f"{newest.commit} on {newest.machine}, {versions}", flush=True)
        for table in _headline.tables(newest):
            console.print(table)
    for log in logs:
        for line in _headline.failures(log):
            count += 1
            console.print(
                f"{log.commit} {line}", style="red", markup=False, highlight=False, soft_wrap=True
            )
    return count


def bench(
    root: Path, hashes: Sequence[str], operators: Sequence[str] | None, *, derive: bool
) -> int:
    """All steps.  0, or 1 with a sentence when something did not yield a number."""
    from harness import _logs, pages

    paths = None if derive else measure(root, hashes, operators)
    logs = [log for log in _logs.load(root / RESULTS, _tell) if paths is None or log.path in paths]
    if not logs:
        raise BenchError(f"no raw log in {RESULTS} to record")
    whole = record(root, logs)
    published = pages.publish(root)
    failed = report(logs, derived=derive)
    if failed or not whole:
        print(f"{failed} of the measurements failed; their reasons are above and in the raw log")
    return 0 if published and whole and not failed else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all was measured, recorded and published; 1 with a sentence; 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.bench",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("commits", nargs="*", default=["HEAD"], metavar="COMMITS")
    parser.add_argument("--operators", help="comma-separated; default all")
    parser.add_argument(
        "--derive", action="store_true", help="measure nothing, record all raw logs again"
    )
    chosen = parser.parse_args(arguments)
    root = Path.cwd()
    operators = chosen.operators.split(",") if chosen.operators else None
    unmeasured = None
    try:
        hashes = resolve(root, chosen.commits)
        unmeasured = None if chosen.derive else dirty(root, chosen.commits, hashes)
        for line in (unmeasured, None if chosen.derive else limits()):
            if line:
                print(line, flush=True)
        lacking = missing()
        if lacking:
            raise BenchError(lacking)  # noqa: TRY301 (answered like the others, below)
        return bench(root, hashes, operators, derive=chosen.derive)
    except BenchError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; what was measured is in the raw log, the same command goes on from there"
        )
        return 130
    finally:
        if unmeasured:
            print(unmeasured, flush=True)


if __name__ == "__main__":
    sys.exit(main())

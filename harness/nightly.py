"""``python -m harness.nightly COMMAND``: the steps of the nightly job, on any machine, without GitHub.

    restore      bring the results of earlier nights from their branch into results/
    new-commits  print the commits to measure, oldest first
    verdict      compare a commit with the baseline: 0 ok, 10 regressed, 1 broken, 12 measured nothing
    issue-body   the same as Markdown, for the issue
    advance      make the commit the baseline, if the verdict is ok (or --accept: a person's decision)
    store        commit results/ to their branch and push it
    issue        open the issue, or update the one that is open (needs gh)

The baseline of a machine is a commit, named in ``results/<machine>/baseline``.  Broken is also every
way in which a command fails, so that no accident passes for a result.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import cases, fingerprint
from harness import _logs, _verdict
from harness._markdown import markdown
from harness.bench import BenchError, git

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness._verdict import Change, Verdict

BASELINE = "baseline"
HASH = re.compile(r"[0-9a-f]{40}")
LABEL = "nightly-regression"
TITLE = "Nightly: costs regressed"
AUTHOR = ("-c", "user.name=nightly", "-c", "user.email=nightly@localhost")
SHOWN = 40  # rows of a table in the issue


def read_baseline(results: Path, machine: str) -> str | None:
    """The machine's baseline, or None.  Raises BenchError for a file that names no commit."""
    path = results / machine / BASELINE
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not HASH.fullmatch(text):
        raise BenchError(f"{path}: expected a commit's 40 hex digits, got {text[:60]!r}")
    return text


def new_commits(
    root: Path, baseline: str | None, head: str, complete: Callable[[str], bool]
) -> list[str]:
    """What has to be measured, oldest first: all since the baseline, and the baseline itself where
    it was measured in another environment.  Without a baseline, only ``head``."""
    if baseline is None:
        found = [head]
    else:
        if git(root, "rev-list", "--max-count=1", f"{head}..{baseline}"):
            raise BenchError(f"the baseline {baseline[:12]} is not in the history of {head[:12]}")
        since = git(root, "rev-list", "--first-parent", "--reverse", f"{baseline}..{head}")
        found = [baseline, *since.split()]
    return [commit for commit in found if not complete(commit)]


def complete(results: Path, commit: str) -> bool:
    """Whether the raw log of ``commit`` in this environment lacks nothing."""
    from benchmarks import sweep

    path = sweep.log_path(commit, results, fingerprint.fingerprint())
    return path.is_file() and not any(
        sweep.missing(path, stem, phase, lambda _: None)
        for stem in cases.names()
        for phase in sweep.PHASES
    )


def text(verdict: Verdict) -> str:
    """The verdict for a terminal or a job's log."""
    against = verdict.baseline[:12] if verdict.baseline else "no baseline yet"
    lines = [f"{verdict.word}: {verdict.commit[:12]} on {verdict.machine}, against {against}"]
    lines += [verdict.nothing] if verdict.nothing else []
    lines.append(
        f"{verdict.compared} costs compared, {len(verdict.regressed)} regressed, "
        f"{len(verdict.improved)} improved, {verdict.throttled} throttled, "
        f"{verdict.same_program} of the same machine code"
    )
    lines += [f"broken: {line}" for line in verdict.broken]
    lines += [f"no longer there: {line}" for line in verdict.dropped]
    for name, changes in (("regressed", verdict.regressed), ("improved", verdict.improved)):
        lines += [f"{name}: {' '.join(_row(change)).replace('`', '')}" for change in changes]
    return "\n".join(lines)


def _row(change: Change) -> list[str]:
    (_, old, _), (_, new, _) = change.before, change.now
    ratio = f"{new / old:.3f}" if old else "-"
    boxes = (f"{box[1]:.5g} ({box[0]:.5g} to {box[2]:.5g})" for box in (change.before, change.now))
    named = (
        f"`{change.key.operator}`",
        f"`{change.key.case}`",
        f"{change.key.metric} {change.unit}",
    )
    return [*named, *boxes, ratio]


def body(verdict: Verdict, commits: Sequence[str]) -> str:
    """The issue.  Holds hashes and numbers only: what a commit's message says is not ours to post."""
    against = verdict.baseline or "no baseline"
    parts = [
        f"Commit {verdict.commit} on `{verdict.machine}`: **{verdict.word}** against {against}.",
        f"{verdict.compared} costs compared; median and quartiles below.",
    ]
    header = ["operator", "case", "cost", "before", "now", "ratio"]
    for title, changes in (("Regressed", verdict.regressed), ("Improved", verdict.improved)):
        if changes:
            worst = sorted(changes, key=lambda change: change.now[1] / (change.before[1] or 1))
            shown = worst[::-1] if title == "Regressed" else worst
            table = markdown(header, [_row(change) for change in shown[:SHOWN]], left=3)
            parts.append(f"### {title}: {len(changes)}\n\n{table}")
    if verdict.broken:
        lines = [f"    {line}" for line in verdict.broken[:SHOWN]]
        parts.append("### Broken\n\n" + "\n".join(lines))
    parts.append("Commits since the baseline: " + (", ".join(commits) or "none"))
    parts.append(
        f"On purpose? `python -m harness.nightly advance --commit {verdict.commit} --accept`"
    )
    return "\n\n".join(parts) + "\n"


def advance(results: Path, verdict: Verdict, *, accept: bool) -> int:
    """Move the baseline to the verdict's commit; the verdict's code when that is refused."""
    if verdict.code != _verdict.OK and not accept:
        print(f"the baseline stays: {verdict.word}")
        return verdict.code
    path = results / verdict.machine / BASELINE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(verdict.commit + "\n", encoding="utf-8")
    print(f"{path}: {verdict.commit}")
    return 0


def restore(root: Path, results: Path, branch: str) -> int:
    """Unpack the branch's machines over results/; the first night there is no such branch."""
    reference = f"refs/remotes/origin/{branch}"
    if not git(root, "for-each-ref", reference).strip():
        print(f"origin has no branch {branch} yet")
        return 0
    done = subprocess.run(
        ["git", "archive", "--format=tar", reference], cwd=root, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        # Python 3.11 before its fourth patch takes no filter=.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        tar.extractall(results)  # noqa: S202 (the repository's own; git holds no path outside)
    print(f"{results}: as of {git(root, 'rev-parse', '--short=12', reference).strip()}")
    return 0


def store(root: Path, results: Path, branch: str) -> int:
    """Commit the machines' folders on top of the branch, without a checkout, and push that.

    Not forced: when somebody else pushed meanwhile it fails, and loses nothing of theirs.
    """
    parent = git(root, "for-each-ref", "--format=%(objectname)", f"refs/remotes/origin/{branch}")
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {
            "GIT_INDEX_FILE": str(Path(folder) / "index"),
            "GIT_DIR": git(root, "rev-parse", "--absolute-git-dir").strip(),
            "GIT_WORK_TREE": str(results.resolve()),
        }
        _run(["git", "add", "--all", "--force", "--", ":(glob)*/**"], results, env)
        tree = _run(["git", "write-tree"], results, env)
    if parent and git(root, "rev-parse", f"{parent.strip()}^{{tree}}").strip() == tree:
        print(f"{branch}: nothing new")
        return 0
    onto = ["-p", parent.strip()] if parent else []
    made = git(root, *AUTHOR, "commit-tree", tree, *onto, "-m", "Results of a nightly run").strip()
    git(root, "push", "origin", f"{made}:refs/heads/{branch}")
    print(f"{branch}: {made[:12]}")
    return 0


def issue(path: Path) -> int:
    """Open the issue, or replace the text of the one that is open.  gh reads its own settings."""
    _run(["gh", "label", "create", LABEL, "--force", "--description", "opened by the nightly job"])
    listed = ["gh", "issue", "list", "--label", LABEL, "--state", "open", "--json", "number"]
    number = _run([*listed, "--limit", "1", "--jq", ".[].number"])
    if number:
        _run(["gh", "issue", "edit", number, "--body-file", str(path)])
    else:
        made = ["gh", "issue", "create", "--title", TITLE, "--label", LABEL]
        number = _run([*made, "--body-file", str(path)])
    print(f"issue: {number}")
    return 0


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Output of a command.  Raises BenchError with its own words."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise BenchError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise BenchError(f"{' '.join(command[:3])}: {done.stderr.strip()}")
    return done.stdout.strip()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m harness.nightly",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    names = ("restore", "new-commits", "verdict", "issue-body", "advance", "store", "issue")
    made.add_argument("command", choices=names)
    made.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    made.add_argument("--machine", default=fingerprint.machine_name(), help="default: this one")
    made.add_argument("--commit", default="HEAD", help="default: HEAD")
    made.add_argument("--branch", default="results", help="of restore and store; default: results")
    made.add_argument("--body", type=Path, help="of issue: the file that issue-body filled")
    made.add_argument("--accept", action="store_true", help="advance whatever the verdict is")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    line = parser()
    options = line.parse_args(arguments)
    if options.command == "issue" and options.body is None:
        line.error("issue needs --body FILE")
    try:
        return _do(options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return _verdict.BROKEN


def _do(options: argparse.Namespace) -> int:
    root, results = Path.cwd(), options.results
    if options.command == "issue":
        return issue(options.body)
    if options.command in ("restore", "store"):
        return (restore if options.command == "restore" else store)(root, results, options.branch)
    head = git(root, "rev-parse", "--verify", f"{options.commit}^{{commit}}").strip()
    baseline = read_baseline(results, options.machine)
    if options.command == "new-commits":
        for commit in new_commits(root, baseline, head, lambda one: complete(results, one)):
            print(commit)
        return 0
    logs = _logs.load(results, lambda said: print(said, file=sys.stderr))
    verdict = _verdict.judge(logs, options.machine, baseline, head)
    here = options.machine == fingerprint.machine_name()
    if here and not verdict.nothing and not complete(results, head):
        verdict.broken.append("the sweep did not come to its end")
    return _judged(options, verdict)


def _judged(options: argparse.Namespace, verdict: Verdict) -> int:
    """The commands that need a verdict."""
    if options.command == "advance":
        return advance(options.results, verdict, accept=options.accept)
    if options.command == "verdict":
        print(text(verdict))
        return verdict.code
    since = (
        [f"{verdict.baseline}..{verdict.commit}"] if verdict.baseline else ["-1", verdict.commit]
    )
    commits = git(Path.cwd(), "rev-list", "--first-parent", "--reverse", *since).split()
    print(body(verdict, commits), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

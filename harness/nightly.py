"""``python -m harness.nightly COMMAND``: the steps of the nightly job, on any machine, without GitHub.

    restore      bring the results of earlier nights from their branch into results/
    new-commits  print the commits to measure, oldest first
    verdict      the screen: compare a commit's sweep with the baseline's
    confirm      the same, and the gate measures again what the screen suspects; its exit code decides
    issue-body   the same as Markdown; with --issues FILE, an issue for each regression as well
    advance      make the commit the baseline, if the verdict is ok (or --accept: a person's decision)
    store        commit results/ to their branch and push it
    issue        open the issues, or update those that are open (needs gh)

exit code: 0 ok, 10 regressed, 11 inconclusive (of confirm), 12 measured nothing; every other is broken,
which is also every way in which a command fails, so that no accident passes for a result.
The baseline of a machine is a commit, named in ``results/<machine>/baseline``.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import cases, fingerprint
from harness import _confirm, _issues, _logs, _night_text, _results_branch, _verdict, doctor
from harness.bench import BenchError, git

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness._verdict import Verdict

BASELINE = "baseline"
HASH = re.compile(r"[0-9a-f]{40}")
PASSED = "success"  # of a step of the workflow


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


def advance(results: Path, verdict: Verdict, code: int, *, accept: bool) -> int:
    """Move the baseline to the verdict's commit; the night's code when that is refused."""
    if code != _verdict.OK and not accept:
        print(f"the baseline stays: {_verdict.WORDS[code]}")
        return code
    path = results / verdict.machine / BASELINE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(verdict.commit + "\n", encoding="utf-8")
    print(f"{path}: {verdict.commit}")
    return 0


def confirm(results: Path, verdict: Verdict, blocks: int | None) -> int:
    """The screen's verdict, and the gate's where the screen suspects anything.

    Raises BenchError for another machine's verdict: this one can measure nothing about that.
    """
    from gate import compare

    if verdict.machine != fingerprint.machine_name():
        raise BenchError(f"confirm measures, and this machine is not {verdict.machine}")
    # On the first night, and not on the one that needs it.
    doctor.require(compare.NEEDED, "python -m harness.nightly confirm")
    root = Path.cwd()
    _confirm.forget(root, verdict.machine)
    print(_night_text.text(verdict), flush=True)
    if verdict.code != _verdict.REGRESSED:
        return verdict.code
    answer = _confirm.confirm(root, results, verdict, blocks)
    print(_night_text.text(verdict, answer))
    return answer.code


def issue_body(verdict: Verdict, issues: Path | None) -> int:
    """Print the night; keep its issues in the file ``issues``, or none there where it has none."""
    since = (
        [f"{verdict.baseline}..{verdict.commit}"] if verdict.baseline else ["-1", verdict.commit]
    )
    commits = git(Path.cwd(), "rev-list", "--first-parent", "--reverse", *since).split()
    answer = _confirm.kept(Path.cwd(), verdict)
    print(_night_text.body(verdict, commits, answer), end="")
    if issues:
        _issues.write(issues, _night_text.issues(verdict, commits, answer))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m harness.nightly",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    names = (
        "restore", "new-commits", "verdict", "confirm", "issue-body", "advance", "store", "issue",
    )  # fmt: skip
    made.add_argument("command", choices=names)
    made.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    made.add_argument("--machine", default=fingerprint.machine_name(), help="default: this one")
    made.add_argument("--commit", default="HEAD", help="default: HEAD")
    made.add_argument("--branch", default="results", help="of restore and store; default: results")
    made.add_argument("--issues", type=Path, help="of issue-body and issue: the file of the issues")
    made.add_argument(
        "--exact", default=PASSED, metavar="OUTCOME",
        help=f"of harness.exact; any but {PASSED} is broken",
    )  # fmt: skip
    made.add_argument("--blocks", type=int, help="of confirm, as the gate's; default: the gate's")
    made.add_argument("--accept", action="store_true", help="advance whatever the verdict is")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    line = parser()
    options = line.parse_args(arguments)
    if options.command == "issue" and options.issues is None:
        line.error("issue needs --issues FILE")
    try:
        return _do(options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return _verdict.BROKEN


def _do(options: argparse.Namespace) -> int:
    root, results = Path.cwd(), options.results
    if options.command == "issue":
        _issues.post(_issues.read(options.issues))
        return 0
    if options.command in ("restore", "store"):
        todo = getattr(_results_branch, options.command)
        return int(todo(root, results, options.branch))
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
    if options.exact != PASSED:
        verdict.broken.append(f"harness.exact did not pass: {options.exact}")
    return _judged(options, verdict)


def _judged(options: argparse.Namespace, verdict: Verdict) -> int:
    """The commands that need a verdict."""
    if options.command == "verdict":
        print(_night_text.text(verdict))
        return verdict.code
    if options.command == "confirm":
        return confirm(options.results, verdict, options.blocks)
    if options.command == "issue-body":
        return issue_body(verdict, options.issues)
    code = _confirm.outcome(verdict, _confirm.kept(Path.cwd(), verdict))
    return advance(options.results, verdict, code, accept=options.accept)


if __name__ == "__main__":
    sys.exit(main())

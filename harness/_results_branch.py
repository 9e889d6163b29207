"""The branch that keeps what a machine measured: into ``results/`` and back, without a checkout."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from harness._issues import run
from harness._verdicts_file import NAME
from harness.bench import git

AUTHOR = ("-c", "user.name=nightly", "-c", "user.email=nightly@localhost")


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
    """Commit the machines' folders and the verdicts on top of the branch, and push that.

    Not forced: when somebody else pushed meanwhile it fails, and loses nothing of theirs.
    """
    parent = git(root, "for-each-ref", "--format=%(objectname)", f"refs/remotes/origin/{branch}")
    kept = [":(glob)*/**", *([NAME] if (results / NAME).is_file() else [])]
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {
            "GIT_INDEX_FILE": str(Path(folder) / "index"),
            "GIT_DIR": git(root, "rev-parse", "--absolute-git-dir").strip(),
            "GIT_WORK_TREE": str(results.resolve()),
        }
        run(["git", "add", "--all", "--force", "--", *kept], cwd=results, env=env)
        tree = run(["git", "write-tree"], cwd=results, env=env)
    if parent and git(root, "rev-parse", f"{parent.strip()}^{{tree}}").strip() == tree:
        print(f"{branch}: nothing new")
        return 0
    onto = ["-p", parent.strip()] if parent else []
    made = git(root, *AUTHOR, "commit-tree", tree, *onto, "-m", "Results of a nightly run").strip()
    git(root, "push", "origin", f"{made}:refs/heads/{branch}")
    print(f"{branch}: {made[:12]}")
    return 0

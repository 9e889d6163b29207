"""Makes the repository: five commits."""

from __future__ import annotations

import shutil
import string
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests._miniature.build import ROOT, git

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
COPIED = ("benchmarks", "gate", "harness", "noxfile.py", "pyproject.toml", "kernels/_device.py")
OPERATORS = ("pause", "tiles")


class Commit(NamedTuple):
    """What the operators are at a commit."""

    seconds: float = 0.002
    group: int = 4
    comment: str = "a word"
    dies: bool = False
    repeat: int = 1


# A reference slower on purpose; dead at n = 1; another swizzle of n = 2048, and for n = 4096 other words
# alone, which move lines; a kernel slower on purpose.
COMMITS = {
    "first": Commit(),
    "slower": Commit(seconds=0.008),
    "dies": Commit(dies=True),
    "tuned": Commit(group=8, comment="other\n# words"),
    "again": Commit(repeat=8),
}


def build(project: Path, more: Mapping[str, str] = {}) -> dict[str, str]:
    """Make the repository at ``project``, with ``more`` files; the commits' hashes by name."""
    project.mkdir(parents=True)
    git(project, "init", "--quiet", "--initial-branch=trunk")
    for name in COPIED:
        source, target = ROOT / name, project / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    for folder in ("cases", "peers"):
        for path in (project / "benchmarks" / folder).glob("[!_]*.py"):
            path.unlink()
    for operator in OPERATORS:
        text = (HERE / f"{operator}_case.txt").read_text(encoding="utf-8")
        (project / f"benchmarks/cases/{operator}.py").write_text(text, encoding="utf-8")
    for name, text in more.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text, encoding="utf-8")
    (project / ".gitignore").write_text(".gate/\n__pycache__/\n", encoding="utf-8")
    return {name: _commit(project, name, values) for name, values in COMMITS.items()}


def _commit(project: Path, name: str, values: Commit) -> str:
    for package, operator in (("reference_impl", "pause"), ("kernels", "tiles")):
        (project / package).mkdir(exist_ok=True)
        (project / package / "__init__.py").touch()
        text = string.Template((HERE / f"{operator}.txt").read_text(encoding="utf-8"))
        target = project / package / f"{operator}.py"
        target.write_text(text.substitute(values._asdict()), encoding="utf-8")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--allow-empty", f"--message={name}")
    return git(project, "rev-parse", "HEAD")

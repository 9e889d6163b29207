"""Makes the repository, and the raw logs of a GPU that it was never measured on."""

from __future__ import annotations

import os
import shutil
import string
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks import rawlog
from benchmarks.metrics import METRICS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COPIED = ("benchmarks", "harness", "asv.conf.json", "package.json", "package-lock.json")
CASES = ("n=4", "n=8")
GOOD, WRONG = "y = x * 2", "y = x * 2 + 1"
DIES = "y = os.kill(os.getpid(), signal.SIGSEGV)"


class Toy(NamedTuple):
    """One operator at one commit: how long its reference takes, and what its kernel does."""

    seconds: float
    statement: str = GOOD


FAST, SLOW = 0.002, 0.008
# ``drift`` gets slower, ``gain`` faster; ``late`` comes later, is wrong, then kills its process.
COMMITS: tuple[dict[str, Toy], ...] = (
    {"drift": Toy(FAST), "gain": Toy(SLOW)},
    {"drift": Toy(SLOW), "gain": Toy(SLOW), "late": Toy(FAST)},
    {"drift": Toy(SLOW), "gain": Toy(FAST), "late": Toy(FAST, WRONG)},
    {"drift": Toy(SLOW), "gain": Toy(FAST), "late": Toy(FAST, DIES)},
)
OPERATORS = ("drift", "gain", "late")

GPU = {
    "machine": "test-gpu", "os": "Linux 6", "arch": "x86_64", "cpu": "test", "num_cpu": "16",
    "ram": "128 GiB", "gpu": "Test GPU", "driver": "595.1", "capability": "9.0",
    "sm_clock_max_mhz": "1980", "memory_clock_max_mhz": "3201", "power_limit_w": "700.0",
    "python": "3.12", "torch": "2.11.0", "triton": "3.6.0",
}  # fmt: skip
# GB/s of each commit in the GPU's logs: a loss and a gain of half.
GBPS = {"drift": (1000.0, 1000.0, 500.0, 500.0), "gain": (1000.0, 1000.0, 1500.0, 1500.0)}
TRITONS = ("3.6.0", "3.7.1")


def environment() -> dict[str, str]:
    """This process's, less what would reach into the miniature: settings of git and tests."""
    foreign = ("GIT_", "FP8_", "ASV_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    kept.pop("TRITON_INTERPRET", None)
    return kept | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def git(project: Path, *arguments: str) -> str:
    """Output of a git command in the project."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=project, env=environment(), check=True, capture_output=True, text=True
    ).stdout.strip()


def run(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python -m ...`` in the project."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=project, env=environment() | variables,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def build(project: Path) -> list[str]:
    """Make the repository at ``project``; the hashes of its commits, oldest first."""
    project.mkdir(parents=True)
    git(project, "init", "--quiet", "--initial-branch=trunk")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=ignored)
        else:
            shutil.copyfile(source, project / name)
    for folder in ("cases", "peers"):
        for path in (project / "benchmarks" / folder).glob("[!_]*.py"):
            path.unlink()
    for operator in OPERATORS:
        _write(project / "benchmarks/cases" / f"{operator}.py", "case", operator=operator)
    npm = ROOT / ".asv/npm"
    if npm.is_dir():  # brought once is enough
        shutil.copytree(npm, project / ".asv/npm")
    (project / ".gitignore").write_text(".asv/\nresults/\n__pycache__/\n", encoding="utf-8")
    return [_commit(project, number) for number in range(len(COMMITS))]


def _write(path: Path, template: str, **values: object) -> None:
    text = (HERE / f"{template}.txt").read_text(encoding="utf-8")
    path.write_text(string.Template(text).substitute(values), encoding="utf-8")


def _commit(project: Path, number: int) -> str:
    for package in ("kernels", "reference_impl"):
        (project / package).mkdir(exist_ok=True)
        (project / package / "__init__.py").touch()
    _write(project / "reference_impl/wgmma.py", "wgmma")
    for operator, toy in COMMITS[number].items():
        _write(
            project / f"kernels/{operator}.py", "kernel", operator=operator, statement=toy.statement
        )
        target = project / f"reference_impl/{operator}.py"
        _write(target, "reference", operator=operator, seconds=toy.seconds)
    git(project, "add", "--all")
    # Dates that differ: asv orders commits by them.
    date = f"--date=2026-01-0{number + 1}T12:00:00Z"
    git(project, "commit", "--quiet", date, f"--message=commit {number}")
    return git(project, "rev-parse", "HEAD")


def write_gpu_logs(project: Path, hashes: list[str]) -> None:
    """Raw logs as a GPU box would bring them: every commit under two versions of Triton.

    No two of them hold the same numbers, and no two cases, so that a mix-up shows.
    """
    for triton in TRITONS:
        facts = GPU | {"triton": triton}
        better = 1.1 if triton == TRITONS[1] else 1.0
        for number, commit in enumerate(hashes):
            name = rawlog.file_name(commit, facts["python"], facts["torch"], triton)
            path = project / "results" / facts["machine"] / "raw" / name
            writer = rawlog.Writer(path, commit=commit, process="test")
            date = f"2026-01-0{number + 1}T12:00:00Z"
            writer.append("process", machine=facts, date=date, harness="test")
            for operator, rates in GBPS.items():
                for index, case in enumerate(CASES):
                    rate = rates[number] * better * (1 + 0.01 * index)
                    for metric, value in (("gbps", rate), ("device_us", 1e6 / rate)):
                        writer.append(
                            "sample", operator=operator, case=case, implementation="kernels",
                            metric=metric, unit=METRICS[metric].unit, round=0,
                            samples=[value * 0.999, value, value * 1.001],
                        )  # fmt: skip

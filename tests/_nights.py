"""A small repository with raw logs of our making, and no GitHub: what the nightly job works on."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from benchmarks import cases, fingerprint, rawlog, tasks
from benchmarks.metrics import METRICS
from harness import nightly

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = "box-of-this-test"
FACTS = {
    "machine": MACHINE, "gpu": "NVIDIA H200", "driver": "580.159", "capability": "9.0",
    "sm_clock_max_mhz": "1980", "memory_clock_max_mhz": "3201", "power_limit_w": "700.0",
    "cpu": "Xeon", "python": "3.12", "torch": "2.11.0", "triton": "3.6.0",
}  # fmt: skip
OPERATOR = "fp8_gemm"
CASE = next(case.label for case in cases.load(OPERATOR).CASES if case.bench)
STEADY = [100.0, 100.5, 101.0, 99.5, 99.0]
# `python -m gate` in the current folder.
GATE = """import json, pathlib, sys
pathlib.Path("asked").write_text(json.dumps(sys.argv[1:]))
said = json.loads(pathlib.Path("says").read_text())
told = said["told"]
if told is not None:
    after = lambda name: pathlib.Path(sys.argv[sys.argv.index(name) + 1])
    told = {"base": sys.argv[2], "head": sys.argv[3], "code": said["code"]} | told
    after("--json").write_text(json.dumps(told))
    after("--markdown").write_text("| the gate's table |")
sys.exit(said["code"])
"""


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class Project:
    """A repository of three commits and their raw logs; it is the current folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.results = root / "results"
        self.commits = []
        git(root, "init", "--quiet", "--initial-branch", "main")
        for name in ("base", "middle", "head"):
            git(root, "commit", "--quiet", "--allow-empty", "--message", f"@everyone {name}")
            self.commits.append(git(root, "rev-parse", "HEAD"))
        self.base, self.middle, self.head = self.commits

    def log(self, commit: str, **facts: str) -> Log:
        """A raw log of ``commit`` with its process row."""
        known = FACTS | facts
        named = rawlog.file_name(commit, known["python"], known["torch"], known["triton"])
        writer = rawlog.Writer(
            self.results / MACHINE / "raw" / named, commit=commit, process="process"
        )
        writer.append("process", machine=known, date="2026-08-22T00:00:00Z")
        return Log(writer)

    def baseline(self, commit: str) -> None:
        path = self.results / MACHINE / nightly.BASELINE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit + "\n")

    def call(self, *arguments: str) -> int:
        return nightly.main([*arguments, "--machine", MACHINE])


class Log:
    """Writes rows of one case."""

    def __init__(self, writer: rawlog.Writer) -> None:
        self.writer = writer

    def put(self, metric: str, samples: list[float], **more: Any) -> Log:
        row = {
            "operator": OPERATOR, "case": CASE, "implementation": "kernels", "metric": metric,
            "unit": METRICS[metric].unit, "round": 0, "samples": samples,
        }  # fmt: skip
        self.writer.append("sample", **(row | more))
        return self

    def program(self, code: str, warps: int = 8) -> Log:
        kernel = {"sass_code": code, "grid": [132], "warps": warps, "shared": 1024}
        return self.put("registers", [168], detail={"kernels": [kernel]})

    def status(self, status: str, phase: str = "run", implementation: str = "kernels") -> Log:
        self.writer.append(
            "status", operator=OPERATOR, case=CASE, implementation=implementation, phase=phase,
            status=status, reason="signal 11",
        )  # fmt: skip
        return self


def scaled(factor: float) -> list[float]:
    return [factor * value for value in STEADY]


def whole(log: Log) -> None:
    """Everything that a sweep on this machine measures."""
    for stem in cases.names():
        for phase in ("codegen", "run"):
            for task in tasks.tasks(stem, phase, hopper=fingerprint.has_hopper()):
                row = {"operator": stem, "case": task.case, "round": task.round}
                log.put(task.last, [1.0], **row, implementation=task.implementation)


class Night:
    """A project of which HEAD's sweep is suspicious, and its gate."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.answer = project.root / ".gate/nightly" / f"{MACHINE}.json"
        folder = project.root / "gate"
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "__main__.py").write_text(GATE)

    def says(self, code: int, /, *rows: dict[str, Any], **more: Any) -> Night:
        told = {"rows": list(rows)} | more
        (self.project.root / "says").write_text(json.dumps({"code": code, "told": told}))
        return self

    def asked(self) -> list[str]:
        held: list[str] = json.loads((self.project.root / "asked").read_text())
        return held

    def baseline(self) -> str | None:
        return nightly.read_baseline(self.project.results, MACHINE)

    def issues(self, *more: str) -> list[dict[str, Any]]:
        """What issue-body keeps for the issues."""
        path = self.project.root / "issues.json"
        path.write_text("an earlier night's")
        assert self.project.call("issue-body", "--issues", str(path), *more) == 0
        held: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return held


def row(verdict: str, metric: str = "device_us", **more: Any) -> dict[str, Any]:
    """A verdict of the gate."""
    known = {
        "operator": OPERATOR, "case": CASE, "implementation": "kernels", "metric": metric,
        "verdict": verdict, "gates": metric != "launch_us", "base": 100.0, "head": 150.0, "change": 0.5,
    }  # fmt: skip
    return known | more

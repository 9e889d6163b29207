"""What happens to the miniature before the test looks at it, and readers of what is left.

A sweep is killed, its rerun is killed in asv's phase, the logs of a GPU box and some damaged files
come in, asv records all of it, and the pages are published.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from asv.results import Results

from benchmarks import bench_operators, fingerprint, rawlog
from tests._miniature import build

PATIENCE_S = 120.0
# A dict of nothing, a list, bytes that are no text, and a file that ends too early.
DAMAGED = {
    "00000000-empty.json": b"{}",
    "00000001-list.json": b"[1, 2]",
    "00000002-bytes.json": b"\xff\xfe\x00",
    "00000003-short.json": b'{"commit_hash": "00',
}


class Project(NamedTuple):
    """root: of the repository.  hashes: of its commits.  before: raw logs as the first kill left
    them.  swept: as the complete sweep left them.  published: what the last command printed."""

    root: Path
    hashes: list[str]
    before: dict[str, bytes]
    swept: dict[str, bytes]
    published: subprocess.CompletedProcess[str]

    def logs(self) -> dict[str, bytes]:
        return logs(self.root)


def logs(root: Path) -> dict[str, bytes]:
    """Raw logs of this machine, by their names."""
    folder = root / "results" / fingerprint.machine_name() / "raw"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


def rows(text: bytes, kind: str = "sample") -> list[dict[str, Any]]:
    found = (json.loads(line) for line in text.splitlines() if line.endswith(b"}"))
    return [row for row in found if row["kind"] == kind]


def kill_when(root: Path, arguments: list[str], ready: Callable[[], bool]) -> None:
    """Start ``python -m ...`` and ``kill -9`` it, and asv below it, as soon as ``ready``."""
    with (root / "output.txt").open("wb") as output:
        job = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=root, env=build.environment(), stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert job.poll() is None, (root / "output.txt").read_text(encoding="utf-8")
        assert time.monotonic() < deadline, "never came to the point where it is killed"
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    end_orphans(root)


def end_orphans(root: Path) -> None:
    """End what the killed command had started: processes whose command line names ``root``."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if os.fsencode(root) in command and int(folder.name) != os.getpid():
                os.kill(int(folder.name), signal.SIGKILL)
    time.sleep(0.2)


def tell(root: Path) -> Project:
    """Build the repository at ``root`` and let all of it happen; takes about a minute."""
    hashes = build.build(root)
    wanted = ["harness.bench", hashes[0], f"{hashes[0]}..HEAD"]

    def in_the_second_operator() -> bool:
        return any(row["operator"] == "gain" for text in logs(root).values() for row in rows(text))

    kill_when(root, wanted, in_the_second_operator)
    before = logs(root)

    def in_asv() -> bool:
        log = root / ".asv/asv.log"
        return log.exists() and b"drift.track_rms_error" in log.read_bytes()

    kill_when(root, wanted, in_asv)
    swept = logs(root)
    build.write_gpu_logs(root, hashes)
    folder = root / "results" / fingerprint.machine_name()
    for name, content in DAMAGED.items():
        (folder / name).write_bytes(content)
    (root / "results/elsewhere").mkdir()
    (root / "results/elsewhere/machine.json").write_bytes(b'{"machine": "else')
    published = build.run(root, "harness.bench", "--derive")
    return Project(root, hashes, before, swept, published)


def results(project: Project, machine: str, triton: str | None = None) -> dict[str, Results]:
    """asv's results of one machine, by commit."""
    found = {}
    for path in sorted((project.root / "results" / machine).glob("*-checkout-*.json")):
        if triton is None or path.stem.endswith(f"triton{triton}"):
            result = Results.load(str(path))
            found[result.commit_hash] = result
    return found


def numbers(project: Project, result: Results) -> dict[rawlog.Key, float | None]:
    """What asv holds, by key: a number, or None for a failure; n/a is left out."""
    suite = json.loads((project.root / "results/benchmarks.json").read_text(encoding="utf-8"))
    held: dict[rawlog.Key, float | None] = {}
    for name in result.get_all_result_keys():
        _, operator, track = name.split(".")
        cases, implementations = (
            [value.strip("'") for value in axis] for axis in suite[name]["params"]
        )
        values = iter(result.get_result_value(name, suite[name]["params"]))
        for case in cases:
            for implementation in implementations:
                value = next(values)
                if value is None or not math.isnan(value):  # NaN is not available
                    key = rawlog.Key(operator, case, implementation, track.removeprefix("track_"))
                    held[key] = value
    return held


def expected(path: Path) -> dict[rawlog.Key, float]:
    """Median of every sample that a raw log holds, where asv keeps the metric."""
    measured = rawlog.collect(rawlog.read(path, _refuse))
    return {
        key: found.median
        for key, found in measured.items()
        if key.metric in bench_operators.RECORDED
    }


def _refuse(problem: str) -> None:
    raise AssertionError(problem)


def log_path(project: Project, machine: str, commit: str, triton: str = "") -> Path:
    (path,) = (project.root / "results" / machine / "raw").glob(
        f"{commit[:12]}-*triton{triton}*.jsonl"
    )
    return path

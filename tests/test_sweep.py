"""A sweep that is killed: nothing goes on measuring, and a step is in the log whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import fingerprint, rawlog, sweep, tasks
from benchmarks.worker import Worker

# The real sweep and the real start of its child, whose work is to wait.
SWEEP = """
import sys
from pathlib import Path
from benchmarks import rawlog, sweep

root = Path(sys.argv[1])
work = "import time; Worker.run = lambda self: (Path(sys.argv[2], 'begun').touch(), time.sleep(600))"
sweep.CHILD = sweep.CHILD.replace("main(", f"from benchmarks.worker import Path, Worker; {work}; main(")
writer = rawlog.Writer(root / "log.jsonl", commit="0" * 40, process="p")
sweep._run_child("act_quant", "codegen", root, writer, print)
"""
PATIENCE_S = 60.0


def wait(ready: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(ready())


def processes(word: str) -> list[int]:
    """Numbers of the processes whose command line has ``word`` in it; a zombie has none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if word.encode() in command:
            found.append(int(folder.name))
    return found


def test_kill_9_of_the_sweep_ends_its_child(tmp_path: Path) -> None:
    """Else it would go on measuring beside the rerun, on the same GPU and into the same log."""
    for name in ("kernels", "reference_impl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    parent = subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert wait((tmp_path / "begun").exists, PATIENCE_S), "the child never began"
        assert len(processes(str(tmp_path))) == 2
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    try:
        assert wait(lambda: not processes(str(tmp_path)), 10.0), "the child outlived the sweep"
    finally:
        for number in processes(str(tmp_path)):
            subprocess.run(["kill", "-9", str(number)], check=False)


class Dying(Worker):
    """Has two numbers of each step when ``error`` comes."""

    error: BaseException

    def codegen(self, task: tasks.Task) -> None:
        self.write(task, "registers", value=32)
        self.write(task, "spills", value=0)
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a reason")])
def test_a_step_that_was_not_finished_has_no_number(tmp_path: Path, error: BaseException) -> None:
    writer = rawlog.Writer(tmp_path / "log.jsonl", commit="0" * 40, process="p")
    Dying.error = error
    try:
        Dying(writer, "wgmma", "codegen").run()
    except KeyboardInterrupt:
        assert not writer.path.exists()
    else:
        rows = rawlog.read(writer.path, pytest.fail)
        assert {(row["kind"], row["status"]) for row in rows} == {("status", "failed")}
        assert rows


@pytest.mark.parametrize("phases", [("codegen",), ("run",), sweep.PHASES])
def test_a_phase_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phases: tuple[str, ...]
) -> None:
    """Compiling comes first, and what is not asked for is not begun."""
    begun: list[str] = []
    monkeypatch.setattr(sweep, "_run_child", lambda stem, phase, *rest: begun.append(phase))
    monkeypatch.setattr(sweep, "_date", lambda checkout, commit: "2026-01-01")
    sweep.sweep(tmp_path, "0" * 40, tmp_path, operators=["act_quant"], phases=phases, tell=print)
    ceilings = ["run"] if fingerprint.has_hopper() and "run" in phases else []
    assert begun == [*(phase for phase in ("codegen",) if phase in phases), *ceilings, *(
        phase for phase in ("run",) if phase in phases
    )]  # fmt: skip

"""The edit loop: what its command line means, that it sees uncommitted changes, and that a wrong
result has no number."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases, measure, peers, roofline
from benchmarks.cases.fp8_gemm import Fp8Gemm
from harness import _desk, _problem, timing
from tests.test_inputs import LAUNCHING, small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.cases import Case

OPERATORS = cases.names()


@pytest.mark.parametrize("stem", OPERATORS)
def test_what_is_taken_without_a_case(stem: str) -> None:
    timed = [case for case in cases.load(stem).CASES if case.bench]
    on_gpu = timing.selected(stem, None, hopper=True)
    assert 1 <= len(on_gpu) <= timing.SAMPLE
    assert set(on_gpu) <= set(timed)
    assert len(on_gpu) == min(timing.SAMPLE, len(timed))
    on_cpu = timing.selected(stem, None, hopper=False)
    assert set(on_cpu) <= set(cases.on_cpu(stem))
    assert on_cpu[0].bench
    assert sum(case.interpreter_steps() for case in on_cpu) <= timing.STEPS


# The whole command, on a tree of its own.


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, committed."""
    root = tmp_path_factory.mktemp("tree")
    for package in ("benchmarks", "harness", "kernels", "reference_impl"):
        shutil.copytree(
            _problem.ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(_problem.ROOT / ".gitignore", root)
    for arguments in (
        ["init", "-q"], ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"],
    ):  # fmt: skip
        subprocess.run(["git", *arguments], cwd=root, check=True)
    return root


def command(root: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command in a tree."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "harness.timing", *arguments], cwd=root, text=True,
        capture_output=True, env=environment, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@contextmanager
def edited(tree: Path, old: str, new: str) -> Iterator[None]:
    """An uncommitted change of one kernel."""
    kernel = tree / "kernels" / "weight_dequant.py"
    before = kernel.read_text()
    assert old in before
    kernel.write_text(before.replace(old, new))
    try:
        yield
    finally:
        kernel.write_text(before)


@pytest.mark.long
@pytest.mark.cpu
def test_a_clean_tree(tree: Path) -> None:
    code, out, err = command(tree, "weight_dequant")
    assert code == 0, err
    head = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.splitlines()[0] == f"working tree at {head.stdout.strip()}, nothing modified"
    assert re.search(r"n=64 k=320 out=bf16 data=normal +│ equal +│ +20480 │", out)
    assert re.search(r"^and \d+ further cases: equal", out, re.MULTILINE)
    assert re.search(r"│ weight_dequant │ +\d+ │ +4 │", out)
    status = subprocess.run(
        ["git", "status", "--porcelain", "--ignored"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    )
    left = [line for line in status.stdout.splitlines() if "__pycache__" not in line]
    assert left == []  # nothing is recorded


@pytest.mark.long
@pytest.mark.cpu
def test_an_uncommitted_mistake_is_found_and_has_no_number(tree: Path) -> None:
    with edited(tree, "(q * scale)", "(q * scale * 1.01)"):
        code, out, _ = command(tree, "weight_dequant", "64,320")
    assert code == 1
    assert out.splitlines()[0].endswith(", modified: kernels/weight_dequant.py")
    assert re.search(r"│ wrong: \d+ differ +│ +20480 +│ +│ +│ +│ +│", out)
    assert "elements differ in bits" in out


@pytest.mark.cpu
def test_a_kernel_that_does_not_compile_says_so(tree: Path) -> None:
    with edited(tree, "WARPS = 4", "WARPS = 3"):  # refused by the compiler alone
        code, out, _ = command(tree, "weight_dequant", "64,320")
    assert code == 1
    assert re.search(r"data=normal +│ equal +│ +20480 │", out)
    assert "does not compile" in out
    assert "num_warps must be a power of 2" in out


@pytest.mark.cpu
def test_a_kernel_that_raises_shows_where(tree: Path) -> None:
    with edited(tree, "block_k = tl.program_id", "block_k = tl.programme_id"):
        code, _, err = command(tree, "weight_dequant", "64,320")
    assert code == 1
    assert "programme_id" in err
    assert "kernels/weight_dequant.py" in err


def test_usage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "on_gpu", None)  # would be found out
    monkeypatch.setattr(timing, "on_cpu", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert timing.main(["act_qant"]) == 2
    assert "did you mean act_quant?" in capsys.readouterr().err
    assert timing.main(["act_quant", "m=12345"]) == 2
    assert "m=12345" in capsys.readouterr().err


def test_a_large_case_is_not_claimed_to_be_checked() -> None:
    row = _desk.interpreted("fp8_gemm", _problem.find("fp8_gemm", "layer=o,m=4096"), timed=True)
    assert row.problem.startswith("not checked here: needs Hopper: ")
    assert not row.wrong
    assert _desk._checked(row) == ["not checked"]


# The path of the GPU, with a clock that stands still: everything but the time itself is real.


class Clock:
    """Stands for benchmarks.measure where there is no GPU."""

    samples = (10.0, 12.0, 11.0)

    def device_us(self, make: Callable[[], Callable[[], Any]], **_: Any) -> measure.Timing:
        calls = [make() for _ in range(2)]
        outputs = [call() for call in calls]

        def replay() -> None:
            for call, output in zip(calls, outputs, strict=True):
                for kept, new in zip(_tuple(output), _tuple(call()), strict=True):
                    kept.copy_(new)

        return measure.Timing(list(self.samples), outputs, replay, {"throttle": ["power cap"]})


def _tuple(value: Any) -> tuple[torch.Tensor, ...]:
    parts = value if isinstance(value, tuple) else (value,)
    return tuple(part for part in parts if part is not None)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, device: str) -> Callable[[str], _desk.Desk]:
    monkeypatch.setattr(measure, "device_us", Clock().device_us)
    monkeypatch.setattr(measure, "launch_us", lambda call: [3.0, 5.0, 4.0])
    monkeypatch.setattr(roofline, "copy_us", lambda nbytes: [5.5])
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    real = _desk.Desk
    return lambda stem: real(stem, device)


class Peer:
    """An adapter that is right, absent or wrong."""

    OPERATORS = ("fp8_gemm",)
    reason: str | None = None
    factor = 1.0

    def missing(self) -> str | None:
        return self.reason

    def prepare(self, stem: str, arguments: dict[str, Any]) -> Callable[[], Any]:
        function = cases.public("kernels", stem)
        return lambda: function(**arguments) * self.factor


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Peer:
    found = Peer()
    monkeypatch.setattr(peers, "names", lambda stem=None: ["other"])
    monkeypatch.setattr(peers, "load", lambda name: found)
    return found


def shown(stem: str, rows: list[_desk.Row], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Cells of the table's rows, but for the case's name."""
    _problem.console().print(_desk.table(stem, rows))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")][1:] for line in lines]
    return [row for row in cells if any(row)]  # a long name goes on in lines of its own


GEMM = Fp8Gemm(m=64, n=128, k=256)


@pytest.mark.usefixtures("products")
def test_ours_and_a_peer_on_one_case(
    desk: Callable[[str], _desk.Desk], peer: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(desk("fp8_gemm").rows(GEMM))
    cost = GEMM.cost()
    tflops, gbps = f"{cost.flops / 11 / 1e6:.0f}", f"{cost.bytes / 11 / 1e3:.0f}"
    numbers = ["11.00", "[10.50 11.50]", tflops, gbps, "50%", "4.0", "0", "power cap"]
    assert shown("fp8_gemm", rows, capsys) == [["kernels", *numbers], ["other", *numbers]]


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(
    ("reason", "factor", "said"), [("needs a pony", 1.0, "needs a pony"), (None, 1.5, "exceeds")]
)
def test_a_peer_without_numbers_has_a_sentence(
    desk: Callable[[str], _desk.Desk], peer: Peer, reason: str | None, factor: float, said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    peer.reason, peer.factor = reason, factor
    ours, other = rows = list(desk("fp8_gemm").rows(GEMM))
    assert not ours.problem
    assert said in other.problem
    assert not other.samples
    assert shown("fp8_gemm", rows, capsys)[1] == ["other", "-", *[""] * 7]


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("stem", LAUNCHING)
def test_our_mistake_has_no_number_and_fails(
    stem: str,
    desk: Callable[[str], _desk.Desk],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong bit in the first element, in what the replay writes; the last may be padding."""
    right, case = cases.public("kernels", stem), small(stem)

    @wraps(right)
    def wrong(**arguments: Any) -> Any:
        got = right(**arguments)
        first = _tuple(got)[0].view(torch.uint8)
        # Of three dimensions the first is the experts, some of which may have no rows.
        corner: Any = (..., *[0] * min(2, first.dim()))
        first[corner] ^= 1
        return got

    monkeypatch.setattr(_desk, "Desk", desk)
    assert timing.on_gpu(stem, [case]) == 0
    good = capsys.readouterr().out
    assert "11.00" in good
    assert "50%" in good
    plain = cases.public

    def public(package: str, name: str) -> Any:
        return wrong if package == "kernels" else plain(package, name)

    monkeypatch.setattr(cases, "public", public)
    assert timing.on_gpu(stem, [case]) == 1
    bad = capsys.readouterr().out
    assert re.search(r"\b[1-9]\d* of", bad)
    assert "11.00" not in bad


@pytest.mark.usefixtures("products")
def test_no_case_is_begun_when_the_time_is_over(
    desk: Callable[[str], _desk.Desk],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(_desk, "Desk", desk)
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    first: Case = small("act_quant")
    second = cases.on_cpu("act_quant")[0]
    assert timing.on_gpu("act_quant", [first, second]) == 0
    assert f"{second.label}: not begun" in capsys.readouterr().out.replace("\n", "")

"""harness.sanitize: what it runs, and what it makes of compute-sanitizer's words."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from triton import knobs

from benchmarks import cases, fingerprint
from benchmarks.cases.fp8_gemm import Fp8Gemm
from harness import _sanitized, exact, sanitize
from kernels import _fp8_gemm_few as few
from kernels import _fp8_gemm_split as split
from kernels import fp8_gemm as gemm
from kernels._device import Plans, recording
from tests.test_inputs import tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from benchmarks.cases import Case

# Of this file's tree, not of the harness's: a planted fault is in a copy.
ROOT = Path(__file__).resolve().parents[1]
HEAD = "========= COMPUTE-SANITIZER\nwarming up\n"
RAN = HEAD + "12 launches of kernels in 3 cases\n"
OVERRUN = (
    "========= Invalid __global__ read of size 16 bytes\n"
    "=========     at _act_quant_kernel+0x1f0 in act_quant.py:38\n=========\n"
)


@pytest.mark.parametrize(
    ("output", "code", "errors", "first"),
    [
        (RAN + "========= ERROR SUMMARY: 0 errors\n", 0, 0, ""),
        (RAN + "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0, 0, ""),
        (HEAD + OVERRUN + "========= ERROR SUMMARY: 3 errors\n", 9, 3, "Invalid __global__ read"),
        (
            HEAD + "========= Error: Race reported between Write access at x\n"
            "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n",
            9, 2, "Error: Race reported between",
        ),
        # Nobody counted, so nobody may say that it is clean.
        (HEAD + "Traceback\nImportError: torch\n", 1, None, "ImportError: torch"),
        ("", 0, None, "nothing was printed"),
        (
            HEAD + "========= Target application returned an error\n"
            "========= ERROR SUMMARY: 0 errors\n",
            1, None, "Target application",
        ),
        # Nothing was looked at.
        (
            HEAD + "0 launches of kernels in 3 cases\n========= ERROR SUMMARY: 0 errors\n",
            0, None, "no kernel was launched",
        ),
        (HEAD + "========= ERROR SUMMARY: 0 errors\n", 0, None, "no kernel was launched"),
    ],
    ids=[
        "clean", "no race", "overrun", "race", "no summary", "silent", "failed", "no kernel", "untold",
    ],
)  # fmt: skip
def test_verdict(output: str, code: int, errors: int | None, first: str) -> None:
    found, line = sanitize.verdict(output, code)
    assert found == errors
    assert first in line
    assert sanitize.Finding("memcheck", "x", found, line).clean == (errors == 0)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches are recorded as a GPU would have them: the interpreter starts no kernel early."""
    for stem in cases.names():
        cases.public(
            "kernels", stem
        )  # first: a kernel is made for the interpreter where it is imported
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    for name, module in [*sys.modules.items()]:
        if name.startswith("kernels.") and hasattr(module, "_plans"):
            monkeypatch.setattr(module, "_plans", Plans())


def launched(calls: Iterable[Callable[[], Any]]) -> set[tuple[str, bool]]:
    """(kernel, whether it starts while the one before ends)."""
    with recording() as launches:
        for call in calls:
            call()
    return {(one.kernel.__name__, bool(one.options.get("launch_pdl", False))) for one in launches}


def of_cases(stem: str, some: Iterable[Case]) -> set[tuple[str, bool]]:
    function = cases.public("kernels", stem)
    return launched(partial(cases.call, function, case.inputs("meta")) for case in some)


def of_configurations(stem: str, small: Sequence[Case]) -> set[tuple[str, bool]]:
    def runs() -> Iterator[Callable[[], Any]]:
        for config, case in _sanitized.configured(stem, small):
            arguments = case.inputs("meta")
            out = exact.unwritten(stem, arguments)
            yield partial(exact.run, stem, arguments, out, config)

    return launched(runs())


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("stem", cases.names())
def test_the_reduced_cases_are_small_and_launch_every_kernel(stem: str) -> None:
    """Also those that only a large case launches, and each that starts early."""
    small, every = _sanitized.reduced(stem), cases.load(stem).CASES
    assert all(moved(case) <= _sanitized.BYTES + _sanitized.UNTOUCHED for case in small)
    assert sum(case.cost().bytes for case in small) <= 4 * _sanitized.BYTES
    assert any(case.cost().bytes > 1000 for case in small)
    # Of what can be empty: experts cannot, and so bias_update has no such problem.
    assert any(map(empty, small)) or not any(map(empty, every))
    seen = of_cases(stem, small) | of_configurations(stem, small)
    assert seen
    lacking = of_cases(stem, every) - seen
    # Of a layer, whose products take other kernels where they are large: the operators' own.
    for kernel, early in lacking:
        assert (kernel, early) in of_the_product(), f"{kernel} is not launched"


def of_the_product() -> set[tuple[str, bool]]:
    """What is launched of ``fp8_gemm`` by itself."""
    return of_configurations("fp8_gemm", _sanitized.reduced("fp8_gemm"))


@pytest.mark.usefixtures("as_on_a_gpu")
def test_no_kernel_is_left_out() -> None:
    """Of those that are written, whatever the cases launch."""
    seen = set()
    for stem in cases.names():
        small = _sanitized.reduced(stem)
        seen |= {name for name, _ in of_cases(stem, small) | of_configurations(stem, small)}
    text = "".join(path.read_text() for path in (ROOT / "kernels").glob("*.py"))
    # What is no kernel by itself is called by one.
    written = set(re.findall(r"^@triton\.jit\ndef (\w+_kernel)\(", text, re.MULTILINE))
    assert len(written) > 20
    assert seen == written


def moved(case: Case) -> int:
    """Bytes of all operands and results."""
    return case.cost().bytes + case.untouched().bytes


def empty(case: Case) -> bool:
    return any(not part.numel() for part in tensors(case.inputs("meta")).values())


def test_operands_are_copied_with_their_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self.clone(), raising=True)
    arguments = Fp8Gemm(m=65, n=136, k=256).inputs("cpu")
    moved = _sanitized.on_device(arguments)
    assert moved["out_dtype"] is arguments["out_dtype"]
    for name in ("x", "x_scale", "w", "w_scale"):
        assert moved[name].stride() == arguments[name].stride()
        assert torch.equal(moved[name].float(), arguments[name].float())
        assert moved[name].data_ptr() != arguments[name].data_ptr()


class Kernel:
    """Stands for the compiled kernel: keeps the options of what is launched."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.ran: list[dict[str, Any]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.ran.append(options)


def test_the_child_runs_every_case_and_every_configuration(
    monkeypatch: pytest.MonkeyPatch, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if device == "cpu":
        monkeypatch.setattr(_sanitized, "on_device", lambda arguments: arguments)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    wide, alone, partial = Kernel("wide"), Kernel("alone"), Kernel("partial")
    promote = Kernel("promote")
    monkeypatch.setattr(gemm, "_plans", Plans())
    monkeypatch.setattr(gemm, "_fp8_gemm_kernel", wide)
    monkeypatch.setattr(few, "_few_kernel", alone)
    monkeypatch.setattr(split, "_partials_kernel", partial)
    monkeypatch.setattr(split, "_promote_kernel", promote)
    _sanitized.child("fp8_gemm")
    launches, seen = sanitize.launched(capsys.readouterr().out)
    assert launches == sum(len(kernel.ran) for kernel in (wide, alone, partial, promote)) > 0
    runs = len(wide.ran) + len(alone.ran) + len(partial.ran)
    small = _sanitized.reduced("fp8_gemm")
    assert seen == len(small)
    filled = [case for case in small if case.cost().flops]
    configured = [config for config, _ in _sanitized.configured("fp8_gemm", small)]
    assert set(configured) == set(gemm.CONFIGS)
    assert runs == len(filled) + len(configured)
    tiles = {(run["BLOCK_M"], run["BLOCK_N"], run["num_warps"]) for run in wide.ran}
    large = [config for config in gemm.CONFIGS if isinstance(config, gemm.Config)]
    assert tiles == {(config.block_m, config.block_n, config.warps) for config in large}
    assert {run["SPAN"] for run in partial.ran} == {config.span for config in split.SPLIT}
    narrow = {(run["BLOCK_M"], run["BLOCK_N"]) for run in alone.ran}
    assert narrow == {(config.block_m, config.block_n) for config in few.FEW}
    most = max(config.programs_per_sm for config in large) * _sanitized.MULTIPROCESSORS
    looping = wide.ran[-len(large) * _sanitized.CONFIGURED :]
    assert all(run["NUM_PROGRAMS"] <= most for run in looping)


def fake(folder: Path, script: str) -> str:
    """A compute-sanitizer that is a script."""
    path = folder / "compute-sanitizer"
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_tool_is_run_on_the_child_with_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake(
        tmp_path,
        "names = ('PYTORCH_NO_CUDA_MEMORY_CACHING', 'TRITON_INTERPRET')\n"
        "print('=========', *map(os.environ.get, names), *sys.argv[1:])\n"
        "print('========= ERROR SUMMARY: 1 error')\nsys.exit(9)",
    )
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    assert sanitize.find() == path
    found = sanitize.run("act_quant", "initcheck", path)
    assert found.errors == 1
    assert found.first.startswith("1 None --tool initcheck --error-exitcode 9 ")
    assert found.first.endswith("-m harness.sanitize --child act_quant")
    assert sanitize.run("act_quant", "racecheck", path).first.startswith(
        "None None --tool racecheck "
    )


def test_an_operator_that_fails_without_a_tool_is_not_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = sanitize.Finding("none", "act_quant", None, "exit code 1 without a tool: no GPU")
    monkeypatch.setattr(sanitize, "run", lambda stem, tool, sanitizer: bare)
    found = sanitize.examine(["act_quant"], sanitize.TOOLS, "x")
    assert [one.tool for one in found] == list(sanitize.TOOLS)
    assert not any(one.clean for one in found)
    sanitize.show(found, sanitize.TOOLS)
    assert capsys.readouterr().out.count("did not finish") == len(sanitize.TOOLS)


def test_an_operator_that_launches_nothing_is_not_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are tools run on it."""
    silent = "print('0 launches of kernels in 3 cases')"

    def command(stem: str, tool: str | None, sanitizer: str) -> list[str]:
        del stem, tool, sanitizer
        return [sys.executable, "-c", silent]

    monkeypatch.setattr(sanitize, "command", command)
    assert sanitize.run("moe_layer", None, "x").first == "no kernel was launched"
    found = sanitize.examine(["moe_layer"], sanitize.TOOLS, "x")
    assert [(one.errors, one.first) for one in found] == [(None, "no kernel was launched")] * 4
    silent = "print('3 launches of kernels in 2 cases')"
    assert sanitize.run("moe_layer", None, "x").clean


def test_operators_at_a_time_change_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)

    def run(stem: str, tool: str | None, sanitizer: str) -> sanitize.Finding:
        del sanitizer
        if tool is None:
            together.wait(timeout=30)
        time.sleep(0.05 * (stem == "a"))
        return sanitize.Finding(tool or "none", stem, 0, "")

    monkeypatch.setattr(sanitize, "run", run)
    kept: list[sanitize.Finding] = []
    found = sanitize.examine(["a", "b"], ["memcheck", "synccheck"], "x", 2, kept.append)
    assert [(one.operator, one.tool) for one in found] == [
        (stem, tool) for stem in "ab" for tool in ("memcheck", "synccheck")
    ]
    # As they come: what is slow holds nothing up, and a run cut short keeps what came.
    assert [(one.operator, one.tool) for one in kept][:2] == [("b", "memcheck"), ("b", "synccheck")]
    assert sorted(kept) == sorted(found)


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sanitize.main(["wgma"]) == 2
    assert "did you mean wgmma?" in capsys.readouterr().err
    assert sanitize.main(["--tools", "memcheck,rice"]) == 2
    assert "got rice" in capsys.readouterr().err
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: False)
    assert sanitize.main([]) == 3
    assert "needs a Hopper GPU" in capsys.readouterr().err
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    monkeypatch.setattr(sanitize, "find", lambda: None)
    assert sanitize.main([]) == 3
    assert "CUDA toolkit" in capsys.readouterr().err

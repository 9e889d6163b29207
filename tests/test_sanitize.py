"""harness.sanitize: what it runs, and what it makes of compute-sanitizer's words."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases, fingerprint
from benchmarks.cases.fp8_gemm import Fp8Gemm
from harness import sanitize
from kernels import _fp8_gemm_narrow as narrow
from kernels import fp8_gemm as gemm
from tests.test_inputs import tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.cases import Case

HEAD = "========= COMPUTE-SANITIZER\nwarming up\n"
OVERRUN = (
    "========= Invalid __global__ read of size 16 bytes\n"
    "=========     at _act_quant_kernel+0x1f0 in act_quant.py:38\n=========\n"
)


@pytest.mark.parametrize(
    ("output", "code", "errors", "first"),
    [
        (HEAD + "========= ERROR SUMMARY: 0 errors\n", 0, 0, ""),
        (HEAD + "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0, 0, ""),
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
    ],
    ids=["clean", "no race", "overrun", "race", "no summary", "silent", "failed"],
)  # fmt: skip
def test_verdict(output: str, code: int, errors: int | None, first: str) -> None:
    found, line = sanitize.verdict(output, code)
    assert found == errors
    assert first in line
    assert sanitize.Finding("memcheck", "x", found, line).clean == (errors == 0)


def test_the_reduced_cases_are_small_and_launch_every_kernel() -> None:
    for stem in cases.names():
        small = sanitize.reduced(stem)
        assert sum(case.interpreter_steps() for case in small) < 1500
        assert any(case.cost().bytes > 1000 for case in small)
        # Of what can be empty: experts cannot, and so bias_update has no such problem.
        assert any(map(empty, small)) or not any(map(empty, cases.load(stem).CASES))


def empty(case: Case) -> bool:
    return any(not part.numel() for part in tensors(case.inputs("meta")).values())


def test_operands_are_copied_with_their_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self.clone(), raising=True)
    arguments = Fp8Gemm(m=65, n=136, k=256).inputs("cpu")
    moved = sanitize.on_device(arguments)
    assert moved["out_dtype"] is arguments["out_dtype"]
    for name in ("x", "x_scale", "w", "w_scale"):
        assert moved[name].stride() == arguments[name].stride()
        assert torch.equal(moved[name].float(), arguments[name].float())
        assert moved[name].data_ptr() != arguments[name].data_ptr()


class Kernel:
    """Stands for the compiled kernel: keeps the options of what is launched."""

    def __init__(self) -> None:
        self.ran: list[dict[str, Any]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.ran.append(options)


def test_the_child_runs_every_case_and_every_configuration(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    if device == "cpu":
        monkeypatch.setattr(sanitize, "on_device", lambda arguments: arguments)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    wide, whole, split = Kernel(), Kernel(), Kernel()
    monkeypatch.setattr(gemm, "_fp8_gemm_kernel", wide)
    monkeypatch.setattr(narrow, "_narrow_kernel", whole)
    monkeypatch.setattr(narrow, "_partials_kernel", split)
    monkeypatch.setattr(narrow, "_promote_kernel", Kernel())
    sanitize.child("fp8_gemm")
    runs = len(wide.ran) + len(whole.ran) + len(split.ran)
    small = sanitize.reduced("fp8_gemm")
    filled = [case for case in small if case.cost().flops]
    configured = [config for config, _ in sanitize.configured("fp8_gemm", small)]
    assert set(configured) == set(gemm.CONFIGS)
    assert runs == len(filled) + len(configured)
    tiles = {(run["BLOCK_M"], run["BLOCK_N"], run["num_warps"]) for run in wide.ran}
    large = [config for config in gemm.CONFIGS if isinstance(config, gemm.Config)]
    assert tiles == {(config.block_m, config.block_n, config.warps) for config in large}
    assert {run["SPAN"] for run in split.ran} == {
        c.span for c in narrow.NARROW if c.span is not None
    }
    most = max(config.programs_per_sm for config in large) * sanitize.MULTIPROCESSORS
    looping = wide.ran[-len(large) * sanitize.CONFIGURED :]
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
    assert [one.operator for one in kept] == ["b", "b", "a", "a"]  # as they end


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

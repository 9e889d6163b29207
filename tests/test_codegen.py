"""What is read from the compiler: the hashes mean what they say, and what is shown is what runs.

Kernels are interpreted in this process on a machine without a GPU, and such kernels have no code:
so whatever compiles does so in a child process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases, codegen
from benchmarks.cases import fp8_gemm as problems
from harness import _problem
from harness import codegen as command
from kernels._device import HOPPER_SMS, Plan, sm_limit
from kernels._fp8_gemm_few import Few
from kernels._fp8_gemm_split import Split
from kernels._product import BLOCK_K
from kernels.fp8_gemm import CONFIGS, Config, choose
from tests.test_inputs import LAUNCHING, small

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.cases import Case


def compiled(arguments: list[str], cache: Path) -> str:
    """Output of a process that compiles, with nothing in Triton's cache."""
    environment = _problem.without_interpreter()
    path = [str(_problem.ROOT), environment.get("PYTHONPATH", "")]
    environment |= {
        "TRITON_CACHE_DIR": str(cache / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    done = subprocess.run(
        arguments, capture_output=True, text=True, cwd=cache, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def by_configuration() -> dict[str, str]:
    """A production case of fp8_gemm for each configuration that one is chosen by, and which."""
    found: dict[Config | Few | Split, str] = {}
    for case in problems.PRODUCTION:
        config = choose(case.m, case.n, case.k, HOPPER_SMS)
        found.setdefault(config, f"layer={case.layer},m={case.m},")
    return {case: f"m64n{config.instruction_n}k32.f32.e4m3.e4m3" for config, case in found.items()}


@pytest.fixture(scope="module")
def built() -> list[command.Built]:
    """Every operator's configurations on their largest timed cases, and fp8_gemm's by choice."""
    gemm = [("fp8_gemm", case) for case in by_configuration()]
    others = [(stem, "") for stem in LAUNCHING if stem != "fp8_gemm"]
    return command.collect(command.elsewhere([*others, *gemm]))


@pytest.mark.long
def test_every_kernel_compiles_without_spilling(built: list[command.Built]) -> None:
    assert {one.operator for one in built} == set(LAUNCHING)
    for one in built:
        assert not one.error, f"{one.operator} {one.case}: {one.error}"
        assert one.kernels
        for kernel in one.kernels:
            assert kernel.spills == 0, f"{one.operator} {one.case}: {kernel.spills} B a thread"
            assert 8 <= kernel.registers <= 255
            assert kernel.shared <= 227 * 1024  # what a block of an SM of Hopper can have
            assert kernel.instructions > 20
            assert not kernel.misled


@pytest.mark.long
def test_gemms_use_the_tensor_core_in_their_tile(built: list[command.Built]) -> None:
    """One promotion interval is four instructions of 32 channels for each 64 rows of a warpgroup."""
    wanted = {
        _problem.find("fp8_gemm", case).label: shape for case, shape in by_configuration().items()
    }
    found = {one.case: one.kernels for one in built if one.operator == "fp8_gemm"}
    assert found.keys() == wanted.keys()
    for case, (kernel, *promotion) in found.items():
        assert not any(other.wgmma for other in promotion)
        assert kernel.shapes.keys() == {wanted[case]}
        assert kernel.wgmma == kernel.shapes[wanted[case]]
        assert kernel.wgmma % (BLOCK_K // 32) == 0
    (wgmma,) = [one for one in built if one.operator == "wgmma"]
    assert wgmma.kernels[0].shapes == {"m64n64k32.f32.e4m3.e4m3": 4}


@pytest.mark.long
def test_only_products_use_it(built: list[command.Built]) -> None:
    for one in built:
        product = cases.find(one.operator, one.case).cost().flops > 0
        assert product == any(kernel.wgmma for kernel in one.kernels)


def test_a_case_that_does_not_compile_is_named(tmp_path: Path) -> None:
    """It costs its own row, and the exit code."""
    script = (
        "import sys\nfrom benchmarks import codegen\nfrom harness import codegen as command\n"
        "compile_case = codegen.compile_case\n"
        "def fail(stem, case):\n"
        "    if stem == 'wgmma':\n"
        "        raise RuntimeError('PassManager::run failed')\n"
        "    return compile_case(stem, case)\n"
        "codegen.compile_case = fail\n"
        "code = command.main(['wgmma', 'weight_dequant'])\nprint('exit code', code)\n"
    )
    out = compiled([sys.executable, "-c", script], tmp_path)
    assert "RuntimeError: PassManager::run failed" in out
    assert re.search(r"weight_dequant +│ +\d+ +│ +4 +│", out)
    assert out.endswith("exit code 1\n")


def test_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # main() leaves TRITON_INTERPRET out of it
    for arguments, said in (
        (["fp8_gem"], "did you mean fp8_gemm?"),
        (["--case", "m=1"], "--case: expected one operator"),
        (["--sass"], "--sass: expected one operator"),
        (["wgmma", "--case", "m=5"], "no case of wgmma"),
    ):
        assert command.main(arguments) == 2
        assert said in capsys.readouterr().err


def test_sass_is_printed(tmp_path: Path) -> None:
    program = [
        sys.executable,
        "-m",
        "harness.codegen",
        "fp8_gemm",
        "--sass",
        "--case",
        "64,2112,512",
    ]
    out = compiled(program, tmp_path)
    assert out.startswith(
        "// fp8_gemm m=64,n=2112,k=512,out=bf16,data=normal: _few_kernel, sm_90\n"
    )
    assert len(re.findall(r"\bQGMMA\.64x\d+x32\.F32\.E4M3\.E4M3\b", out)) >= 4


def launched() -> list[Any]:
    """Cases whose kernels are compiled offline and launched: small, and of every configuration."""
    production = [("fp8_gemm", _problem.find("fp8_gemm", case)) for case in by_configuration()]
    edges = [(stem, small(stem)) for stem in LAUNCHING]
    timed = [(stem, case) for stem in LAUNCHING for case in cases.load(stem).CASES if case.bench][
        ::5
    ]
    return [
        pytest.param(stem, case, id=f"{stem}[{case.label}]")
        for stem, case in dict.fromkeys([*edges, *production, *timed])
    ]


@pytest.mark.gpu
@pytest.mark.parametrize(("stem", "case"), launched())
def test_what_is_launched_is_what_was_compiled_offline(
    stem: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public function's own launches, with real tensors, on the GPU: the same program."""
    ran: list[codegen.Compiled] = []

    def launch(plan: Plan, device: torch.device, tensors: tuple[Any, ...]) -> None:
        compiled = plan.kernel[plan.grid](*tensors, *plan.scalars, **plan.constants, **plan.options)
        ran.append(codegen.inspect(compiled, plan.grid))

    arguments = case.inputs("cuda")
    # Offline 132 multiprocessors are assumed; a part that has fewer is given the same on both sides.
    with sm_limit(torch.cuda.get_device_properties(0).multi_processor_count):
        with monkeypatch.context() as patch:
            patch.setattr(Plan, "_launch", launch)
            cases.public("kernels", stem)(**arguments)
        torch.cuda.synchronize()
        offline = codegen.compile_case(stem, case)
    assert ran
    assert facts(ran) == facts(offline)


def facts(kernels: list[codegen.Compiled]) -> list[tuple[Any, ...]]:
    """Program and launch parameters."""
    return [
        (one.name, one.sass_code, one.grid, one.warps, one.shared, one.registers) for one in kernels
    ]


def test_choices_are_configurations() -> None:
    """by_configuration() is what the test above stands on."""
    shapes = set(by_configuration().values())
    assert len(shapes) > 3
    assert shapes <= {f"m64n{config.instruction_n}k32.f32.e4m3.e4m3" for config in CONFIGS}


def test_a_reduction_under_the_wrong_predicate_is_seen() -> None:
    """As ptxas 12.8 encodes it, and as it should be."""
    condition = "UISETP.GE.AND UP2, UPT, UR53, UR60, UPT"
    copied = "PLOP3.LUT P2, PT, PT, PT, UP2, 0x80, 0x0"
    reduction = "@P2 REDUX.SUM.S32 UR48, R0"
    before = ["ISETP.GT.AND P2, PT, R13, 0xff, !P2", ".L_x_11"]
    assert codegen.misled([*before, condition, reduction]) == [reduction]
    assert codegen.misled([*before, condition, copied, reduction]) == []
    assert codegen.misled([*before, reduction]) == []
    assert codegen.misled([*before, condition, "REDUX.SUM.S32 UR48, R0"]) == []

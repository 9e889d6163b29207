"""harness.exact sees every element, in every chunk and of every configuration."""

from __future__ import annotations

import importlib
from functools import wraps
from inspect import signature
from typing import Any

import pytest
import torch

from benchmarks import cases, fingerprint, parity
from benchmarks.cases import grouped_gemm_contiguous as contiguous
from benchmarks.cases.act_quant import ActQuant
from benchmarks.cases.fp8_gemm import Fp8Gemm
from benchmarks.cases.permute import Permute
from harness import exact
from kernels import fp8_gemm as gemm
from kernels._device import num_sms, recording

pytestmark = pytest.mark.usefixtures("products")
CASE = Fp8Gemm(m=150, n=72, k=256)  # chunks of 64, 64 and 22 rows
TINY = 64 * CASE.n * exact.ELEMENT  # bytes of one chunk


def result(device: str) -> tuple[dict[str, Any], torch.Tensor]:
    arguments = CASE.inputs(device)
    return arguments, cases.public("kernels", "fp8_gemm")(**arguments)


def differing(arguments: dict[str, Any], got: Any, memory: int = TINY) -> tuple[int, str]:
    (found,) = exact.compare_all("fp8_gemm", CASE, arguments, {"launcher": got}, memory=memory)
    assert bool(found.differing) == bool(found.message)
    return found.differing, found.message


def test_chunks_cover_every_row_once_inside_the_memory(device: str) -> None:
    arguments = CASE.inputs(device)
    for memory in (1, TINY, 2 * TINY + 1, exact.MEMORY):
        found = [
            part.arguments["x"].shape[0] for part in exact.chunks("fp8_gemm", arguments, memory)
        ]
        assert sum(found) == CASE.m
        assert all(rows % 64 == 0 for rows in found[:-1])
        assert all(rows * CASE.n * exact.ELEMENT <= max(memory, TINY) for rows in found)
    chunks = exact.chunks("fp8_gemm", arguments, TINY)
    joined = torch.cat([part.arguments["x_scale"] for part in chunks])
    assert torch.equal(joined, arguments["x_scale"])


def test_a_right_result_has_nothing_that_differs(device: str) -> None:
    arguments, got = result(device)
    assert differing(arguments, got) == (0, "")
    (found,) = exact.compare_all("fp8_gemm", CASE, arguments, {"a": got}, memory=TINY)
    assert found.elements == CASE.m * CASE.n


@pytest.mark.parametrize("row", [0, 63, 64, 149])
def test_one_wrong_bit_is_found_in_any_chunk(row: int, device: str) -> None:
    arguments, got = result(device)
    got.view(torch.int16)[row, CASE.n - 1] ^= 1
    count, message = differing(arguments, got)
    assert count == 1
    assert f"rows from {row // 64 * 64}: " in message
    assert f"[{row % 64}, {CASE.n - 1}]" in message


@pytest.mark.parametrize("m", [CASE.m, 128])  # the last chunk is cut short, or is not
def test_a_result_of_another_height_is_wrong(m: int, device: str) -> None:
    arguments = Fp8Gemm(m=m, n=CASE.n, k=CASE.k).inputs(device)
    got = cases.public("kernels", "fp8_gemm")(**arguments)
    assert not differing(arguments, got)[0]
    for wrong in (torch.cat([got, got[-1:]]), torch.cat([got, got]), got[:-1], got[:64]):
        assert differing(arguments, wrong)[0]


def test_every_output_of_a_tuple_counts(device: str) -> None:
    case = ActQuant(m=5, k=256)
    arguments = case.inputs(device)
    q, scale = cases.public("kernels", "act_quant")(**arguments)
    scale[4, 1] *= 2
    (found,) = exact.compare_all("act_quant", case, arguments, {"launcher": (q, scale)})
    assert (found.differing, found.elements) == (1, 5 * 256 + 5 * 2)


def test_every_configuration_is_run(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    found = exact.check("fp8_gemm", CASE, device, configs=True)
    assert len(found) == 1 + len(gemm.configurations(CASE.m)) > 2
    assert not any(one.differing for one in found)
    broken, run = gemm.CONFIGS[2], gemm.run
    assert broken != gemm.choose(CASE.m, CASE.n, CASE.k, num_sms(torch.device(device)))

    @wraps(run)
    def skip_one(*args: Any, **operands: Any) -> None:
        """``run``, except that one configuration writes nothing."""
        if signature(run).bind(*args, **operands).arguments["config"] != broken:
            run(*args, **operands)

    monkeypatch.setattr(gemm, "run", skip_one)
    after = exact.check("fp8_gemm", CASE, device, configs=True)
    wrong = [one.variant for one in after if one.message]
    assert wrong == ["-".join(map(str, broken))]


@pytest.mark.parametrize(
    "stem", ["grouped_gemm_contiguous", "grouped_gemm_masked", "grouped_gemm_wgrad"]
)
def test_so_are_those_of_the_experts_products(
    stem: str, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """Each expert's rows in every part, and a bit that one configuration gets wrong."""
    timed = [case for case in cases.load(stem).CASES if case.bench]
    case = min(timed, key=lambda case: case.interpreter_steps())
    module = importlib.import_module(f"kernels.{stem}")
    run = module.run

    @wraps(run)
    def wrong_once(*args: Any, **operands: Any) -> None:
        run(*args, **operands)
        if operands["config"] == module.CONFIGS[-1]:
            operands["out"].view(torch.uint8).flatten()[0] ^= 1

    monkeypatch.setattr(module, "run", wrong_once)
    found = exact.check(stem, case, device, memory=1 << 20, configs=True)
    assert [one.variant for one in found] == [
        exact.LAUNCHER, *("-".join(map(str, config)) for config in module.CONFIGS)
    ]  # fmt: skip
    assert [one.differing for one in found] == [0] * len(module.CONFIGS) + [1]
    arguments = case.inputs(device)
    whole = parity.defined(stem, arguments, cases.public("kernels", stem)(**arguments))
    assert {one.elements for one in found} == {whole.numel()}


def test_what_nobody_wrote_is_not_taken_for_right(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch, "empty", torch.zeros)  # memory that happens to hold numbers
    with exact.poisoned():
        for dtype in (torch.bfloat16, torch.float32, torch.float8_e4m3fn):
            assert torch.empty(3, 5, dtype=dtype, device=device).float().isnan().all()
    assert torch.empty is torch.zeros
    variants = dict(exact.results("fp8_gemm", CASE.inputs(device), configs=True))
    with recording():
        unwritten = dict(exact.results("fp8_gemm", CASE.inputs(device), configs=True))
    assert len(unwritten) == 1 + len(gemm.configurations(CASE.m))
    assert all(out.isnan().all() for out in unwritten.values())
    assert not any(out.isnan().any() for out in variants.values())


def test_examine_counts_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    """A case that raises costs its own numbers only, and the command does not end well."""
    good, bad = Fp8Gemm(m=3, n=16, k=128), Fp8Gemm(m=3, n=16, k=256)
    inputs = Fp8Gemm.inputs

    def fail(case: Fp8Gemm, device: str) -> dict[str, Any]:
        if case == bad:
            raise RuntimeError("out of luck")
        return inputs(case, device)

    monkeypatch.setattr(Fp8Gemm, "inputs", fail)
    assert exact.examine([("fp8_gemm", bad), ("fp8_gemm", good)], device) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "out of luck" in lines[1]
    assert "0 of 48 elements differ" in lines[2]
    assert "1 results are wrong" in lines[3]


def test_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: False)
    assert exact.main(["fp8_gemm"]) == 3
    assert "needs a Hopper GPU" in capsys.readouterr().err
    assert exact.main(["fp8_gem"]) == 2
    assert "did you mean fp8_gemm?" in capsys.readouterr().err
    assert exact.main(["fp8_gemm", "--cases", "m=5"]) == 2
    assert "'m=5'" in capsys.readouterr().err
    named = exact.chosen(["fp8_gemm"], "layer=o,m=64")
    assert [case.label for _, case in named] == ["layer=o,m=64,n=7168,k=16384,out=bf16,data=normal"]
    everything = exact.chosen([], None)
    assert {stem for stem, _ in everything} == set(cases.names())
    assert all(case.bench for _, case in everything)
    more = {case for _, case in exact.chosen(["grouped_gemm_contiguous"], None, untimed=True)}
    production = set(contiguous.PRODUCTION)
    assert production <= more
    assert production - {case for _, case in everything}


def test_what_is_not_defined_is_not_compared(device: str) -> None:
    """The padding of permute's rows; a wrong bit beside it counts, and so does another structure."""
    case = Permute(t=9, h=256, e=8, k=3, routing="dropped")
    arguments = case.inputs(device)
    (found,) = exact.check("permute", case, device)
    routed = int((arguments["slot"] >= 0).sum())
    assert (found.differing, found.elements) == (0, routed * (256 + 2 + 1))
    got = cases.public("kernels", "permute")(**arguments)
    rows = got[0].view(torch.uint8)
    rows[-1] ^= 1  # the last of 128 rows of the last segment
    (found,) = exact.compare_all("permute", case, arguments, {"launcher": got})
    assert not found.message
    rows[arguments["slot"].max(), 5] ^= 1
    (found,) = exact.compare_all("permute", case, arguments, {"launcher": got})
    assert found.differing == 1
    assert found.message.startswith(f"rows: 1 of {routed * 256} elements differ in bits")
    (found,) = exact.compare_all("permute", case, arguments, {"launcher": (*got[:2], None)})
    assert found.message == "row_weight: expected Tensor, got NoneType"

"""bias_update: the definition on whole numbers and fractions, and what the step must not lose."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.cases.bias_update import LOADS, BiasUpdate
from benchmarks.compare import Exact, assert_equal
from kernels._device import recording
from kernels.bias_update import bias_update
from reference_impl import bias_update as reference
from reference_impl.topk_gate import topk_gate
from tests.test_inputs import refuse
from tests.test_topk_gate import rounded

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH = pytest.mark.parametrize(
    "function", [bias_update, reference.bias_update], ids=["kernel", "reference"]
)


@BOTH
@pytest.mark.parametrize("load", LOADS)
def test_the_definition(function: Callable[..., Any], load: str, device: str) -> None:
    arguments = BiasUpdate(load=load, e=33).inputs("cpu")
    bias, counts = arguments["bias"].tolist(), arguments["counts"].tolist()
    mean = Fraction(sum(counts), len(counts))
    gamma = Fraction(rounded(1e-3))
    want = [
        b if count == mean else rounded(Fraction(b) + (gamma if count < mean else -gamma))
        for b, count in zip(bias, counts, strict=True)
    ]
    got = function(arguments["bias"].to(device), arguments["counts"].to(device))
    assert got.tolist() == want
    if load in ("mean", "huge"):
        assert sum(new == old for new, old in zip(want, bias, strict=True)) >= 33 // 2


@BOTH
def test_at_the_mean_the_bits_stay(function: Callable[..., Any], device: str) -> None:
    bias = torch.tensor([-0.0, 0.0, 1e-45, float("inf"), float("nan")], device=device)
    assert_equal(
        function(bias, torch.full((5,), 7, dtype=torch.int32, device=device)), bias, Exact()
    )
    counts = torch.tensor([3, 1, 2, 2, 2], dtype=torch.int32, device=device)
    moved = function(bias, counts, 0.5).tolist()
    apart = torch.full((5, 3), 99, dtype=torch.int32, device=device)
    apart[:, 0] = counts
    assert function(bias, apart[:, 0], 0.5).tolist()[:4] == moved[:4]
    assert moved[:4] == [-0.5, 0.5, bias[2].item(), float("inf")]


@BOTH
def test_one_token_of_two_billion_is_seen(function: Callable[..., Any], device: str) -> None:
    """E counts needs 42 bits here; in int32 it wraps, and in fp32 both sides are equal."""
    counts = torch.full((1024,), 2**31 - 2, dtype=torch.int32, device=device)
    counts[5] += 1
    moved = function(torch.zeros(1024, device=device), counts, 0.25)
    assert moved[5].item() == -0.25
    assert (moved.cpu()[torch.arange(1024) != 5] == 0.25).all()


@BOTH
def test_the_step_is_not_lost(function: Callable[..., Any], device: str) -> None:
    """1 - 0.001 is 1 in bf16: the bias would never move again."""
    bias = torch.ones(2, device=device)
    counts = torch.tensor([9, 1], dtype=torch.int32, device=device)
    assert (bias.bfloat16() - 1e-3).bfloat16()[0] == 1
    for _ in range(100):
        bias = function(bias, counts)
    assert (bias.cpu() - torch.tensor([0.9, 1.1])).abs().max() < 1e-5


@BOTH
def test_it_brings_balance(function: Callable[..., Any], device: str) -> None:
    """A router with favourites: the busiest expert from over twice the mean to near it."""
    generator = torch.Generator().manual_seed(1)
    favour = torch.randn(32, generator=generator)
    drawn = torch.randn(1024, 32, generator=generator) + favour
    bias = torch.zeros(32)
    worst = []
    for _ in range(60):
        counts = topk_gate(drawn, bias, 4, 8, 4)[2]
        worst.append((counts.max() / counts.float().mean()).item())
        bias = function(bias.to(device), counts.to(device), 1e-2).cpu()
    assert worst[0] > 2
    assert worst[-1] < 1.3


def test_one_launch() -> None:
    with recording() as launches:
        bias_update(
            torch.empty(256, device="meta"), torch.empty(256, dtype=torch.int32, device="meta")
        )
    assert [launch.grid for launch in launches] == [(1,)]


def test_a_bias_of_bf16_is_refused(device: str) -> None:
    arguments = BiasUpdate().inputs(device)
    arguments["bias"] = arguments["bias"].bfloat16()
    refuse("bias_update", arguments, TypeError, "bias: expected dtype float32, got bfloat16")

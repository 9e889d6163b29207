"""A small model trained twice from one start: the reference on the CPU, the kernels where they run.

What is not of this repository is computed in an order that both devices share, so that curves and
weights are compared bit for bit (docs/numerics.md, "Training on two devices").
"""

from __future__ import annotations

import pytest
import torch

from benchmarks import fingerprint
from benchmarks.compare import Exact, assert_equal
from harness import train as command
from harness._training import Size, model, state, train
from kernels import moe_layer as kernels
from reference_impl import moe_layer as reference

pytestmark = pytest.mark.usefixtures("products")


def check(size: Size, device: str) -> list[float]:
    """Losses, all weights and the biases after the last step, in every bit; returns the curve."""
    here, there = model(reference, size, "cpu"), model(kernels, size, device)
    start = [part.detach().clone() for layer in here for part in layer.parameters()]
    curve = train(here, size, "cpu")
    assert train(there, size, device) == curve
    got = state(there)
    for name, want in state(here).items():
        assert_equal(got[name], want, Exact(), names=[name])
    moved = [part.detach() for layer in here for part in layer.parameters()]
    assert not any(torch.equal(one, other) for one, other in zip(start, moved, strict=True))
    assert all(layer.bias.any() for layer in here)
    return curve


def test_a_step_on_a_cpu_and_one_by_the_kernels_are_one(device: str) -> None:
    """As below, small enough for Triton's interpreter."""
    before, after = check(Size(1, layers=1, tokens=3, experts=3), device)
    assert after < before


@pytest.mark.gpu
@pytest.mark.long  # the model of the tensor core on a CPU
def test_curves_on_a_cpu_and_by_the_kernels_are_one(device: str) -> None:
    curve = check(Size(20, layers=2, tokens=24, experts=4), device)
    assert curve[-1] < 0.5 * curve[0]


def test_the_command_by_the_reference_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: False)
    assert command.main(["--steps", "3", "--tokens", "8", "--experts", "3"]) == 0
    said = capsys.readouterr().out
    rows = [line.strip("|").split("|") for line in said.splitlines() if line.startswith("|")][2:]
    losses = [float(row[1]) for row in rows]
    assert [int(row[0]) for row in rows] == [0, 1, 2, 3]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    assert "the reference alone" in said


@pytest.mark.long
def test_the_command_compares(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On a GPU or interpreted; a single weight in its last bit, or a loss, is a difference."""
    assert command.compared(Size(1, layers=1, tokens=3, experts=2), device)
    said = capsys.readouterr().out
    assert "of the losses 0, of weights and biases 0; 0 of " in said
    one = ([1.0, 0.5], {"a": torch.ones(3), "bias": torch.zeros(2)})
    assert command.verdict(one, one)[1]
    loss = ([1.0, 0.25], one[1])
    assert command.verdict(one, loss) == (
        "Largest difference: of the losses 0.25, of weights and biases 0; 0 of 5 of these differ in a bit.",
        False,
    )
    moved = one[1] | {"a": torch.tensor([1.0, 1.0, 1.0 + 2.0**-23])}
    assert command.verdict(one, (one[0], moved)) == (
        "Largest difference: of the losses 0, of weights and biases 1.19e-07; 1 of 5 of these differ in a bit.",
        False,
    )
    signed = one[1] | {"bias": torch.tensor([0.0, -0.0])}
    assert not command.verdict(one, (one[0], signed))[1]
    assert "| 1 | 0.5 | 0.25 | 0.25 |" in command.table(one[0], loss[0])


def test_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "compared", lambda size, device: False)
    assert command.main(["--interpret"]) == 1, "what differs is not a success"
    for wrong, said in (
        (["--experts", "5"], "expected 2, 3 or an even number, got 5"),
        (["--experts", "1"], "expected at least 2, got 1"),
        (["--steps", "0"], "expected at least 1, got 0"),
    ):
        with pytest.raises(SystemExit):
            command.main(wrong)
        assert said in capsys.readouterr().err

"""What the tensor core's short accumulator does to a sum, and how large its error can be.

The error of a long sum, with promotion and without, is the one that follows from the rules of the
model (reference_impl/wgmma.py) by probability alone, without running it; and no operands pass the
bound that docs/numerics.md derives for a block of 128.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch

from benchmarks.cases import fp8_gemm as cases
from benchmarks.compare import Exact, assert_equal, compare, errors_against_exact
from harness import promotion
from reference_impl.act_quant import act_quant
from reference_impl.fp8_gemm import fp8_gemm
from reference_impl.weight_quant import weight_quant
from reference_impl.wgmma import wgmma

E4M3 = torch.float8_e4m3fn
M, K, SIZES = 256, 4096, range(-20, 20)


@cache
def numbers(kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Operands cast to e4m3 from a distribution, and their exact product."""
    generator = torch.Generator().manual_seed(11)
    draw = torch.randn if kind == "normal" else torch.rand
    x, w = (draw(M, K, generator=generator).to(E4M3) for _ in range(2))
    return x, w, x.double() @ w.double().T


@cache
def result(kind: str, every: int) -> torch.Tensor:
    """Their product by the model, promoted to fp32 after each ``every`` channels."""
    x, w, _ = numbers(kind)
    if every == 128:
        blocks = K // 128
        return fp8_gemm(x, torch.ones(M, blocks), w, torch.ones(M // 128, blocks), torch.float32)
    assert every == K
    return wgmma(x, w)


class Products:
    """The distribution of |a b|, a and b independent: every pair of e4m3 numbers and its chance."""

    def __init__(self, kind: str) -> None:
        values = torch.arange(0x7F, dtype=torch.uint8).view(E4M3).double()
        middles = (values[1:] + values[:-1]) / 2
        below = torch.erf(middles / math.sqrt(2)) if kind == "normal" else middles.clamp(max=1)
        chance = torch.diff(below, prepend=torch.zeros(1), append=torch.ones(1))
        size = torch.floor(torch.log2(values.clamp(min=2.0**-6)))
        self.value = (values[:, None] * values).flatten()
        self.chance = (chance[:, None] * chance).flatten()
        self.size = torch.where(self.value == 0, -99.0, (size[:, None] + size).flatten())
        self.mean = float(self.value @ self.chance)
        self.square = float(self.value.square() @ self.chance)
        lost = {e: torch.fmod(self.value, 2.0 ** (e - 13)) for e in SIZES}
        self.lost = {e: float(lost[e] @ self.chance) for e in SIZES}
        self.lost_square = {e: float(lost[e].square() @ self.chance) for e in SIZES}
        # That all 32 products of an instruction have at most this exponent.
        self.within = {e: float((self.size <= e).double() @ self.chance) ** 32 for e in SIZES}


def predicted_rms(every: int) -> tuple[float, float]:
    """Least and largest rms error of normal data, relative to the result's rms.

    Before instruction t the accumulator is normal with variance 32 t E[p^2], which gives the
    chances of the largest exponent; each of the 32 products then loses its part below 2^-13 of it,
    of either sign.  The least error is that alone.  The largest adds, in every instruction, a
    result cut by up to 2^-13 of itself, uniformly.
    """
    products = Products("normal")
    least = cut_results = 0.0
    for t in range(every // 32):
        deviation = math.sqrt(32 * t * products.square)
        below = 0.0
        for e in SIZES:
            small = math.erf(2.0 ** (e + 1) / deviation / math.sqrt(2)) if t else 1.0
            least += (products.within[e] * small - below) * 32 * products.lost_square[e]
            below = products.within[e] * small
        cut_results += 32 * (t + 1) * products.square * 2.0**-26 / 3
    whole = every * products.square
    return math.sqrt(least / whole), math.sqrt((least + cut_results) / whole)


def predicted_bias(every: int) -> tuple[float, float]:
    """Least and largest relative loss of uniform data on [0, 1): as above, with a sum that grows
    steadily and losses that all point down."""
    products = Products("uniform")
    total = cut_results = 0.0
    for _ in range(every // 32):
        reached = math.floor(math.log2(total)) if total else SIZES[0]
        below, lost = 0.0, 0.0
        for e in SIZES:
            within = products.within[e] if e >= reached else 0.0
            lost += (within - below) * 32 * products.lost[e]
            below = within
        total += 32 * products.mean - lost
        cut_results += total * 2.0**-13
    exact = every * products.mean
    return (exact - total) / exact, (exact - total + cut_results) / exact


@pytest.mark.parametrize("every", [128, K])
def test_rms_error_is_the_predicted_one(every: int) -> None:
    least, largest = predicted_rms(every)
    _, rms = errors_against_exact(result("normal", every), numbers("normal")[2])
    # 65,536 outputs of 256 + 256 independent vectors: their rms is known to about 1 / sqrt(512).
    assert least * 0.95 <= rms <= largest * 1.05


@pytest.mark.parametrize("every", [pytest.param(128, marks=pytest.mark.long), K])
def test_positive_sums_come_out_low_by_the_predicted_share(every: int) -> None:
    least, largest = predicted_bias(every)
    exact = numbers("uniform")[2]
    error = (result("uniform", every).double() - exact) / exact
    assert error.max() < 0
    assert least * 0.95 <= -error.mean() <= largest * 1.05


def test_promotion_is_what_keeps_a_long_sum_accurate() -> None:
    """The report's "nearly 2 %" at K = 4096 (section 3.3.2), and what promotion makes of it.

    Its metric is not given; the largest error over the mean magnitude of a normal product is.
    """
    exact = numbers("normal")[2]
    never, _ = errors_against_exact(result("normal", K), exact)
    promoted, _ = errors_against_exact(result("normal", 128), exact)
    assert f"{never:.0%}" == "2%"
    assert promoted < 0.001


# docs/numerics.md, "Against fp32": the largest error of 128 products relative to sum |x||w|,
# without and with subnormal operands; and operands that come near it.
WORST: dict[str, tuple[float, list[tuple[float, float]]]] = {
    "normal": (131 * 2.0**-13, [(256, 256)] + [(448, 0.017578125)] * 127),
    "subnormal": (
        356 * 2.0**-13,
        [(2**-9, 256)] + [(0.013671875, 0.03515625)] * 31 + [(2**-9, 0.029296875)] * 96,
    ),
}


@pytest.mark.parametrize("kind", WORST)
def test_worst_case_of_a_block(kind: str) -> None:
    bound, pairs = WORST[kind]
    x, w = (torch.tensor([side], dtype=torch.float32).to(E4M3) for side in zip(*pairs, strict=True))
    error = (wgmma(x, w).double() - x.double() @ w.double().T).abs().item()
    size = (x.double().abs() @ w.double().abs().T).item()
    assert 0.9 * bound < error / size < bound


@pytest.mark.parametrize("kind", WORST)
def test_the_bound_against_fp32_admits_the_worst_case(kind: str) -> None:
    """A right result must pass the check of whole outputs, whatever the operands."""
    _, pairs = WORST[kind]
    x, w = (torch.tensor([side], dtype=torch.float32).to(E4M3) for side in zip(*pairs, strict=True))
    one = torch.ones(1, 1)
    arguments: dict[str, Any] = {"x": x, "x_scale": one, "w": w, "w_scale": one}
    dense, magnitude = cases.dense(arguments)
    got = fp8_gemm(**arguments).float()
    found = compare(got, dense, cases.AGAINST_FP32, magnitude=magnitude)
    assert found.max_error <= cases.AGAINST_FP32.max, found.message


def test_intervals_of_the_table_are_promotions() -> None:
    """At 128 it is the reference's own promotion, and a shorter interval errs less."""
    problem = promotion.operands(64, 128, 1024, "positive")
    want = fp8_gemm(problem.x, torch.ones(64, 8), problem.w, torch.ones(1, 8), torch.float32)
    assert_equal(promotion.promoted(problem.x, problem.w, 128), want, Exact())
    rows = promotion.measure([problem], (32, 128, None))
    errors = [row.errors[0] for row in rows]
    assert errors == sorted(errors)
    assert errors[0][1] < errors[1][1] / 4 < errors[2][1] / 16
    lines = promotion.table(rows, [1024], ("us", lambda interval: f"{interval or 7}")).splitlines()
    assert lines[0] == "| promoted every | max error, K=1024 | rms error, K=1024 | us |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["32", "128", "never"]
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["32", "128", "7"]


def test_what_stands_beside_the_table() -> None:
    """Rounding to 8 significant bits errs by 2^-9 to 2^-8 of a number, uniformly; quantising, with
    4 bits, by 16 times that for each operand."""
    quantising, rounding = promotion.beside(128, 128, 512, "normal")
    assert 2.0**-9 / math.sqrt(3) < rounding < 2.0**-8 / math.sqrt(3)
    assert 16 * 2.0**-9 * math.sqrt(2 / 3) < quantising < 16 * 2.0**-8 * math.sqrt(2 / 3)


@pytest.mark.parametrize("interval", [0, 16, 48, -32])
def test_an_interval_holds_whole_instructions(interval: int) -> None:
    problem = promotion.operands(1, 1, 128)
    with pytest.raises(ValueError, match=r"^interval: expected a positive multiple of 32, got"):
        promotion.promoted(problem.x, problem.w, interval)


def test_the_cost_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(promotion, "has_hopper", lambda: False)
    assert promotion.main(["--cost"]) == 3
    assert "needs a Hopper GPU" in capsys.readouterr().err


def test_the_kernels_whose_cost_is_told_promote_as_the_model(device: str) -> None:
    """On a GPU, at sizes that are no timing; the interpreter has no tensor core's partial sums."""
    if device != "cuda":
        pytest.skip("what is compared is when a Hopper GPU promotes")
    from harness import _promotion_cost as costs

    generator = torch.Generator(device).manual_seed(1)
    x = act_quant(torch.randn(1024, 1024, device=device, generator=generator))[0]
    w = weight_quant(torch.randn(128, 1024, device=device, generator=generator))[0]
    for interval in promotion.INTERVALS:
        out = torch.empty(1024, 128, device=device)
        costs.product(interval, x, w, out)()
        assert_equal(out[::16], promotion.promoted(x[::16], w, interval), Exact())

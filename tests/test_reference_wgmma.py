"""reference_impl/wgmma.py is the model that its docstring states.

A second model, on Python's integers and one output at a time, agrees with it in every bit, and sums
small enough to do by hand come out as each rule says.  That the chip does the same is checked by
tests/test_ops.py, operator wgmma, on a Hopper GPU.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from benchmarks.cases import wgmma as cases
from benchmarks.cases._data import payload
from benchmarks.compare import Exact, assert_equal, compare
from reference_impl.wgmma import partials, wgmma

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
NAMES = {E4M3: "e4m3", E5M2: "e5m2"}
MANTISSA, BIAS = {E4M3: 3, E5M2: 2}, {E4M3: 7, E5M2: 15}
PAIRS = [(E4M3, E4M3), (E5M2, E5M2), (E4M3, E5M2), (E5M2, E4M3)]


def decode(code: int, dtype: torch.dtype) -> tuple[int, int]:
    """(signed significand, exponent): the number is significand * 2^(exponent - mantissa bits)."""
    bits = MANTISSA[dtype]
    field, mantissa = (code & 0x7F) >> bits, code & ((1 << bits) - 1)
    significand = mantissa if field == 0 else mantissa + (1 << bits)
    return (-significand if code & 0x80 else significand), max(field, 1) - BIAS[dtype]


def cut(value: Fraction, unit: Fraction) -> int:
    """How many units ``value`` holds, toward zero."""
    count = abs(value) // unit
    return -count if value < 0 else count


def exponent(value: Fraction) -> int:
    """The e with 2^e <= |value| < 2^(e + 1)."""
    top, bottom = abs(value).as_integer_ratio()
    guess = top.bit_length() - bottom.bit_length()
    return guess if Fraction(2) ** guess <= abs(value) else guess - 1


def slow(x: list[int], w: list[int], x_type: torch.dtype, w_type: torch.dtype) -> Fraction:
    """One output element from the codes of its operands, 32 products at a time."""
    accumulator = Fraction(0)
    for start in range(0, len(x), 32):
        terms = [(accumulator, exponent(accumulator))] if accumulator else []
        for a, b in zip(x[start : start + 32], w[start : start + 32], strict=True):
            (left, e), (right, f) = decode(a, x_type), decode(b, w_type)
            scale = Fraction(2) ** (e - MANTISSA[x_type] + f - MANTISSA[w_type])
            if left * right:
                terms.append((left * right * scale, e + f))
        if terms:
            unit = Fraction(2) ** (max(e for _, e in terms) - 13)
            total = sum(cut(value, unit) for value, _ in terms)
            spare = max(0, abs(total).bit_length() - 14)
            accumulator = cut(Fraction(total), Fraction(1 << spare)) * (1 << spare) * unit
    return accumulator


def codes(kind: str, shape: tuple[int, int], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Operands of a distribution; ``codes``: every finite number of the format equally often."""
    generator = torch.Generator().manual_seed(seed)
    if kind != "codes":
        return payload(shape, kind, generator, NAMES[dtype])
    finite = 0x7F if dtype == E4M3 else 0x7C
    magnitude = torch.randint(finite, shape, generator=generator)
    sign = torch.randint(2, shape, generator=generator) * 0x80
    return (magnitude + sign).to(torch.uint8).view(dtype)


@pytest.mark.parametrize("k", [32, 160])
@pytest.mark.parametrize(("x_type", "w_type"), PAIRS)
@pytest.mark.parametrize("kind", [*cases.KINDS, "codes"])
def test_equals_the_slow_model(kind: str, x_type: torch.dtype, w_type: torch.dtype, k: int) -> None:
    x, w = codes(kind, (7, k), x_type, 1), codes(kind, (9, k), w_type, 2)
    rows, columns = x.view(torch.uint8).tolist(), w.view(torch.uint8).tolist()
    want = [[float(slow(row, column, x_type, w_type)) for column in columns] for row in rows]
    assert_equal(wgmma(x, w), torch.tensor(want), Exact())
    if kind == "codes" and k > 32:  # or an exact sum would pass too
        assert not compare(wgmma(x, w), (x.double() @ w.double().T).float(), Exact()).ok


# Products as (a, b) and their number, in order; the sum that the rules give; which rule it shows.
RULES: dict[str, tuple[list[tuple[float, float, int]], float]] = {
    "13 bits below the largest stay": ([(256, 256, 1), (4, 2, 3)], 65536 + 24),
    "less than that is lost, term by term": ([(256, 256, 1), (2.5, 3, 31)], 65536),
    "toward zero, and so for negative terms": ([(-256, 256, 1), (-3, 5, 1)], -65536 - 8),
    "terms of either sign lose on their own": ([(256, 256, 1), (3, 5, 1), (-2.5, 3, 1)], 65536 + 8),
    # 2.25 has exponent 1, the product 1.5 * 1.5 has 0: two halves of 2^-12 survive.
    "a product is not normalised": ([(1.5, 1.5, 1), (2**-7, 2**-6, 2)], 2.25 + 2**-12),
    # 2^-9 * 256 counts as exponent -6 + 8, so that 2^-11 is the last bit and not 2^-14.
    "a subnormal has the smallest exponent": ([(2**-9, 256, 1), (2**-6, 2**-6, 8)], 0.5),
    "a zero takes no part": ([(0, 448, 1), (2**-9, 2**-9, 3)], 3 * 2**-18),
    "the result keeps 13 bits": ([(128, 128, 1), (64, 128, 1), (64, 128, 1), (1, 2, 3)], 32768 + 4),
    "cancelling leaves what was aligned": ([(256, 256, 1), (3, 5, 1), (-256, 256, 1)], 8),
    # The same in two instructions: the accumulator is a term like the others.
    "an accumulator is aligned too": ([(3, 5, 1), (0, 0, 31), (256, 256, 1)], 65536 + 8),
    "an accumulator sets the exponent": ([(256, 256, 1), (0, 0, 31), (2.5, 3, 32)], 65536),
    "cancelling a step later": ([(256, 256, 1), (3, 5, 1), (0, 0, 30), (-256, 256, 1)], 8),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_by_hand(rule: str) -> None:
    products, want = RULES[rule]
    pairs = [(a, b) for a, b, count in products for _ in range(count)]
    pairs += [(0, 0)] * (-len(pairs) % 32)
    x, w = (torch.tensor([side], dtype=torch.float32).to(E4M3) for side in zip(*pairs, strict=True))
    assert wgmma(x, w).item() == want


def test_order_matters_between_instructions_only() -> None:
    x, w = codes("codes", (16, 64), E4M3, 3), codes("codes", (16, 64), E4M3, 4)
    inside = torch.cat([torch.randperm(32), 32 + torch.randperm(32)])
    result = wgmma(x, w)
    assert_equal(wgmma(x[:, inside], w[:, inside]), result, Exact())
    between = torch.arange(64).roll(32)
    assert compare(wgmma(x[:, between], w[:, between]), result, Exact()).differing > 0


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_nan_and_inf_follow_ieee(dtype: torch.dtype) -> None:
    """And spoil only the outputs that they enter; the steps after them change nothing."""
    inf = float("inf") if dtype == E5M2 else float("nan")
    x = torch.ones(6, 96)
    x[0, 5], x[1, 40], x[2, 95] = float("nan"), inf, -inf
    x[3, 0], x[3, 64] = inf, -inf
    w = torch.ones(2, 96)
    w[1, 40] = 0.0
    got = wgmma(x.to(dtype), w.to(dtype))
    nan = float("nan")
    want = torch.tensor([[nan, nan], [inf, nan], [-inf, -inf], [nan, nan], [96, 95], [96, 95]])
    assert_equal(got, want, Exact())


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_nothing_sums_to_positive_zero(value: float) -> None:
    x = torch.full((3, 64), value).to(E4M3)
    w = codes("codes", (5, 64), E4M3, 5)
    assert_equal(wgmma(x, w), torch.zeros(3, 5), Exact())


@pytest.mark.parametrize(("m", "n", "k"), [(0, 4, 32), (4, 0, 32), (3, 4, 0)])
def test_empty(m: int, n: int, k: int) -> None:
    x, w = torch.ones(m, k).to(E4M3), torch.ones(n, k).to(E4M3)
    assert_equal(wgmma(x, w), torch.zeros(m, n), Exact())


def test_partials_choose_how_products_are_summed() -> None:
    """2^16 + 31 * 7.5, which hopper loses, exact keeps, and which fits fp32 in any order."""
    x = torch.tensor([[256.0] + [2.5] * 31]).to(E4M3)
    w = torch.tensor([[256.0] + [3.0] * 31]).to(E4M3)
    assert wgmma(x, w).item() == 65536
    with partials("exact"):
        assert wgmma(x, w).item() == 65536 + 31 * 7.5
        with pytest.raises(KeyError), partials("hopper"):  # noqa: PT012 (what it leaves behind)
            assert wgmma(x, w).item() == 65536
            raise KeyError
        assert wgmma(x, w).item() == 65536 + 31 * 7.5
    with partials("fp32"):
        assert wgmma(x, w).item() == 65536 + 31 * 7.5
    assert wgmma(x, w).item() == 65536
    with pytest.raises(ValueError, match=r"^mode: expected one of hopper, exact, fp32, got 'half'"):
        partials("half").__enter__()


def test_exact_rounds_once() -> None:
    """2^24 + 1 lies halfway between fp32 numbers; a term far below decides which is nearer."""
    one = [256.0] * 256 + [1.0, 2.0**-9]
    x = torch.tensor([one + [0.0] * 30, [*one[:-1], -(2.0**-9)] + [0.0] * 30]).to(E4M3)
    w = torch.tensor([[256.0] * 256 + [1.0, 2.0**-9] + [0.0] * 30]).to(E4M3)
    with partials("exact"):
        assert wgmma(x, w).tolist() == [[2.0**24 + 2], [2.0**24]]

"""``python -m harness.promotion``: the error of an FP8 product against how often it is promoted.

Random operands are quantised as the contract says, in 1x128 tiles and 128x128 blocks.  Their
payloads are multiplied by the model of the tensor core, of which the sum leaves for fp32 after each
interval of K.  The scales are left out, on both sides of the comparison: an interval longer than a
tile could not apply them, and so every row of the table has the same operands and the same exact
product.  Prints a Markdown table, and beside it what quantising and rounding to bf16 cost on the
same data.  Needs no GPU; 16 s on two cores.  With ``--cost``, on a Hopper GPU, one more column: the
time of a kernel that promotes so often.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks.compare import errors_against_exact
from benchmarks.fingerprint import has_hopper
from harness._markdown import markdown
from reference_impl._quant import TILE
from reference_impl.act_quant import act_quant
from reference_impl.weight_dequant import weight_dequant
from reference_impl.weight_quant import weight_quant
from reference_impl.wgmma import STEP, partials, wgmma

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERVALS = (32, 64, 128, 256, 512, None)  # channels of K; None: never promoted
LENGTHS = (4096, 7168)
DATA = {"normal": torch.randn, "positive": torch.rand}


class Operands(NamedTuple):
    """x: [M, K] and w: [N, K] e4m3, exact: their product in float64, which holds it exactly."""

    x: torch.Tensor
    w: torch.Tensor
    exact: torch.Tensor


class Row(NamedTuple):
    """One interval: for each length of K, (max|error| / mean|exact|, rms error / rms exact)."""

    interval: int | None
    errors: tuple[tuple[float, float], ...]


def drawn(m: int, n: int, k: int, data: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations [M, K] and weights [N, K] from one of ``DATA``, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return DATA[data](m, k, generator=generator), DATA[data](n, k, generator=generator)


def operands(m: int, n: int, k: int, data: str = "normal") -> Operands:
    """Payloads of :func:`drawn` activations and weights."""
    activations, weights = drawn(m, n, k, data)
    x, w = act_quant(activations)[0], weight_quant(weights)[0]
    return Operands(x, w, x.double() @ w.double().T)


def beside(m: int, n: int, k: int, data: str) -> tuple[float, float]:
    """rms errors that accumulating comes on top of: (of quantising both operands, of rounding their
    product to bf16), each relative to the exact one's rms."""
    activations, weights = drawn(m, n, k, data)
    q, scale = act_quant(activations)
    x = q.double() * scale.double().repeat_interleave(TILE, dim=1)
    w = weight_dequant(*weight_quant(weights), torch.float32).double()
    product = x @ w.T
    _, quantising = errors_against_exact(product, activations.double() @ weights.double().T)
    _, rounding = errors_against_exact(product.bfloat16(), product)
    return quantising, rounding


def promoted(x: torch.Tensor, w: torch.Tensor, interval: int | None) -> torch.Tensor:
    """x w^T by the model, the sum moved to fp32 after every ``interval`` channels; [M, N] fp32.

    Raises ValueError unless ``interval`` is a multiple of one instruction's 32 channels.
    """
    length = x.shape[1]
    every = length if interval is None else interval
    if every < STEP or every % STEP:
        raise ValueError(f"interval: expected a positive multiple of {STEP}, got {every}")
    out = torch.zeros(x.shape[0], w.shape[0], device=x.device)
    with partials("hopper"):
        for start in range(0, length, every):
            channels = slice(start, start + every)
            out += wgmma(x[:, channels], w[:, channels])
    return out


def measure(
    problems: Sequence[Operands],
    intervals: Sequence[int | None] = INTERVALS,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Errors of every problem at every interval; ``tell`` hears of each interval begun."""
    rows = []
    for interval in intervals:
        tell(f"promoting every {_name(interval)}")
        errors = tuple(
            errors_against_exact(promoted(part.x, part.w, interval), part.exact)
            for part in problems
        )
        rows.append(Row(interval, errors))
    return rows


def table(
    rows: Sequence[Row],
    lengths: Sequence[int],
    cost: tuple[str, Callable[[int | None], str]] | None = None,
) -> str:
    """Markdown.  cost: the header of one more column and its text for an interval, where a machine
    has measured it."""
    header = ["promoted every"]
    for k in lengths:
        header += [f"max error, K={k}", f"rms error, K={k}"]
    cells = []
    for row in rows:
        line = [_name(row.interval)]
        for largest, rms in row.errors:
            line += [f"{largest:.3%}".replace("%", " %"), f"{rms:.2e}"]
        cells.append(line + ([cost[1](row.interval)] if cost else []))
    return markdown(header + ([cost[0]] if cost else []), cells, left=1)


def _name(interval: int | None) -> str:
    return "never" if interval is None else str(interval)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0, or 3 where there is no GPU for what is asked."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.promotion", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rows", type=int, default=256, help="tokens and output rows (256)")
    parser.add_argument("--data", choices=DATA, default="normal", help="distribution")
    parser.add_argument("--cost", action="store_true", help="time the intervals, on a Hopper GPU")
    options = parser.parse_args(arguments)
    cost = None
    if options.cost:
        if not has_hopper():
            print("--cost needs a Hopper GPU. Nothing was measured.", file=sys.stderr)
            return 3
        from harness import _promotion_cost as costs

        found = costs.column(promoted)
        cost = (f"cost at {costs.M}x{costs.N}x{costs.K}", found.__getitem__)
    problems = [operands(options.rows, options.rows, k, options.data) for k in LENGTHS]
    rows = measure(problems, tell=lambda text: print(text, file=sys.stderr))
    print(table(rows, LENGTHS, cost))
    print("\nBeside these, rms:")
    for k in LENGTHS:
        quantising, rounding = beside(options.rows, options.rows, k, options.data)
        print(f"K={k}: quantising {quantising:.2e}, rounding to bf16 {rounding:.2e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

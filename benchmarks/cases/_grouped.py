"""What cases of the grouped products share: rows of each expert, layouts, samples and parts.

Shapes: E experts, R rows of a buffer, T tokens of which each goes to ``topk`` experts.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import payload, scales
from benchmarks.cases._routing import buffer_rows, routing
from benchmarks.compare import sample_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

NAN = 0x7F  # of e4m3, as a byte

# Besides the kinds of benchmarks/cases/_routing.py:
KINDS = {
    "even": "every expert has as many rows",
    "about": "0.7 to 1.3 times the average, as DeepGEMM draws the rows of its masked tests",
}


class Product(Case):
    """A product of experts' rows.  What its operators' dataclasses have in common and say themselves, so
    that the order of their fields is their own: e, n, k, out; ``counts`` and ``rows`` of the buffer."""

    e: int
    n: int
    k: int
    out: str

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each expert."""
        raise NotImplementedError

    @property
    def rows(self) -> int:
        """Of the buffer."""
        raise NotImplementedError

    def _active(self) -> int:
        """Experts that have rows."""
        return sum(count > 0 for count in self.counts)

    def cost(self) -> Cost:
        return self._moved(sum(self.counts), self._active(), 4 * self.e)

    def untouched(self) -> Cost:
        rows = self.rows - sum(self.counts)
        return self._moved(rows, self.e - self._active(), 0)._replace(flops=0)

    def _moved(self, rows: int, experts: int, extra: int) -> Cost:
        """Work and bytes of so many rows and weights."""
        n, k = self.n, self.k
        w_bytes = n * k + 4 * -(-n // 128) * (k // 128)
        return Cost(
            flops=2 * rows * n * k,
            read=rows * (k + 4 * (k // 128)) + experts * w_bytes + extra,
            written=rows * n * {"bf16": 2, "fp32": 4}[self.out],
        )


@cache
def rows_of_experts(kind: str, tokens: int, experts: int, topk: int, seed: int) -> tuple[int, ...]:
    """Rows of each expert, drawn by seed on the CPU: the cost of a call depends on them."""
    import torch

    average = tokens * topk // experts
    if kind == "even":
        return (average,) * experts
    generator = torch.Generator().manual_seed(seed)
    if kind == "about":
        factor = 0.7 + 0.6 * torch.rand(experts, generator=generator)
        return tuple((factor * average).int().tolist())
    drawn = routing(kind, tokens, experts, topk, generator).flatten()
    drawn = drawn[(drawn >= 0) & (drawn < experts)]
    return tuple(drawn.bincount(minlength=experts).tolist())


def aligned(rows: int) -> int:
    """Rows of a segment (docs/decisions/0004)."""
    return (rows + 127) // 128 * 128


def buffer(kind: str, tokens: int, topk: int, counts: tuple[int, ...]) -> int:
    """R: what the host knows to suffice; for counts that it knows (from the exchange between GPUs, or
    because they are even) no more than that."""
    if kind in ("even", "about", "local"):
        return sum(map(aligned, counts))
    return buffer_rows(tokens, topk, len(counts))


def starts(counts: tuple[int, ...] | list[int]) -> list[int]:
    """[E + 1]: the first row of each segment, and the end of the last."""
    found = [0]
    for count in counts:
        found.append(found[-1] + aligned(count))
    return found


def real(counts: torch.Tensor, rows: int) -> torch.Tensor:
    """[R'] int64: indices of the rows of experts in a contiguous buffer of ``rows``, in order."""
    import torch

    held = counts.tolist()
    found = [torch.arange(a, a + n) for a, n in zip(starts(held), held, strict=False)]
    every = torch.cat(found) if found else torch.arange(0)
    return every[every < rows].to(counts.device)


def weights(
    experts: int, n: int, k: int, kind: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(w [E, N, K] e4m3, w_scale [E, ceil(N/128), K/128] fp32)."""
    w = payload((experts * n, k), kind, generator).view(experts, n, k)
    return w, scales((experts, -(-n // 128), k // 128), generator)


def poison(fp8: torch.Tensor, scale: torch.Tensor, padding: torch.Tensor) -> None:
    """NaN in the rows ``padding`` (bool) of payload and scales: nobody reads them."""
    import torch

    fp8.view(torch.uint8)[padding] = NAN
    scale[padding] = float("nan")


def sampled(count: int, n: int) -> list[int]:
    """Rows of an expert with ``count`` of them, out of a result with ``n`` columns: those of
    ``sample_rows``, the last repeated up to a power of two, so that the reference multiplies many
    experts at once."""
    if not count:
        return []
    rows = sample_rows(count, n)[0]
    return rows + rows[-1:] * ((1 << (len(rows) - 1).bit_length()) - len(rows))


def runs(counts: list[int], width: int, elements: int) -> Iterator[tuple[int, int, int, int]]:
    """(first expert, last one + 1, first row, last one + 1) that cover all experts' rows once.

    Several experts with all of their rows while these, times ``width``, are at most ``elements``;
    else 64 rows of one expert, or a multiple of it, at a time.
    """
    most_rows = max(64, elements // max(1, width) // 64 * 64)
    first, held = 0, 0
    for expert, count in enumerate(counts):
        if held and held + aligned(count) > most_rows:
            yield first, expert, 0, max(counts[first:expert])
            first, held = expert, 0
        if aligned(count) > most_rows:
            for row in range(0, count, most_rows):
                yield expert, expert + 1, row, min(row + most_rows, count)
            first, held = expert + 1, 0
        else:
            held += aligned(count)
    if first < len(counts):
        yield first, len(counts), 0, max(counts[first:])


def drawn(case: Any) -> bool:
    """Whether a case is small enough to ask for its counts before it is run: they take 0.2 s for 16384
    tokens, and whoever lists cases asks for their interpreter steps."""
    return bool(case.t * case.n * case.k < 1 << 26)


def steps(rows: int, counts: tuple[int, ...], n: int, k: int) -> int:
    """Interpreter steps of a product with a buffer of ``rows``, in tiles of 64x64: a program takes
    4/3 of one to sum up the counts, a tile as much, and a k-block 2/3."""
    tiles_n = -(-n // 64)
    programs = min(396, (rows // 64 + 1 + len(counts)) * tiles_n)
    tiles = sum(-(-count // 64) for count in counts) * tiles_n
    return (4 * programs + tiles * (4 + 2 * (k // 128))) // 3


def dequantised(
    arguments: dict[str, Any], places: list[Any], dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(rows, weight), each times its scales, of every expert.  places: where its rows are in x."""
    for expert, rows in enumerate(places):
        x, x_scale = arguments["x"][rows].to(dtype), arguments["x_scale"][rows].to(dtype)
        if not len(x):
            continue
        w, w_scale = arguments["w"][expert].to(dtype), arguments["w_scale"][expert].to(dtype)
        w_scale = w_scale.repeat_interleave(128, dim=0)[: len(w)].repeat_interleave(128, dim=1)
        yield x * x_scale.repeat_interleave(128, dim=1), w * w_scale


def dense(arguments: dict[str, Any], places: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(products in fp32, sum |x||w|) of all experts' rows, each [R', N] fp32."""
    import torch

    none = torch.empty(0, arguments["w"].shape[1], device=arguments["w"].device)
    plain, magnitude = [none], [none]
    for x, w in dequantised(arguments, places, torch.float32):
        plain.append(x @ w.T)
        magnitude.append(x.abs_() @ w.abs_().T)
    return torch.cat(plain), torch.cat(magnitude)


def exact(arguments: dict[str, Any], places: list[Any]) -> torch.Tensor:
    """Products in float64 of all experts' rows, [R', N]."""
    import torch

    found = [x @ w.T for x, w in dequantised(arguments, places, torch.float64)]
    none = torch.empty(
        0, arguments["w"].shape[1], dtype=torch.float64, device=arguments["w"].device
    )
    return torch.cat([none, *found])

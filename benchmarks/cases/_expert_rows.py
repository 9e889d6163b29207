"""Operands in rows of experts: drawn where a row is, NaN in the padding, which nobody reads.

Without experts (e = 0) every row counts: the shared expert and the dense layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import values
from benchmarks.cases._routing import buffer_rows, place, routed, routing

if TYPE_CHECKING:
    import torch

NAN = float("nan")


@dataclass(frozen=True)
class ExpertRows(Case):
    """Rows of ``t`` tokens to ``k`` of ``e`` experts each, or of ``t`` rows where ``e`` is 0."""

    t: int
    c: int
    e: int = 0
    k: int = 0
    routing: str = "uniform"
    data: str = "normal"

    @property
    def rows(self) -> int:
        """R of the buffer."""
        return buffer_rows(self.t, self.k, self.e) if self.e else self.t

    @property
    def taken(self) -> int:
        """How many of them are an expert's."""
        if not self.e:
            return self.t
        return routed(self.routing, self.t, self.e, self.k, self.seed)[0]

    def counts(self, device: str) -> torch.Tensor | None:
        """[E] int32, None without experts."""
        import torch

        if not self.e:
            return None
        if device == "meta":
            return torch.empty(self.e, dtype=torch.int32, device=device)
        drawn = routing(self.routing, self.t, self.e, self.k, self.generator("cpu"))
        return place(drawn, self.e)[1].to(device)

    def _row_bytes(self) -> tuple[int, int]:
        """(read, written) for a row, of an operator that touches rows and counts alone."""
        raise NotImplementedError

    def cost(self) -> Cost:
        read, written = self._row_bytes()
        return Cost(flops=0, read=self.taken * read + self.e * 4, written=self.taken * written)

    def untouched(self) -> Cost:
        read, written = self._row_bytes()
        padding = self.rows - self.taken
        return Cost(flops=0, read=padding * read, written=padding * written)

    def tile_steps(self, rows: int, steps: int) -> int:
        """Steps of the interpreter: ``steps`` for each tile of ``rows`` rows by 128 channels that has
        rows, and one and a half for each program that only looks whether it has."""
        groups, tiles = -(-self.rows // rows), -(-self.c // 128)
        busy = min(groups, -(-self.taken // rows) + self.e)
        return steps * busy * tiles + (3 * groups * tiles // 2 if self.e else 0)


def taken_rows(counts: torch.Tensor | None, rows: int, device: Any) -> torch.Tensor:
    """Indices, int64, of the rows that are an expert's, in order; all without counts."""
    import torch

    if counts is None:
        return torch.arange(rows, device=device)
    lengths = (counts.long() + 127) // 128 * 128
    starts = lengths.cumsum(0) - lengths
    places = torch.arange(int(lengths.sum()), device=device)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=device), lengths)
    inside = (places - starts[owner] < counts.long()[owner]) & (places < rows)
    return places[inside]


def draw(
    shape: tuple[int, int], taken: torch.Tensor, data: str, dtype: torch.dtype, generator: Any
) -> torch.Tensor:
    """[R, C] of a distribution in the rows ``taken``, in slices; NaN elsewhere.

    Of e4m3, payloads as a quantiser leaves them: the largest of a tile near the format's.
    """
    import torch

    fp8 = dtype.itemsize == 1
    out = torch.full(shape, NAN, dtype=torch.bfloat16, device=generator.device).to(dtype)
    factor = 100.0 if fp8 and data not in ("subnormal", "saturating", "ties", "zero") else 1.0
    for part in taken.split(max(1, (1 << 24) // max(1, shape[1]))):
        drawn = values((len(part), shape[1]), data, generator) * factor
        if fp8:
            drawn = drawn.clamp_(-448.0, 448.0).to(dtype).view(torch.uint8)
            out.view(torch.uint8)[part] = drawn
        else:
            out[part] = drawn.to(dtype)
    return out


def powers(
    shape: tuple[int, int], taken: torch.Tensor, low: int, high: int, generator: Any
) -> torch.Tensor:
    """[R, C/128] powers of two, 2^low to 2^(high - 1), as ``act_quant`` stores scales; NaN in padding."""
    import torch

    device = generator.device
    scale = torch.full((shape[1], (shape[0] + 3) // 4 * 4), NAN, device=device).T[: shape[0]]
    drawn = torch.randint(low, high, (len(taken), shape[1]), generator=generator, device=device)
    scale[taken] = torch.ldexp(torch.ones_like(drawn, dtype=torch.float32), drawn)
    return scale


def weights(rows: int, taken: torch.Tensor, generator: Any) -> torch.Tensor:
    """[R] fp32 on [0, 1), and NaN in the padding."""
    import torch

    out = torch.full((rows,), NAN, device=generator.device)
    out[taken] = torch.rand(len(taken), generator=generator, device=generator.device)
    return out


def stored_scales(rows: int, tiles: int) -> torch.Tensor:
    """Scales without data: stride 1 along rows, columns padded to 4 rows."""
    import torch

    return torch.empty(tiles, (rows + 3) // 4 * 4, device="meta").T[:rows]


def at(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``tensor[rows]``; FP8 as bytes, since torch does not index it on every device."""
    import torch

    if tensor.itemsize > 1:
        return tensor[rows]
    return tensor.view(torch.uint8)[rows].view(tensor.dtype)


def dequantised(q: torch.Tensor, scale: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """float64: ``rows`` of q, times their 1x128 scales where there are."""
    wide = at(q, rows).double()
    return wide if scale is None else wide * scale[rows].double().repeat_interleave(128, dim=1)

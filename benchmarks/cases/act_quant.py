"""Problems of act_quant: the activations in front of DeepSeek-V3's linear layers, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import KINDS, dtype, values
from benchmarks.cases._deepseek_v3 import EXPERT_INTERMEDIATE, LINEAR, TOKENS
from benchmarks.cases._expert_rows import ExpertRows, at, draw, taken_rows
from benchmarks.compare import Bound, Comparison, Exact, compare, structure

OUTPUTS = ("q", "scale")
TOLERANCE = Exact()  # a maximum, an IEEE division and a cast: nothing may differ
# Of other people's quantisers, whose division may be an approximate one or a product with a
# reciprocal (docs/numerics.md, "Quantisers of others").
ROUNDED = Bound(
    max=2.0**-4 + 2.0**-20, rms=2.0**-4 + 2.0**-20, tile_rms=2.0**-4 + 2.0**-20,
    why="half a unit in the last of e4m3's 4 bits, and the quotient's own 2^-21",
)  # fmt: skip
SCALED = Bound(
    max=2.0**-21, rms=2.0**-21, tile_rms=2.0**-21,
    why="two approximate divisions, each of two units in the last place at most",
)  # fmt: skip
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class ActQuant(Case):
    """[m, k] activations of dtype ``x``, drawn from the distribution ``data``."""

    m: int
    k: int
    x: str = "bf16"
    pow2: bool = False
    floor: float | None = None
    data: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        if device == "meta":
            x = torch.empty(self.m, self.k, dtype=dtype(self.x), device=device)
        else:
            x = self._draw(device)
        return {"x": x, "pow2_scale": self.pow2, "amax_floor": self.floor}

    def _draw(self, device: str) -> Any:
        import torch

        generator = self.generator(device)
        out = torch.empty(self.m, self.k, dtype=dtype(self.x), device=device)
        rows = max(1, (1 << 24) // max(1, self.k))
        for start in range(0, self.m, rows):
            stop = min(start + rows, self.m)
            out[start:stop] = values((stop - start, self.k), self.data, generator).to(out.dtype)
        return out

    def cost(self) -> Cost:
        elements = self.m * self.k
        return Cost(flops=0, read=elements * BYTES[self.x], written=elements + elements // 128 * 4)

    def interpreter_steps(self) -> int:
        return -(-self.m // 32) * (self.k // 128)


@dataclass(frozen=True)
class ActQuantOfExperts(ExpertRows):
    """``c`` channels of bf16 in rows of experts: the cache of SwiGLU's inputs."""

    pow2: bool = True

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        counts = self.counts(device)
        if device == "meta":
            x = torch.empty(self.rows, self.c, dtype=torch.bfloat16, device=device)
        else:
            taken = taken_rows(counts, self.rows, device)
            shape = (self.rows, self.c)
            x = draw(shape, taken, self.data, torch.bfloat16, self.generator(device))
        return {"x": x, "pow2_scale": self.pow2, "counts": counts}

    def _of_rows(self, rows: int) -> Cost:
        elements = rows * self.c
        return Cost(flops=0, read=2 * elements, written=elements + elements // 128 * 4)

    def cost(self) -> Cost:
        _, read, written = self._of_rows(self.taken)
        return Cost(flops=0, read=read + 4 * self.e, written=written)

    def untouched(self) -> Cost:
        return self._of_rows(self.rows - self.taken)

    def interpreter_steps(self) -> int:
        return self.tile_steps(rows=16, steps=1)


def _taken(arguments: dict[str, Any]) -> Any:
    x = arguments["x"]
    return taken_rows(arguments.get("counts"), x.shape[0], x.device)


def defined(arguments: dict[str, Any], outputs: Any) -> Any:
    """The rows that are an expert's, or all."""
    taken = _taken(arguments)
    return tuple(at(part, taken) for part in outputs)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(dequantised result, input): the error of quantising."""
    q, scale = defined(arguments, got)
    wide = q.double() * scale.double().repeat_interleave(128, dim=1)
    return wide, arguments["x"][_taken(arguments)]


def close(arguments: dict[str, Any], got: Any, expected: Any) -> Comparison:
    """Whether another implementation's (q, scale) is a right one: its scales are ours but for their
    last bits, and q times scale is the input but for one rounding to e4m3."""
    problem = structure(got, expected, OUTPUTS)
    if problem:
        return compare(got, expected, TOLERANCE, names=OUTPUTS)
    q, scale = defined(arguments, got)
    x = arguments["x"][_taken(arguments)].float()
    right, ours = defined(arguments, expected)
    scales = compare(scale, ours, SCALED, names=("scale",), magnitude=ours)
    if not scales.ok:
        return scales
    wide, spread = (part.repeat_interleave(128, dim=1) for part in (scale, ours))
    # Nothing comes back of a tile whose scale is Inf or NaN: its payloads must be ours.
    wide = (wide * q.float()).where(spread.isfinite(), q.float())
    x = x.where(spread.isfinite(), right.float())
    # Below the smallest normal number of e4m3, 2^-6, its units are those of 2^-6.
    normal = spread * 2.0**-6
    return compare(wide, x, ROUNDED, names=("q * scale",), magnitude=x.abs().maximum(normal))


WIDTHS = {k: name for name, (_, k) in reversed(LINEAR.items())}
PRODUCTION = tuple(
    ActQuant(m=m, k=k, layer=layer, bench=k in (2048, 7168, 16384))
    for k, layer in sorted(WIDTHS.items())
    for m in TOKENS
)
EDGES = (
    *(ActQuant(m=m, k=256) for m in (0, 1, 7, 31, 32, 33, 127, 129)),
    ActQuant(m=4001, k=7168, layer="q_a+kv_a"),
    ActQuant(m=16, k=0),
    ActQuant(m=64, k=512, bench=True),
    *(ActQuant(m=33, k=384, x=x, pow2=pow2) for x in BYTES for pow2 in (False, True)),
    *(
        ActQuant(m=40, k=512, x=x, pow2=pow2, data=data)
        for data in KINDS
        if data not in ("normal", "positive", "saturating")
        for x, pow2 in (("fp32", False), ("fp32", True), ("bf16", False))
    ),
    ActQuant(m=33, k=256, floor=1e-4),
    ActQuant(m=33, k=256, floor=1e-4, data="tiny", x="fp32"),
    ActQuant(m=33, k=256, floor=1e-4, data="zero", pow2=True),
    ActQuant(m=33, k=256, floor=1e-4, data="nonfinite"),
    # More elements than 32 bits can address.
    ActQuant(m=300_001, k=7168, layer="q_a+kv_a"),
)
CACHE: dict[str, Any] = {"c": 2 * EXPERT_INTERMEDIATE, "k": 8, "layer": "moe"}
OF_EXPERTS = (
    ActQuantOfExperts(t=4096, e=256, bench=True, **CACHE),
    ActQuantOfExperts(t=16384, e=256, routing="zipf", **CACHE),
    ActQuantOfExperts(t=16384, e=8, routing="local", **CACHE),
)
OF_EXPERTS_EDGES = (
    *(ActQuantOfExperts(t=t, c=256, e=8, k=2) for t in (0, 1, 19)),
    *(
        ActQuantOfExperts(t=6, c=128, e=8, k=4, routing=kind)
        for kind in ("none", "single", "no_first", "no_middle", "no_last", "stray")
    ),
    ActQuantOfExperts(t=49, c=128, e=5, k=8, routing="sizes"),
    ActQuantOfExperts(t=49, c=256, e=5, k=8, routing="sizes", pow2=False, data="nonfinite"),
)
CASES: tuple[ActQuant | ActQuantOfExperts, ...] = (
    *PRODUCTION, *OF_EXPERTS, *EDGES, *OF_EXPERTS_EDGES
)  # fmt: skip

"""Problems of grouped_gemm_masked: DeepSeek-V3's routed experts in decoding, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Part, fp8_gemm, taker
from benchmarks.cases import _grouped as grouped
from benchmarks.cases._data import dtype, payload, scales
from benchmarks.cases._deepseek_v3 import LINEAR
from benchmarks.compare import Exact

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

OUTPUTS = ("out",)
# As of fp8_gemm: each row is one of its.
TOLERANCE = Exact()
AGAINST_FP32 = fp8_gemm.AGAINST_FP32


@dataclass(frozen=True)
class GroupedGemmMasked(grouped.Product):
    """``t`` tokens of ``topk`` of ``e`` experts each, in buffers of ``c`` rows: the first rows of
    [e, c, k] e4m3 times the expert's [n, k].

    The other rows hold NaN.  ``over``: added to every count that is the capacity, and taken from every
    one that is 0, which changes no result.
    """

    e: int
    c: int
    t: int
    n: int
    k: int
    topk: int = 1
    routing: str = "about"
    over: int = 0
    out: str = "bf16"
    data: str = "normal"

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each expert that there is room for."""
        drawn = grouped.rows_of_experts(self.routing, self.t, self.e, self.topk, self.seed)
        return tuple(min(count, self.c) for count in drawn)

    @property
    def rows(self) -> int:
        """Of all buffers."""
        return self.e * self.c

    def _said(self) -> list[int]:
        """What ``counts`` holds."""
        change = {0: -self.over, self.c: self.c + self.over}
        return [change.get(count, count) for count in self.counts]

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        e, c, k = self.e, self.c, self.k
        x_scale = torch.empty(e, k // 128, c, device=device).mT
        if device == "meta":
            counts = torch.empty(e, dtype=torch.int32, device=device)
            x = torch.empty(e, c, k, dtype=torch.float8_e4m3fn, device=device)
            w = torch.empty(e, self.n, k, dtype=x.dtype, device=device)
            w_scale = torch.empty(e, -(-self.n // 128), k // 128, device=device)
        else:
            generator = self.generator(device)
            counts = torch.tensor(self._said(), dtype=torch.int32, device=device)
            x = payload((e * c, k), self.data, generator).view(e, c, k)
            x_scale.copy_(scales((e, c, k // 128), generator))
            grouped.poison(x, x_scale, ~_inside(counts, c))
            w, w_scale = grouped.weights(e, self.n, k, self.data, generator)
        return {
            "x": x, "x_scale": x_scale, "w": w, "w_scale": w_scale, "counts": counts,
            "out_dtype": dtype(self.out),
        }  # fmt: skip

    def interpreter_steps(self) -> int:
        if not grouped.drawn(self):
            rows = self.t * self.topk
            return grouped.steps(self.e * self.c, (-(-rows // self.e),) * self.e, self.n, self.k)
        return grouped.steps(self.e * self.c, self.counts, self.n, self.k)


def _inside(counts: torch.Tensor, capacity: int) -> torch.Tensor:
    """[E, C] bool: the rows of experts."""
    import torch

    return torch.arange(capacity, device=counts.device) < counts[:, None]


def defined(arguments: dict[str, Any], outputs: Any) -> Any:
    """The rows of experts, in order."""
    return outputs[_inside(arguments["counts"], arguments["x"].shape[1])]


def parts(arguments: dict[str, Any], elements: int) -> Iterator[Part]:
    """Some experts at once, or some rows of one."""
    (e, c), n = arguments["x"].shape[:2], arguments["w"].shape[1]
    held = arguments["counts"].clamp(0, c)
    for first, last, row, end in grouped.runs(held.tolist(), n, elements):
        # Of several experts all rows, so that a result's part is a block of its memory.
        experts, rows = slice(first, last), slice(row, end if last == first + 1 else c)
        part = arguments | {name: arguments[name][experts] for name in ("w", "w_scale")}
        part |= {name: arguments[name][experts, rows] for name in ("x", "x_scale")}
        part["counts"] = held[experts] - row
        name = f"experts {first} to {last - 1}, rows from {row}"
        cut = (experts, rows)
        yield Part(name, part, taker((e, c, n), itemgetter(cut)))


def sample(arguments: dict[str, Any]) -> Part:
    """Of every expert one row of each slab, with all columns."""
    import torch

    (e, c), n = arguments["x"].shape[:2], arguments["w"].shape[1]
    counts = arguments["counts"]
    chosen = [grouped.sampled(count, n) for count in counts.clamp(0, c).tolist()]
    most = max(map(len, chosen), default=0)
    places = counts.new_tensor([rows + [0] * (most - len(rows)) for rows in chosen]).long()
    places = places.reshape(e, most)
    experts = torch.arange(e, device=counts.device)[:, None]
    x = arguments["x"].view(torch.uint8)[experts, places].view(arguments["x"].dtype)
    part = arguments | {
        "x": x, "x_scale": arguments["x_scale"][experts, places],
        "counts": counts.new_tensor(list(map(len, chosen))),
    }  # fmt: skip
    return Part("sampled rows", part, taker((e, c, n), itemgetter((experts, places))))


def _places(arguments: dict[str, Any]) -> list[Any]:
    """Where the rows of each expert are."""
    held = arguments["counts"].clamp(0, arguments["x"].shape[1]).tolist()
    return [(expert, slice(count)) for expert, count in enumerate(held)]


def dense(arguments: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(fp32 products of the dequantised operands, sum |x||w|), each [rows of experts, N] fp32."""
    return grouped.dense(arguments, _places(arguments))


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(rows of experts, products of the dequantised operands in float64)."""
    return defined(arguments, got), grouped.exact(arguments, _places(arguments))


EXPERT = {layer: LINEAR[layer] for layer in ("expert_gate+up", "expert_down")}
PRODUCTION = (
    # DeepGEMM's: about 192, 1024 and 20 rows an expert.
    *(
        GroupedGemmMasked(e=e, c=c, t=e * rows, n=n, k=k, layer=layer, bench=True)
        for layer, (n, k) in EXPERT.items()
        for e, rows, c in ((32, 192, 256), (6, 1024, 1536), (32, 20, 64))
    ),
    # All routed experts on one GPU: a decode batch of t tokens, all of which one expert may have.
    *(
        GroupedGemmMasked(
            e=256, c=max(t, 16), t=t, n=n, k=k, topk=8, routing="uniform", layer=layer,
            bench=t in (16, 64, 256),
        )
        for layer, (n, k) in EXPERT.items()
        for t in (1, 4, 16, 64, 128, 256)
    ),
    GroupedGemmMasked(
        e=256, c=64, t=64, n=4096, k=7168, topk=8, routing="zipf", layer="expert_gate+up", bench=True
    ),
)  # fmt: skip
EDGES = (
    GroupedGemmMasked(e=4, c=80, t=200, n=128, k=256, bench=True),
    *(GroupedGemmMasked(e=1, c=130, t=t, n=128, k=256, routing="even") for t in (0, 1, 64, 129, 130)),
    *(
        GroupedGemmMasked(e=6, c=24, t=24, n=128, k=128, topk=2, routing=kind)
        for kind in ("none", "single", "same", "no_first", "no_middle", "no_last", "dropped")
    ),
    # More rows than there is room for; counts above the capacity, and negative ones.
    *(
        GroupedGemmMasked(e=6, c=8, t=40, n=64, k=128, topk=2, routing=kind, over=over)
        for kind in ("no_middle", "single")
        for over in (0, 1, 2**30)
    ),
    GroupedGemmMasked(e=5, c=200, t=60, n=64, k=128, topk=8, routing="sizes"),
    GroupedGemmMasked(e=33, c=40, t=40, n=64, k=128, topk=4, routing="zipf"),
    GroupedGemmMasked(e=3, c=0, t=0, n=64, k=128),
    *(
        GroupedGemmMasked(e=3, c=33, t=60, n=n, k=k)
        for n, k in ((1, 256), (8, 256), (200, 256), (576, 128), (64, 640))
    ),
    GroupedGemmMasked(e=2, c=33, t=40, n=2112, k=128),
    *(
        GroupedGemmMasked(e=3, c=70, t=150, n=72, k=384, data=data)
        for data in ("wide", "outlier", "cancelling", "saturating", "subnormal", "nonfinite")
    ),
    GroupedGemmMasked(e=3, c=70, t=150, n=72, k=256, out="fp32"),
    # Elements past 2^31: of the output, and of the rows.
    GroupedGemmMasked(e=9, c=8192, t=72_000, n=32768, k=256),
    GroupedGemmMasked(e=9, c=16384, t=4000, n=256, k=16384),
)  # fmt: skip
CASES = PRODUCTION + EDGES

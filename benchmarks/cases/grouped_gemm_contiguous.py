"""Problems of grouped_gemm_contiguous: DeepSeek-V3's routed experts in training and prefill, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Part, fp8_gemm, taker
from benchmarks.cases import _grouped as grouped
from benchmarks.cases._data import dtype, payload, scales
from benchmarks.cases._deepseek_v3 import LINEAR
from benchmarks.cases._routing import KINDS
from benchmarks.compare import Exact

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

OUTPUTS = ("out",)
# As of fp8_gemm: each row is one of its.
TOLERANCE = Exact()
AGAINST_FP32 = fp8_gemm.AGAINST_FP32


@dataclass(frozen=True)
class GroupedGemmContiguous(grouped.Product):
    """``t`` tokens of ``topk`` of ``e`` experts each: [rows, k] e4m3 times the expert's [n, k].

    Padding holds NaN.
    """

    e: int
    t: int
    n: int
    k: int
    topk: int = 1
    routing: str = "even"
    out: str = "bf16"
    data: str = "normal"

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each expert."""
        return grouped.rows_of_experts(self.routing, self.t, self.e, self.topk, self.seed)

    @property
    def rows(self) -> int:
        """R."""
        return grouped.buffer(self.routing, self.t, self.topk, self.counts)

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        rows, k = self.rows, self.k
        # The layout that act_quant gives: stride 1 along R, columns of a multiple of 4 rows.
        x_scale = torch.empty(k // 128, (rows + 3) // 4 * 4, device=device).T[:rows]
        if device == "meta":
            counts = torch.empty(self.e, dtype=torch.int32, device=device)
            x = torch.empty(rows, k, dtype=torch.float8_e4m3fn, device=device)
            w = torch.empty(self.e, self.n, k, dtype=x.dtype, device=device)
            w_scale = torch.empty(self.e, -(-self.n // 128), k // 128, device=device)
        else:
            generator = self.generator(device)
            counts = torch.tensor(self.counts, dtype=torch.int32, device=device)
            x = payload((rows, k), self.data, generator)
            x_scale.copy_(scales((rows, k // 128), generator))
            padding = torch.ones(rows, dtype=torch.bool, device=device)
            padding[grouped.real(counts, rows)] = False
            grouped.poison(x, x_scale, padding)
            w, w_scale = grouped.weights(self.e, self.n, k, self.data, generator)
        return {
            "x": x, "x_scale": x_scale, "w": w, "w_scale": w_scale, "counts": counts,
            "out_dtype": dtype(self.out),
        }  # fmt: skip

    def interpreter_steps(self) -> int:
        if not grouped.drawn(self):
            rows = self.t * self.topk
            return grouped.steps(rows, (-(-rows // self.e),) * self.e, self.n, self.k)
        return grouped.steps(self.rows, self.counts, self.n, self.k)


def defined(arguments: dict[str, Any], outputs: Any) -> Any:
    """The rows of experts, in order."""
    return outputs[grouped.real(arguments["counts"], arguments["x"].shape[0])]


def parts(arguments: dict[str, Any], elements: int) -> Iterator[Part]:
    """Some experts at once, or some rows of one."""
    counts = arguments["counts"].clamp(min=0).tolist()
    begins, shape = grouped.starts(counts), _shape(arguments)
    for first, last, row, end in grouped.runs(counts, shape[1], elements):
        one = last == first + 1
        held = counts[first:last] if not one else [end - row]
        rows = slice(begins[first] + row, begins[first] + end if one else begins[last])
        part = arguments | {name: arguments[name][first:last] for name in ("w", "w_scale")}
        part |= {name: arguments[name][rows] for name in ("x", "x_scale")}
        part["counts"] = arguments["counts"].new_tensor(held)
        name = f"experts {first} to {last - 1}, rows from {rows.start}"
        yield Part(name, part, taker(shape, itemgetter(rows)))


def sample(arguments: dict[str, Any]) -> Part:
    """Of every expert one row of each slab, with all columns, as a buffer of these alone."""
    import torch

    counts, (rows, n) = arguments["counts"], _shape(arguments)
    fitting = [
        min(count, max(0, rows - start))
        for count, start in zip(counts.tolist(), grouped.starts(counts.tolist()), strict=False)
    ]
    chosen = [grouped.sampled(count, n) for count in fitting]
    places: list[int] = []
    for start, found in zip(grouped.starts(counts.tolist()), chosen, strict=False):
        # The padding is that of the first row of the buffer, which nobody looks at.
        places += [start + row for row in found] + [0] * (grouped.aligned(len(found)) - len(found))
    index = torch.tensor(places, dtype=torch.int64, device=counts.device)
    part = arguments | {
        "x": arguments["x"].view(torch.uint8)[index].view(arguments["x"].dtype),
        "x_scale": arguments["x_scale"][index],
        "counts": counts.new_tensor(list(map(len, chosen))),
    }
    return Part("sampled rows", part, taker((rows, n), itemgetter(index)))


def _shape(arguments: dict[str, Any]) -> tuple[int, int]:
    """Of the result."""
    return arguments["x"].shape[0], arguments["w"].shape[1]


def _places(arguments: dict[str, Any]) -> list[Any]:
    """Where the rows of each expert are."""
    held = arguments["counts"].clamp(min=0).tolist()
    return [slice(a, a + n) for a, n in zip(grouped.starts(held), held, strict=False)]


def dense(arguments: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(fp32 products of the dequantised operands, sum |x||w|), each [rows of experts, N] fp32."""
    return grouped.dense(arguments, _places(arguments))


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(rows of experts, products of the dequantised operands in float64)."""
    return defined(arguments, got), grouped.exact(arguments, _places(arguments))


EXPERT = {layer: LINEAR[layer] for layer in ("expert_gate+up", "expert_down")}
PRODUCTION = (
    # DeepGEMM's groups.
    *(
        GroupedGemmContiguous(e=e, t=32768, n=n, k=k, layer=layer, bench=True)
        for layer, (n, k) in EXPERT.items()
        for e in (4, 8)
    ),
    # All routed experts on one GPU.
    *(
        GroupedGemmContiguous(
            e=256, t=4096, n=n, k=k, topk=8, routing=kind, layer=layer, bench=True
        )
        for layer, (n, k) in EXPERT.items()
        for kind in ("uniform", "zipf")
    ),
    # The experts of one of 32 GPUs without and with a redundant one, and of one of 16.
    *(
        GroupedGemmContiguous(e=e, t=16384, n=n, k=k, topk=8, routing="local", layer=layer)
        for layer, (n, k) in EXPERT.items()
        for e in (8, 9, 16)
    ),
)
EDGES = (
    GroupedGemmContiguous(e=4, t=256, n=128, k=256, bench=True),
    GroupedGemmContiguous(e=5, t=0, n=128, k=128),
    *(GroupedGemmContiguous(e=1, t=t, n=128, k=256) for t in (1, 65, 128, 129)),
    GroupedGemmContiguous(e=5, t=60, n=64, k=128, topk=8, routing="sizes"),
    *(
        GroupedGemmContiguous(e=6, t=24, n=128, k=128, topk=2, routing=kind)
        for kind in KINDS
        if kind not in ("uniform", "sizes", "zipf", "correlated", "local")
    ),
    GroupedGemmContiguous(e=9, t=70, n=128, k=128, topk=8, routing="local"),
    GroupedGemmContiguous(e=33, t=40, n=64, k=128, topk=4, routing="zipf"),
    *(GroupedGemmContiguous(e=3, t=40, n=n, k=256, topk=2, routing="uniform") for n in (1, 8, 200)),
    *(GroupedGemmContiguous(e=3, t=40, n=n, k=k, topk=2, routing="uniform")
      for n, k in ((576, 128), (64, 640))),
    GroupedGemmContiguous(e=1, t=20, n=2112, k=128),
    *(
        GroupedGemmContiguous(e=3, t=70, n=72, k=384, topk=2, routing="uniform", data=data)
        for data in ("wide", "outlier", "cancelling", "saturating", "subnormal", "nonfinite")
    ),
    GroupedGemmContiguous(e=3, t=70, n=72, k=256, topk=2, routing="uniform", out="fp32"),
    # Elements past 2^31: of the output, of the rows, and of the weights.
    GroupedGemmContiguous(e=2, t=66_000, n=32768, k=256),
    GroupedGemmContiguous(e=2, t=132_000, n=256, k=16384),
    GroupedGemmContiguous(e=300, t=600, n=4096, k=2048, topk=2, routing="uniform"),
)  # fmt: skip
CASES = PRODUCTION + EDGES

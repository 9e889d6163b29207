"""Problems of grouped_gemm_wgrad: the gradients of DeepSeek-V3's routed experts, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Case, Cost, Part, taker
from benchmarks.cases import _grouped as grouped
from benchmarks.cases._data import payload, scales
from benchmarks.cases._deepseek_v3 import LINEAR
from benchmarks.compare import Bound, Exact, sample_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

OUTPUTS = ("out",)
# The tensor core is modelled to the bit, and the promotion is one fma a block in a stated order.
TOLERANCE = Exact()
# As of fp8_gemm, with rows for channels and without a rounding to bf16 (docs/numerics.md).
AGAINST_FP32 = Bound(
    max=367 * 2.0**-13,
    rms=30 * 2.0**-13,
    tile_rms=30 * 2.0**-13,
    why="four instructions that cut 32 terms and a sum at 2^-13",
)


@dataclass(frozen=True)
class GroupedGemmWgrad(Case):
    """``t`` tokens of ``topk`` of ``e`` experts each: [e, n, k] fp32, from 0.

    Payloads of the padding in a segment are 0; what lies behind the segments, ``spare`` blocks of 128
    rows, is NaN.
    """

    e: int
    t: int
    n: int
    k: int
    topk: int = 1
    routing: str = "even"
    spare: int = 0
    data: str = "normal"

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each expert."""
        return grouped.rows_of_experts(self.routing, self.t, self.e, self.topk, self.seed)

    def _used(self) -> int:
        """Rows of all segments."""
        return sum(map(grouped.aligned, self.counts))

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        rows = self._used() + 128 * self.spare
        shapes = ((self.n, rows), (self.k, rows))
        if device == "meta":
            counts = torch.empty(self.e, dtype=torch.int32, device=device)
            grad_t, x_t = (torch.empty(s, dtype=torch.float8_e4m3fn, device=device) for s in shapes)
            grad_scale, x_scale = (torch.empty(rows // 128, s[0], device=device) for s in shapes)
        else:
            generator = self.generator(device)
            counts = torch.tensor(self.counts, dtype=torch.int32, device=device)
            grad_t, x_t = (payload(shape, self.data, generator) for shape in shapes)
            grad_scale, x_scale = (scales((rows // 128, s[0]), generator) for s in shapes)
            padding = torch.ones(rows, dtype=torch.bool, device=device)
            padding[grouped.real(counts, rows)] = False
            for fp8, scale in ((grad_t, grad_scale), (x_t, x_scale)):
                fp8.view(torch.uint8)[:, padding] = 0
                fp8.view(torch.uint8)[:, self._used() :] = grouped.NAN
                scale[self._used() // 128 :] = float("nan")
        return {
            "grad_t": grad_t, "grad_scale": grad_scale, "x_t": x_t, "x_scale": x_scale,
            "counts": counts,
        }  # fmt: skip

    def cost(self) -> Cost:
        n, k = self.n, self.k
        read = self._used() * (n + k) + self._used() // 128 * 4 * (n + k) + 4 * self.e
        return Cost(
            flops=2 * sum(self.counts) * n * k, read=read, written=4 * self.e * n * k
        )  # fmt: skip

    def untouched(self) -> Cost:
        return Cost(flops=0, read=self.spare * (128 + 4) * (self.n + self.k), written=0)

    def interpreter_steps(self) -> int:
        tiles = -(-self.n // 64) * -(-self.k // 128)
        return tiles * (4 * self.e + 6 * (self._used() // 128))


def _of(arguments: dict[str, Any], rows: Any, blocks: slice, held: Any) -> dict[str, Any]:
    """The problem of some output channels and of some blocks of rows."""
    columns = slice(128 * blocks.start, 128 * blocks.stop)
    return {
        "grad_t": arguments["grad_t"].view(_bytes())[rows][:, columns].view(arguments["x_t"].dtype),
        "grad_scale": arguments["grad_scale"][blocks][:, rows],
        "x_t": arguments["x_t"][:, columns], "x_scale": arguments["x_scale"][blocks],
        "counts": held,
    }  # fmt: skip


def _bytes() -> torch.dtype:
    """FP8 as bytes, since torch does not index it on every device."""
    import torch

    return torch.uint8


def parts(arguments: dict[str, Any], elements: int) -> Iterator[Part]:
    """64 output channels of one expert, or a multiple of it, at a time."""
    counts, shape = arguments["counts"], _shape(arguments)
    n, k = shape[1:]
    step = max(64, elements // max(1, k) // 64 * 64)
    begins = grouped.starts(counts.clamp(min=0).tolist())
    for expert in range(shape[0]):
        blocks = slice(begins[expert] // 128, begins[expert + 1] // 128)
        for start in range(0, n, step):
            rows = slice(start, start + step)
            part = _of(arguments, rows, blocks, counts[expert : expert + 1])
            cut = (slice(expert, expert + 1), rows)
            yield Part(f"expert {expert}, rows from {start}", part, taker(shape, itemgetter(cut)))


def sample(arguments: dict[str, Any]) -> Part:
    """Of every expert one output channel of each slab, with all of the input's."""
    shape = _shape(arguments)
    rows = sample_rows(*shape[1:])[0]
    every = slice(0, arguments["grad_t"].shape[1] // 128)
    part = _of(arguments, rows, every, arguments["counts"])
    return Part("sampled rows", part, taker(shape, itemgetter((slice(None), rows))))


def _shape(arguments: dict[str, Any]) -> tuple[int, int, int]:
    """Of the result."""
    names = ("counts", "grad_t", "x_t")
    e, n, k = (arguments[name].shape[0] for name in names)
    return e, n, k


def dequantised(
    arguments: dict[str, Any], dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(gradients [N, rows], inputs [K, rows]) of every expert, each times its scales."""
    begins = grouped.starts(arguments["counts"].clamp(min=0).tolist())
    for start, end in pairwise(begins):
        columns, blocks = slice(start, end), slice(start // 128, end // 128)
        pairs = (("grad_t", "grad_scale"), ("x_t", "x_scale"))
        grad, x = (
            arguments[fp8][:, columns].to(dtype)
            * arguments[scale][blocks].to(dtype).T.repeat_interleave(128, dim=1)
            for fp8, scale in pairs
        )
        yield grad, x


def dense(arguments: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(fp32 products of the dequantised operands, sum |grad||x|), each [E, N, K] fp32."""
    import torch

    plain, magnitude = [], []
    for grad, x in dequantised(arguments, torch.float32):
        plain.append(grad @ x.T)
        magnitude.append(grad.abs_() @ x.abs_().T)
    return torch.stack(plain), torch.stack(magnitude)


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(result, products of the dequantised operands in float64)."""
    import torch

    found = [grad @ x.T for grad, x in dequantised(arguments, torch.float64)]
    return got, torch.stack(found)


EXPERT = {layer: LINEAR[layer] for layer in ("expert_gate+up", "expert_down")}
PRODUCTION = (
    # DeepGEMM's groups.
    *(
        GroupedGemmWgrad(e=e, t=32768, n=n, k=k, layer=layer, bench=True)
        for layer, (n, k) in EXPERT.items()
        for e in (4, 8)
    ),
    # The experts of one of 32 GPUs without and with a redundant one, and of one of 16.
    *(
        GroupedGemmWgrad(e=e, t=16384, n=n, k=k, topk=8, routing="local", layer=layer)
        for layer, (n, k) in EXPERT.items()
        for e in (8, 9, 16)
    ),
)
EDGES = (
    GroupedGemmWgrad(e=2, t=512, n=128, k=256, bench=True),
    GroupedGemmWgrad(e=3, t=0, n=64, k=128, spare=1),
    GroupedGemmWgrad(e=3, t=0, n=64, k=128),
    *(GroupedGemmWgrad(e=1, t=t, n=64, k=128, spare=1) for t in (1, 127, 128, 129, 600)),
    GroupedGemmWgrad(e=5, t=60, n=64, k=128, topk=8, routing="sizes"),
    *(
        GroupedGemmWgrad(e=6, t=24, n=64, k=128, topk=2, routing=kind, spare=2)
        for kind in ("none", "single", "same", "no_first", "no_middle", "no_last", "dropped")
    ),
    GroupedGemmWgrad(e=33, t=40, n=64, k=64, topk=4, routing="zipf"),
    *(
        GroupedGemmWgrad(e=2, t=100, n=n, k=k, topk=2, routing="uniform")
        for n, k in ((1, 8), (65, 130), (200, 72), (576, 256), (130, 1))
    ),
    *(
        GroupedGemmWgrad(e=2, t=200, n=72, k=136, topk=2, routing="uniform", data=data)
        for data in ("wide", "outlier", "cancelling", "saturating", "subnormal", "nonfinite")
    ),
    # Elements past 2^31: of the result, and of either operand.
    GroupedGemmWgrad(e=80, t=2560, n=4096, k=7168),
    *(GroupedGemmWgrad(e=4, t=32768, n=n, k=k) for n, k in ((66_048, 256), (256, 66_048))),
)
CASES = PRODUCTION + EDGES

"""Problems of fp8_gemm: DeepSeek-V3's linear layers at four batch sizes, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Case, Cost, Part, taker
from benchmarks.cases._data import dtype, payload, scales
from benchmarks.cases._deepseek_v3 import LINEAR, TOKENS
from benchmarks.compare import Bound, Exact, sample_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

OUTPUTS = ("out",)
# On Hopper the reference models the tensor core to the bit; in Triton's interpreter both sides take
# exact partial sums (tests/conftest.py).  The promotion is one fma a k-block in a stated order.
TOLERANCE = Exact()


@dataclass(frozen=True)
class Fp8Gemm(Case):
    """[m, k] e4m3 times [n, k] e4m3 transposed, to dtype ``out``."""

    m: int
    n: int
    k: int
    out: str = "bf16"
    data: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        m, n, k = self.m, self.n, self.k
        blocks = (-(-n // 128), k // 128)
        if device == "meta":
            x, w = (
                torch.empty(rows, k, dtype=torch.float8_e4m3fn, device=device) for rows in (m, n)
            )
            w_scale = torch.empty(blocks, device=device)
        else:
            generator = self.generator(device)
            x, w = (payload((rows, k), self.data, generator) for rows in (m, n))
            w_scale = scales(blocks, generator)
        # The layout that act_quant gives: stride 1 along M, columns of a multiple of 4 rows.
        columns = torch.empty(k // 128, (m + 3) // 4 * 4, device=device).T[:m]
        x_scale = columns if device == "meta" else columns.copy_(scales((m, k // 128), generator))
        return {
            "x": x,
            "x_scale": x_scale,
            "w": w,
            "w_scale": w_scale,
            "out_dtype": dtype(self.out),
        }

    def cost(self) -> Cost:
        m, n, k = self.m, self.n, self.k
        scale_bytes = 4 * (m * (k // 128) + -(-n // 128) * (k // 128))
        size = {"bf16": 2, "fp32": 4}[self.out]
        return Cost(flops=2 * m * n * k, read=(m + n) * k + scale_bytes, written=m * n * size)

    def interpreter_steps(self) -> int:
        return -(-self.m // 64) * -(-self.n // 64) * (self.k // 128)


# Against a plain fp32 product of the dequantised operands, relative to sum |x||w|.  ``max`` holds for
# any operands, subnormal ones included: four instructions a block, of which each cuts 32 terms and
# its result at 2^-13 of the largest exponent, then fp32 sums and one rounding to bf16.  The rms ones
# hold for channels in no special order.  docs/numerics.md, "Against fp32", derives both.
AGAINST_FP32 = Bound(
    max=400 * 2.0**-13,
    rms=30 * 2.0**-13 + 2.0**-8 / 3**0.5,
    tile_rms=30 * 2.0**-13 + 2.0**-8 / 3**0.5,
    why="four instructions that cut 32 terms and a sum at 2^-13, one rounding to bf16",
)


def rows_of(arguments: dict[str, Any], rows: Any) -> dict[str, Any]:
    """The same problem for some of the tokens: rows of the output depend on nothing else."""
    return arguments | {"x": arguments["x"][rows], "x_scale": arguments["x_scale"][rows]}


def parts(arguments: dict[str, Any], elements: int) -> Iterator[Part]:
    """64 tokens or a multiple of it at a time.

    The last part has no end, so that rows too many in a result are compared, and found.
    """
    m, n = arguments["x"].shape[0], arguments["w"].shape[0]
    step = max(64, elements // max(1, n) // 64 * 64)
    for start in range(0, max(1, m), step):
        rows = slice(start, start + step if start + step < m else None)
        yield Part(f"rows from {start}", rows_of(arguments, rows), itemgetter(rows))


def sample(arguments: dict[str, Any]) -> Part:
    """One row of every slab, with all its columns."""
    m, n = arguments["x"].shape[0], arguments["w"].shape[0]
    rows = sample_rows(m, n)[0]
    return Part("sampled rows", rows_of(arguments, rows), taker((m, n), itemgetter(rows)))


def dequantised(arguments: dict[str, Any], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Both operands times their scales."""
    x, w = arguments["x"].to(dtype), arguments["w"].to(dtype)
    x_scale, w_scale = arguments["x_scale"].to(dtype), arguments["w_scale"].to(dtype)
    spread = w_scale.repeat_interleave(128, dim=0)[: w.shape[0]].repeat_interleave(128, dim=1)
    return x * x_scale.repeat_interleave(128, dim=1), w * spread


def dense(arguments: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(fp32 product of the dequantised operands, sum |x||w|), each [M, N] fp32."""
    import torch

    x, w = dequantised(arguments, torch.float32)
    return x @ w.T, x.abs() @ w.abs().T


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(result, product of the dequantised operands in float64): the error of the whole GEMM."""
    import torch

    x, w = dequantised(arguments, torch.float64)
    return got, x @ w.T


# Of what lies between the timed ones, some have configurations of their own.
PRODUCTION = tuple(
    Fp8Gemm(m=m, n=n, k=k, layer=layer, bench=m in TOKENS)
    for layer, (n, k) in LINEAR.items()
    for m in (*TOKENS, 32)
)
EDGES = (
    *(Fp8Gemm(m=m, n=256, k=256) for m in (0, 1, 7, 63, 64, 65, 128, 129)),
    *(Fp8Gemm(m=m, n=2112, k=7168, layer="q_a+kv_a") for m in (7, 129, 4001)),
    *(Fp8Gemm(m=65, n=n, k=256) for n in (0, 1, 8, 64, 129, 576)),
    *(Fp8Gemm(m=m, n=576, k=2048) for m in (16, 17)),
    # Large tiles of a result that does not fit beside their operands.
    Fp8Gemm(m=256, n=7168, k=16384, out="fp32", layer="o"),
    *(Fp8Gemm(m=33, n=136, k=k) for k in (0, 128, 384, 512, 640)),
    *(
        Fp8Gemm(m=65, n=192, k=384, data=data)
        for data in (
            "positive",
            "outlier",
            "wide",
            "subnormal",
            "cancelling",
            "saturating",
            "sparse",
            "zero",
            "nonfinite",
        )
    ),
    *(Fp8Gemm(m=65, n=200, k=256, out="fp32", data=data) for data in ("normal", "wide")),
    Fp8Gemm(m=64, n=2112, k=512, bench=True),
    # K of which K/128 leaves each remainder of 4: layouts that pad K/128 go wrong here.
    *(Fp8Gemm(m=128, n=256, k=k) for k in (16384, 16512, 16640, 16768, 131072)),
    # The output passes 2^31 elements.
    Fp8Gemm(m=66_000, n=32768, k=512, layer="kv_b"),
)
CASES = PRODUCTION + EDGES

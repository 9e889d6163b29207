"""What a machine can do at best: ceilings measured in the same run, and the datasheet's beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Cost

# NVIDIA's datasheets of the SXM parts: dense FP8 TFLOP/s, memory TB/s.  Leads, never the divisor.
DATASHEET = {"H100": (1979.0, 3.35), "H200": (1979.0, 4.8), "H800": (1979.0, 3.35)}

COPY_BYTES = tuple(1 << power for power in range(20, 33))  # 1 MiB to 4 GiB, read plus written
GEMM_SIDE = 8192
# Copies in whole pages: on an H200 one of 44 MB took 22.5 us, and 33.5 us with 512 bytes more.
PAGE = 4096
WHOLE_PAGES = 1 << 18  # bytes from which a page more makes no difference


@dataclass(frozen=True)
class Ceilings:
    """copy_gbps: the best rate of a device-to-device copy, bytes read plus written.
    fp8_tflops: tensor-wise FP8 product of 8192^3 with fast accumulation, cuBLASLt.
    """

    copy_gbps: float
    fp8_tflops: float

    def limit_us(self, cost: Cost) -> float:
        """Time below which no implementation of ``cost`` can run, by these ceilings."""
        memory = cost.bytes / self.copy_gbps / 1e3
        compute = cost.flops / self.fp8_tflops / 1e6
        return max(memory, compute)


def copy_us(nbytes: int, *, rounds: int = 1) -> list[float]:
    """Time of copying nbytes/2 bytes (nbytes moved) from device memory to device memory, cold L2.

    Large copies are rounded up to whole pages, which the driver copies fastest.
    """
    import torch

    half = max(16, nbytes // 2)
    if half >= WHOLE_PAGES:
        half = -(-half // PAGE) * PAGE

    def make() -> Callable[[], object]:
        source = torch.randint(0, 255, (half,), dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    return measure.device_us(make, bytes_per_call=nbytes, rounds=rounds).samples


def gemm_us(kind: str) -> list[float]:
    """Time of an 8192^3 product on random data: ``bf16`` or ``fp8`` (tensor-wise, fast accumulation)."""
    import torch

    side = GEMM_SIDE
    one = torch.ones((), device="cuda")

    def make() -> Callable[[], object]:
        a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        if kind == "bf16":
            return lambda: a @ b.T
        qa, qb = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        return lambda: torch._scaled_mm(  # noqa: SLF001 (the public name is torch's scaled_mm from 2.10)
            qa, qb.T, one, one, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return measure.device_us(make, bytes_per_call=side * side * 4, rounds=1, replays=8).samples

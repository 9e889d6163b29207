"""Problems of act_quant_transpose: operands of DeepSeek-V3's weight gradients, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Cost
from benchmarks.cases._data import KINDS as DATA
from benchmarks.cases._data import dtype
from benchmarks.cases._deepseek_v3 import EXPERT_INTERMEDIATE, HIDDEN, LINEAR
from benchmarks.cases._expert_rows import ExpertRows, at, draw, powers, stored_scales, taken_rows
from benchmarks.cases._routing import KINDS
from benchmarks.compare import Exact

OUTPUTS = ("q_t", "scale", "lost")
TOLERANCE = Exact()  # a maximum, an IEEE division and a cast
BYTES = {"bf16": 2, "e4m3": 1}
# Exponents of a payload's scales.  Those of one token's neighbours in ``spread`` are so far apart that
# the smaller ones are lost.
SCALES = {"near": (-6, -3), "spread": (-60, 60), "lowest": (-126, -110), "highest": (100, 120)}


@dataclass(frozen=True)
class ActQuantTranspose(ExpertRows):
    """``c`` channels of dtype ``x``, of e4m3 with powers of two of ``SCALES``."""

    x: str = "bf16"
    pow2: bool = True
    scales: str = "near"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        shape, counts = (self.rows, self.c), self.counts(device)
        if device == "meta":
            x = torch.empty(shape, dtype=dtype(self.x), device=device)
            scale = stored_scales(self.rows, self.c // 128)
        else:
            generator = self.generator(device)
            taken = taken_rows(counts, self.rows, device)
            x = draw(shape, taken, self.data, dtype(self.x), generator)
            low, high = SCALES[self.scales]
            scale = powers((self.rows, self.c // 128), taken, low, high, generator)
        return {
            "x": x, "x_scale": scale if self.x == "e4m3" else None, "counts": counts,
            "pow2_scale": self.pow2,
        }  # fmt: skip

    def _columns(self) -> int:
        """Columns of q_t that are written: whole segments."""
        if not self.e:
            return self.t
        counts = self.counts("cpu")
        assert counts is not None
        return min(self.rows, int(((counts.long() + 127) // 128 * 128).sum()))

    def _read(self) -> int:
        """Bytes read of a row."""
        return self.c * BYTES[self.x] + (self.c // 128 * 4 if self.x == "e4m3" else 0)

    def _lost(self) -> int:
        return -(-self.rows // 128) * (self.c // 128) * 4 if self.x == "e4m3" else 0

    def cost(self) -> Cost:
        columns = self._columns()
        written = columns * self.c + -(-columns // 128) * self.c * 4 + self._lost()
        return Cost(flops=0, read=self.taken * self._read() + self.e * 4, written=written)

    def untouched(self) -> Cost:
        left = self.rows - self._columns()
        return Cost(
            flops=0, read=(self.rows - self.taken) * self._read(),
            written=left * self.c + left // 128 * self.c * 4,
        )  # fmt: skip

    def interpreter_steps(self) -> int:
        return self.tile_steps(rows=128, steps=12)


def defined(arguments: dict[str, Any], outputs: Any) -> Any:
    """What lies in the experts' segments, padding included."""
    q_t, scale, lost = outputs
    columns = _columns_of(arguments["counts"], q_t.shape[1])
    return q_t[:, :columns], scale[: -(-columns // 128)], lost


def _columns_of(counts: Any, rows: int) -> int:
    if counts is None:
        return rows
    return min(rows, int(((counts.long() + 127) // 128 * 128).sum()))


def against_float64(arguments: dict[str, Any], got: Any) -> tuple[Any, Any]:
    """(dequantised result, input), of the rows that are there: the error of quantising."""
    x, scale = arguments["x"], arguments["x_scale"]
    taken = taken_rows(arguments["counts"], x.shape[0], x.device)
    exact = at(x, taken).double()
    if scale is not None:
        exact = exact * scale[taken].double().repeat_interleave(128, dim=1)
    q = at(got[0].view(_bytes()).T, taken).view(got[0].dtype).double()
    return q * got[1][taken // 128].double(), exact


def _bytes() -> Any:
    import torch

    return torch.uint8


MOE: dict[str, Any] = {"k": 8, "layer": "moe"}
PRODUCTION = (
    *(ActQuantTranspose(t=4096, c=HIDDEN, x=x, layer="dense", bench=True) for x in BYTES),
    *(
        ActQuantTranspose(t=4096, c=c, layer=layer)
        for layer, (c, _) in LINEAR.items()
        if c in (576, 2112)
    ),
    *(
        ActQuantTranspose(t=4096, c=c, e=256, x="e4m3", bench=c != 4096, **MOE)
        for c in (EXPERT_INTERMEDIATE, 2 * EXPERT_INTERMEDIATE, HIDDEN)
    ),
    ActQuantTranspose(t=4096, c=HIDDEN, e=256, x="e4m3", routing="zipf", **MOE),
    ActQuantTranspose(t=16384, c=HIDDEN, e=256, x="e4m3", **MOE),
    *(
        ActQuantTranspose(t=16384, c=HIDDEN, e=e, x="e4m3", routing="local", bench=e == 8, **MOE)
        for e in (8, 16)
    ),
    # More elements than 32 bits can address.
    *(ActQuantTranspose(t=300_001, c=HIDDEN, x=x, layer="dense") for x in BYTES),
)
EDGES = (
    *(ActQuantTranspose(t=t, c=256, x=x) for t in (0, 1, 3, 127, 129) for x in BYTES),
    *(ActQuantTranspose(t=t, c=c, pow2=False) for t, c in ((257, 16), (6, 144), (130, 272))),
    *(ActQuantTranspose(t=t, c=128, e=8, k=2, x=x) for t in (0, 1, 20) for x in BYTES),
    *(
        ActQuantTranspose(t=24, c=128, e=8, k=4, x="e4m3", routing=kind)
        for kind in KINDS
        if kind not in ("uniform", "sizes", "zipf", "local")
    ),
    *(ActQuantTranspose(t=49, c=256, e=5, k=8, x=x, routing="sizes") for x in BYTES),
    ActQuantTranspose(t=33, c=128, e=9, k=8, x="e4m3", routing="local"),
    *(
        ActQuantTranspose(t=128, c=128, x="bf16", pow2=pow2, data=data)
        for data in DATA
        if data != "normal"
        for pow2 in (False, True)
    ),
    *(
        ActQuantTranspose(t=130, c=128, x="e4m3", data=data)
        for data in DATA
        if data not in ("normal", "tiny")
    ),
    *(
        ActQuantTranspose(t=128, c=128, x="e4m3", pow2=pow2, scales=scales)
        for scales in SCALES
        for pow2 in (False, True)
    ),
    *(
        ActQuantTranspose(t=20, c=128, e=4, k=2, x=x, data="nonfinite", scales="spread") for x in BYTES
    ),
    ActQuantTranspose(t=256, c=256, x="e4m3", bench=True),
    # Few rows in a large buffer: programs that last.
    ActQuantTranspose(t=1024, c=896, e=2, k=8, x="e4m3", routing="local"),
)  # fmt: skip
CASES = PRODUCTION + EDGES

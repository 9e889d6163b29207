"""What the kernels over the rows of experts share: which rows, their numbers, and the checks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels import _check
from kernels._fp32 import PTX, sigmoid
from kernels._grouped import MOST_SUMMED, owner, segment_ends
from kernels._pow2 import quantised, scale_of
from kernels._quant import magnitude_bits

TILE = 128
MAX_ROWS = (1 << 31) - 1
MAX_EXPERTS = 1024


@triton.jit
def rows_end(counts_ptr, rows, experts, first, EXPERTS: tl.constexpr):
    """End of the rows that stand with row ``first`` in one segment; ``rows`` where EXPERTS is 0."""
    end = rows
    if EXPERTS:
        ends = segment_ends(counts_ptr, experts, rows, EXPERTS)
        _, _, end = owner(counts_ptr, ends, experts, rows, first)
    return end


@triton.jit
def numbers(
    x_ptr, scale_ptr, row, inside, channel, stride_x, stride_sr, stride_sc,
    SCALES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """[rows, TILE] fp32: the tile that begins at ``channel``, times its scales where there are."""
    columns = channel + tl.arange(0, TILE)
    x = wide(
        tl.load(x_ptr + row[:, None] * stride_x + columns[None, :], mask=inside[:, None], other=0.0)
    )
    if SCALES:
        tile = (channel // TILE).to(tl.int64)
        scale = tl.load(scale_ptr + row * stride_sr + tile * stride_sc, mask=inside, other=1.0)
        x = x * scale[:, None]
    return x


@triton.jit
def gate_and_up(
    x_ptr, scale_ptr, row, inside, channel, channels, stride_x, stride_sr, stride_sc,
    SCALES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """:func:`numbers` of gate, at ``channel``, and of up, which lies ``channels`` behind it."""
    gate = numbers(
        x_ptr, scale_ptr, row, inside, channel, stride_x, stride_sr, stride_sc, SCALES, TILE
    )
    up = numbers(
        x_ptr, scale_ptr, row, inside, channels + channel, stride_x, stride_sr, stride_sc,
        SCALES, TILE,
    )  # fmt: skip
    return gate, up


@triton.jit
def wide(x):
    """x in fp32.  Of bf16 one instruction a number; Triton's cast moves every other one down and up."""
    if PTX and x.dtype == tl.bfloat16:
        x = tl.inline_asm_elementwise(
            """{
            .reg .b32 low, high;
            shl.b32 low, $2, 16;
            and.b32 high, $2, 0xffff0000;
            mov.b32 $0, low;
            mov.b32 $1, high;
            }""", "=f,=f,r", [x], dtype=tl.float32, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        x = x.to(tl.float32)
    return x


@triton.jit
def silu(gate):
    """(gate * sigmoid(gate), sigmoid(gate))."""
    one = sigmoid(gate)
    return gate * one, one


@triton.jit
def largest(x):
    """[rows] int32: the bits of the largest magnitude of each row, those of NaN above all."""
    if PTX:
        # As numbers, which have a magnitude for nothing; the interpreter would take it one by one.
        bits = tl.reduce(tl.abs(x), 1, _larger).to(tl.int32, bitcast=True)
    else:
        bits = tl.max(magnitude_bits(x), axis=1)
    return bits


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def write(
    x, q_ptr, scale_ptr, row, inside, channel, channels, stride_scale,
    POW2_SCALE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Quantise a tile [rows, TILE] of fp32 to ``channel`` of a [.., channels] payload and its scales."""
    scale = scale_of(largest(x), POW2_SCALE)
    q = quantised(x, scale[:, None], POW2_SCALE)
    columns = channel + tl.arange(0, TILE)
    tl.store(q_ptr + row[:, None] * channels + columns[None, :], q, mask=inside[:, None])
    tile = (channel // TILE).to(tl.int64)
    tl.store(scale_ptr + tile * stride_scale + row, scale, mask=inside)


def quantised_like(
    rows: int, channels: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for [rows, channels] e4m3 and its scales as ``act_quant`` stores them."""
    q = torch.empty(rows, channels, dtype=torch.float8_e4m3fn, device=device)
    tiles, column = channels // TILE, (rows + 3) // 4 * 4
    scale = torch.empty(tiles * column, dtype=torch.float32, device=device)
    return q, scale.as_strided((rows, tiles), (1, column))


def gate_up(name: str, value: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> tuple[int, int]:
    """(R, I) of ``value`` [R, 2I]; raises TypeError or ValueError for what it must not be."""
    _check.tensor(name, value, dtypes, (None, None))
    _check.rows_contiguous(name, value)
    rows, channels = value.shape
    _check.multiple(name, "2I", channels, 2 * TILE)
    _check.whole(f"{name}: 2I", channels, 2 * TILE, MAX_ROWS)
    _check.whole(f"{name}: R", rows, 0, MAX_ROWS - TILE)
    return rows, channels // 2


def scales(name: str, value: torch.Tensor | None, of: str, x: torch.Tensor) -> tuple[int, ...]:
    """Strides of the scales ``value`` of ``x``, e4m3 with one for each TILE channels, or of none."""
    if x.dtype != torch.float8_e4m3fn:
        if value is not None:
            raise TypeError(
                f"{name}: expected None for {of} of bfloat16, got {type(value).__name__}"
            )
        return 0, 0
    _check.tensor(name, value, (torch.float32,), (x.shape[0], x.shape[1] // TILE))
    assert value is not None
    return value.stride()


def grouped(counts: torch.Tensor | None, row_weight: torch.Tensor | None, rows: int) -> None:
    """Raise TypeError or ValueError for counts or weights that are not of rows of experts."""
    if counts is not None:
        _check.tensor("counts", counts, (torch.int32,), (None,))
        _check.contiguous("counts", counts)
        _check.whole("counts: E", counts.shape[0], 1, MAX_EXPERTS)
        # So many that no sum over experts passes 32 bits, whatever their counts are.
        _check.whole("counts: E * R", counts.shape[0] * rows, 0, MOST_SUMMED)
    if row_weight is not None:
        _check.tensor("row_weight", row_weight, (torch.float32,), (rows,))
        _check.contiguous("row_weight", row_weight)


def experts(counts: torch.Tensor | None) -> tuple[int, int]:
    """(E, E up to a power of two) of ``counts``, or zeros for none."""
    if counts is None:
        return 0, 0
    return counts.shape[0], triton.next_power_of_2(counts.shape[0])


def present(**tensors: torch.Tensor | None) -> list[tuple[str, torch.Tensor]]:
    """Those that are there, with their names."""
    return [(name, value) for name, value in tensors.items() if value is not None]

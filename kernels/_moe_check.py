"""What the mixture of experts layer asks of its operands, before any launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kernels import _check, _slots
from kernels._device import layout
from kernels._grouped import expert_rows

if TYPE_CHECKING:
    from kernels._moe import Options, Sums, Weights

TILE = 128
E4M3, FP32, BF16 = torch.float8_e4m3fn, torch.float32, torch.bfloat16
TRANSPOSED = ("gate_up_t", "down_t", "shared_gate_up_t", "shared_down_t")
SUMS = ("gate_up_sum", "down_sum", "shared_gate_up_sum", "shared_down_sum")

_passed: set[Any] = set()  # layouts


def _known(key: Any) -> bool:
    if key in _passed:
        return True
    if len(_passed) >= 4096:
        _passed.clear()
    return False


def _remember(key: Any) -> None:
    if key is not None:
        _passed.add(key)


def forward(
    x: torch.Tensor, logits: torch.Tensor, bias: torch.Tensor, w: Weights, options: Options,
    from_cache: bool,
) -> None:  # fmt: skip
    """Raise TypeError or ValueError, naming the argument, unless ``moe_layer`` takes these."""
    key = layout((x, logits, bias, *w), "forward", *options, from_cache)
    if not _known(key):
        _operands(x, logits, bias, w, options)
        _check.flag("from_cache", from_cache)
        _here(x, logits=logits, bias=bias, **w._asdict())
        _remember(key)
    _aligned(w)


def decode(
    x: torch.Tensor, logits: torch.Tensor, bias: torch.Tensor, w: Weights, options: Options,
    capacity: int | None,
) -> int:  # fmt: skip
    """The capacity, T for None; raises TypeError or ValueError, naming the argument, unless
    ``moe_layer_decode`` takes these."""
    key = layout((x, logits, bias, *w), "decode", *options, capacity)
    if not _known(key):
        _operands(x, logits, bias, w, options)
        if capacity is not None:
            _check.whole("capacity", capacity, 1, _slots.MAX_ROWS // max(1, logits.shape[1]))
        _here(x, logits=logits, bias=bias, **w._asdict())
        _remember(key)
    _aligned(w)
    return max(1, x.shape[0]) if capacity is None else capacity


def backward(
    grad: torch.Tensor, x: torch.Tensor, logits: torch.Tensor, bias: torch.Tensor, w: Weights,
    options: Options, given: Sums, sums: Sums, weight_gradients: bool,
) -> None:  # fmt: skip
    """Raise TypeError or ValueError, naming the argument, unless ``moe_layer_backward`` takes these."""
    optional = {
        name: part
        for name, part in zip((*TRANSPOSED, *SUMS), (*given, *sums), strict=True)
        if part is not None
    }
    key = layout(
        (grad, x, logits, bias, *w, *optional.values()), "backward", *options, *optional,
        weight_gradients,
    )  # fmt: skip
    if not _known(key):
        _operands(x, logits, bias, w, options)
        _check.tensor("grad", grad, (BF16,), tuple(x.shape))
        _check.rows_contiguous("grad", grad)
        _check.flag("weight_gradients", weight_gradients)
        payloads = (w.gate_up, w.down, w.shared_gate_up, w.shared_down)
        for name, payload in zip(TRANSPOSED, payloads, strict=True):
            if name in optional:
                _check.tensor(name, optional[name], (E4M3,), tuple(payload.mT.shape))
                _check.contiguous(name, optional[name])
        for name, payload in zip(SUMS, payloads, strict=True):
            if name in optional:
                _check.tensor(name, optional[name], (FP32,), tuple(payload.shape))
                _check.contiguous(name, optional[name])
        _here(x, grad=grad, logits=logits, bias=bias, **w._asdict(), **optional)
        _remember(key)
    _aligned(w)
    for name, part in optional.items():
        _check.aligned(name, part)


def _here(x: torch.Tensor, **others: torch.Tensor) -> None:
    _check.runnable("x", x, *others.items())


def _aligned(w: Weights) -> None:
    """The one thing that a layout does not say."""
    for name, part in w._asdict().items():
        if part.dtype == E4M3:
            _check.aligned(name, part)


def _operands(
    x: torch.Tensor, logits: torch.Tensor, bias: torch.Tensor, w: Weights, options: Options
) -> None:
    _check.tensor("x", x, (BF16,), (None, None))
    _check.rows_contiguous("x", x)
    tokens, channels = x.shape
    _slots.channels("x", channels)
    _check.tensor("logits", logits, (FP32, BF16), (tokens, None))
    _check.rows_contiguous("logits", logits)
    experts = logits.shape[1]
    _check.tensor("bias", bias, (FP32,), (experts,))
    _check.whole("topk", options.topk, 1, _slots.MAX_TOPK)
    rows = expert_rows(tokens, options.topk, experts)
    _check.whole("x: rows of experts", rows, 0, _slots.MAX_ROWS - TILE)
    names = list(w._asdict().items())
    _projections(names[:4], (experts,), channels)
    _projections(names[4:], (), channels)


def _projections(
    parts: list[tuple[str, torch.Tensor]], experts: tuple[int, ...], channels: int
) -> None:
    """gate_up, its scale, down and its scale, of the experts or of the shared one."""
    (gate_up, payload), (_, _), (down, other), (_, _) = parts
    _check.tensor(gate_up, payload, (E4M3,), (*experts, None, channels))
    wide = payload.shape[-2]
    _check.multiple(gate_up, "2I", wide, 2 * TILE)
    _check.whole(f"{gate_up}: 2I", wide, 2 * TILE, _slots.MAX_ROWS)
    _check.tensor(down, other, (E4M3,), (*experts, channels, wide // 2))
    for (name, part), (scale_name, scale) in (parts[:2], parts[2:]):
        _check.contiguous(name, part)
        blocks = (*experts, part.shape[-2] // TILE, part.shape[-1] // TILE)
        _check.tensor(scale_name, scale, (FP32,), blocks)

"""What the router's operators share: scores, sums in a stated order, and checks of their options; the
twin of reference_impl/_router.py."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from kernels import _check, _fp32

MAX_EXPERTS = 1024
MAX_TOPK = 32
SCORINGS = ("sigmoid", "softmax")
LOGITS = (torch.float32, torch.bfloat16)


@triton.jit
def nan_is_lowest(x):
    """-Inf in the place of NaN."""
    return tl.where(x == x, x, -float("inf"))  # noqa: PLR0124 (a NaN is not)


@triton.jit
def pair_sum(x, LENGTH: tl.constexpr):
    """The sum of ``x`` [LENGTH], a power of two: in pairs, neighbours first, as a scalar.

    An addition of two numbers at a time, so that no layout decides the order.
    """
    for step in tl.static_range(LENGTH.bit_length() - 1):
        x = tl.sum(tl.reshape(x, (LENGTH >> (step + 1), 2)), axis=1)
    return tl.sum(x, axis=0)


@triton.jit
def row_pair_sums(x, ROWS: tl.constexpr, LENGTH: tl.constexpr):
    """[ROWS, 1]: the same sum of each row of ``x`` [ROWS, LENGTH]."""
    for step in tl.static_range(LENGTH.bit_length() - 1):
        x = tl.sum(tl.reshape(x, (ROWS, LENGTH >> (step + 1), 2)), axis=2)
    return tl.reshape(x, (ROWS, 1))


@triton.jit
def softmax_parts(row_ptr, experts, EXPERTS: tl.constexpr):
    """(highest logit, sum of e^(logit - highest)) of a token.  EXPERTS: experts, up to a power of two."""
    places = tl.arange(0, EXPERTS)
    held = places < experts
    x = tl.load(row_ptr + places, mask=held, other=-float("inf")).to(tl.float32)
    highest = tl.max(nan_is_lowest(x), axis=0)
    return highest, pair_sum(tl.where(held, _fp32.exp(x - highest), 0.0), EXPERTS)


@triton.jit
def scores(x, highest, total, SOFTMAX: tl.constexpr):
    """Scores of fp32 logits; highest and total: of :func:`softmax_parts`, looked at with SOFTMAX only."""
    if SOFTMAX:
        found = _fp32.exp(x - highest)
        found = tl.div_rn(found, tl.broadcast_to(total, found.shape))
    else:
        found = _fp32.sigmoid(x)
    return found


def logits(value: Any) -> tuple[int, int]:
    """(T, E) of ``logits``, checked."""
    _check.tensor("logits", value, LOGITS, (None, None))
    _check.rows_contiguous("logits", value)
    tokens, experts = value.shape
    _check.whole("logits: E", experts, 1, MAX_EXPERTS)
    return tokens, experts


def lists(value: Any, tokens: int) -> None:
    """Raise TypeError or ValueError unless ``topk_idx`` is [T, K] int64, contiguous, with a K that fits."""
    _check.tensor("topk_idx", value, (torch.int64,), (tokens, None))
    _check.contiguous("topk_idx", value)
    _check.whole("topk_idx: K", value.shape[1], 1, MAX_TOPK)


def number(name: str, value: Any, *, zero: bool = False) -> None:
    """Raise TypeError or ValueError unless ``value`` is positive, or 0 with ``zero``, and finite in fp32."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    least = 0.0 if zero else 2.0**-149
    if not (math.isfinite(value) and least <= value <= torch.finfo(torch.float32).max):
        kind = "finite number, 0 or more" if zero else "positive finite number"
        raise ValueError(f"{name}: expected a {kind}, got {value}")


def weighting(route_scale: Any, scoring: Any, normalise: Any) -> None:
    """Raise TypeError or ValueError unless these options say how scores become weights."""
    number("route_scale", route_scale)
    _check.one_of("scoring", scoring, SCORINGS)
    _check.flag("normalise", normalise)

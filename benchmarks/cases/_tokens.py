"""Some of a layer's problem: some of its tokens, whose results depend on no others."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Part, taker
from benchmarks.compare import sample_rows

if TYPE_CHECKING:
    from collections.abc import Iterator


def parts(arguments: dict[str, Any], elements: int) -> Iterator[Part]:
    """Of an operator that returns [T, H]: 64 tokens or a multiple of it at a time."""
    for rows in slabs(arguments, elements):
        yield Part(f"tokens from {rows.start}", rows_of(arguments, rows), itemgetter(rows))


def sample(arguments: dict[str, Any]) -> Part:
    """Of an operator that returns [T, H]: some 64 tokens, with all their channels."""
    shape, rows = tuple(arguments["x"].shape), sampled(arguments)
    return Part("sampled tokens", rows_of(arguments, rows), taker(shape, itemgetter(rows)))


def rows_of(arguments: dict[str, Any], rows: Any) -> dict[str, Any]:
    """The same problem for some of the tokens."""
    names = [name for name in ("x", "logits", "grad") if name in arguments]
    return arguments | {name: arguments[name][rows] for name in names}


def sampled(arguments: dict[str, Any]) -> list[int]:
    """One token of each 64, or as many as make 64, with the first and the last."""
    rows = sample_rows(*arguments["x"].shape)[0]
    few = rows[:: max(1, -(-len(rows) // 64))]
    return sorted({*few, *rows[-1:]})


def slabs(arguments: dict[str, Any], elements: int) -> Iterator[slice]:
    """All tokens, 64 or a multiple of it at a time, of which a layer's steps have ``elements``.

    The last has no end, so that rows too many in a result are compared, and found.
    """
    (tokens, channels), wide = arguments["x"].shape, arguments["gate_up"].shape[1]
    each = (arguments["topk"] + 1) * (channels + wide)
    step = max(64, elements // each // 64 * 64)
    for start in range(0, max(1, tokens), step):
        yield slice(start, start + step if start + step < tokens else None)

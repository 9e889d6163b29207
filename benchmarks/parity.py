"""Is this result right?  The one check that tests, clock and sweep share.

Small results are compared with the reference whole.  Of a large matrix product the reference models
a sample, one row of every 64-row slab with all its columns, so that every tile and every slab is
touched to the bit; and the whole output is compared with a plain fp32 product tile by tile, which
finds a tile that was not written, written twice or taken from elsewhere.  `nox -s exact` models
every element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases, compare

if TYPE_CHECKING:
    import torch

    from benchmarks.cases import Case

# Multiplications and additions above which the model of the whole output takes seconds of GPU.
LARGE = 1 << 33


class Parity(NamedTuple):
    """ok: within the operator's tolerance.  differing: elements of those modelled whose bits differ.
    modelled: how many were.  message: what is wrong, empty when nothing is."""

    ok: bool
    differing: int
    modelled: int
    message: str


def sampled(stem: str, case: Case) -> bool:
    """Whether the reference models only a sample of this case's output."""
    return hasattr(cases.load(stem), "rows_of") and case.cost().flops > LARGE


def check(
    stem: str, case: Case, arguments: dict[str, Any], got: Any, expected: Any = None
) -> Parity:
    """Compare an operator's result with the reference on the same operands.

    expected: the reference's result from an earlier check of the same case (:func:`reference`).
    """
    module = cases.load(stem)
    if expected is None:
        expected = reference(stem, case, arguments)
    whole = got
    if sampled(stem, case):
        if not _alike(got, arguments["x"].shape[0], expected):
            return Parity(False, expected.numel(), expected.numel(), f"got {_describe(got)}")
        got = got[_rows(case, got.shape[1])]
    if hasattr(module, "defined"):
        problem = compare.structure(got, expected, module.OUTPUTS)
        if problem:
            return Parity(False, 0, 0, problem)
        got, expected = (defined(stem, arguments, outputs) for outputs in (got, expected))
    found = compare.compare(got, expected, module.TOLERANCE, names=module.OUTPUTS)
    outputs = expected if isinstance(expected, tuple) else (expected,)
    modelled = sum(output.numel() for output in outputs if output is not None)
    ok, message = found.ok, "" if found.ok else found.message
    if sampled(stem, case):
        tiles = compare_tiles(stem, arguments, whole)
        ok, message = ok and tiles.ok, message + ("" if tiles.ok else "\n" + tiles.message)
    return Parity(ok, found.differing, modelled, message.strip())


def reference(stem: str, case: Case, arguments: dict[str, Any]) -> Any:
    """What the reference says: of the whole output, or of the sampled rows where that is too large."""
    function = cases.public("reference_impl", stem)
    if sampled(stem, case):
        rows = _rows(case, arguments["w"].shape[0])
        arguments = cases.load(stem).rows_of(arguments, rows)
    return cases.call(function, arguments)


def defined(stem: str, arguments: dict[str, Any], outputs: Any) -> Any:
    """``outputs``, of the right structure, without what the operator leaves undefined."""
    hook = getattr(cases.load(stem), "defined", None)
    return outputs if hook is None else hook(arguments, outputs)


def _rows(case: Case, n: int) -> list[int]:
    m: int = case.m  # type: ignore[attr-defined]
    return compare.sample_rows(m, n)[0]


def _alike(got: Any, m: int, expected: torch.Tensor) -> bool:
    shape, dtype = getattr(got, "shape", ()), getattr(got, "dtype", None)
    return tuple(shape) == (m, expected.shape[1]) and dtype == expected.dtype


def _describe(got: Any) -> str:
    return (
        f"{getattr(got, 'dtype', type(got).__name__)} of shape {tuple(getattr(got, 'shape', ()))}"
    )


def compare_tiles(stem: str, arguments: dict[str, Any], got: torch.Tensor) -> compare.Comparison:
    """The whole output of a matrix product against fp32, 4096 rows at a time."""
    module = cases.load(stem)
    parts = []
    for start in range(0, got.shape[0], 4096):
        rows = slice(start, start + 4096)
        dense, magnitude = module.dense(module.rows_of(arguments, rows))
        parts.append(
            compare.compare(
                got[rows].float(), dense, module.AGAINST_FP32,
                names=[f"rows from {start}, against fp32"], magnitude=magnitude,
            )
        )  # fmt: skip
        if not parts[-1].ok:
            break
    return parts[-1]


def accuracy(stem: str, case: Case, arguments: dict[str, Any], got: Any) -> tuple[float, float]:
    """(max|error| / mean|exact|, rms error / rms exact) of a result against float64.

    What ``exact`` is, the case module says: of a quantiser, the input; of a product, the product of
    the same operands in float64 (on the sampled rows where the output is large).
    """
    module = cases.load(stem)
    if sampled(stem, case):
        rows = _rows(case, got.shape[1])
        arguments, got = module.rows_of(arguments, rows), got[rows]
    approximate, exact = module.against_float64(arguments, got)
    return compare.errors_against_exact(approximate, exact)

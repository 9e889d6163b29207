"""Is this result right?  The one check that tests, clock and sweep share.

Small results are compared with the reference whole.  Of a large matrix product the reference models
a sample (``sample`` of the case module: one row of every 64-row slab with all its columns), so that
every expert, tile and slab is touched to the bit; and the whole output is compared with a plain fp32
product tile by tile, which finds a tile that was not written, written twice or taken from elsewhere.
Of a layer, which is several products, the sample is all (no ``dense``): its products have their own.
`nox -s exact` models every element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases, compare

if TYPE_CHECKING:
    import torch

    from benchmarks.cases import Case

# Multiplications and additions above which the model of the whole output takes seconds of GPU.
LARGE = 1 << 33
DENSE = 1 << 25  # elements of a result that are compared with fp32 at once


class Parity(NamedTuple):
    """ok: within the operator's tolerance.  differing: elements of those modelled whose bits differ.
    modelled: how many were.  message: what is wrong, empty when nothing is."""

    ok: bool
    differing: int
    modelled: int
    message: str


def sampled(stem: str, case: Case) -> bool:
    """Whether the reference models only a sample of this case's output."""
    return hasattr(cases.load(stem), "sample") and case.cost().flops > LARGE


def check(
    stem: str, case: Case, arguments: dict[str, Any], got: Any, expected: Any = None
) -> Parity:
    """Compare an operator's result with the reference on the same operands.

    expected: the reference's result from an earlier check of the same case (:func:`reference`).
    """
    module = cases.load(stem)
    if expected is None:
        expected = reference(stem, case, arguments)
    whole, part = got, arguments
    if sampled(stem, case):
        _, part, take = module.sample(arguments)
        got = take(got)
    problem = compare.structure(got, expected, module.OUTPUTS)
    outputs = expected if isinstance(expected, tuple) else (expected,)
    if problem:
        elements = sum(output.numel() for output in outputs if output is not None)
        return Parity(False, elements, elements, problem)
    got, expected = (defined(stem, part, results) for results in (got, expected))
    found = compare.compare(got, expected, module.TOLERANCE, names=module.OUTPUTS)
    outputs = expected if isinstance(expected, tuple) else (expected,)
    modelled = sum(output.numel() for output in outputs if output is not None)
    ok, message = found.ok, "" if found.ok else found.message
    if sampled(stem, case) and hasattr(module, "dense"):
        tiles = compare_tiles(stem, arguments, whole)
        ok, message = ok and tiles.ok, message + ("" if tiles.ok else "\n" + tiles.message)
    return Parity(ok, found.differing, modelled, message.strip())


def reference(stem: str, case: Case, arguments: dict[str, Any]) -> Any:
    """What the reference says: of the whole output, or of the sample where that is too large."""
    function = cases.public("reference_impl", stem)
    if sampled(stem, case):
        arguments = cases.load(stem).sample(arguments).arguments
    return cases.call(function, arguments)


def defined(stem: str, arguments: dict[str, Any], outputs: Any) -> Any:
    """``outputs``, of the right structure, without what the operator leaves undefined."""
    hook = getattr(cases.load(stem), "defined", None)
    return outputs if hook is None else hook(arguments, outputs)


def close(stem: str, arguments: dict[str, Any], got: Any, expected: Any) -> compare.Comparison:
    """Whether a peer's result, whose bits may differ, is one of this operator.

    Of a matrix product: against fp32, whole.  Else as the case module's ``close`` says, and of a
    module without it as ours is.
    """
    module = cases.load(stem)
    if hasattr(module, "dense"):
        return compare_tiles(stem, arguments, got)
    if hasattr(module, "close"):
        found: compare.Comparison = module.close(arguments, got, expected)
        return found
    return compare.compare(got, expected, module.TOLERANCE, names=module.OUTPUTS)


def bounded(stem: str) -> bool:
    """Whether a result of this operator may have other bits than the reference's: :func:`close` says
    which, where another order of summation or another division is right, too."""
    module = cases.load(stem)
    return hasattr(module, "dense") or hasattr(module, "close")


def laid_as(got: Any, expected: Any) -> Any:
    """A peer's result in the reference's strides; as it is where anything else differs, too.

    Its rows may lie in a larger buffer: what is between them is left out.
    """
    import torch

    if isinstance(got, tuple) and isinstance(expected, tuple) and len(got) == len(expected):
        return tuple(laid_as(one, other) for one, other in zip(got, expected, strict=True))
    if not (torch.is_tensor(got) and torch.is_tensor(expected)):
        return got
    if got.dim() and got.stride(-1) == 1:
        got = got.contiguous()
    if (got.shape, got.dtype) != (expected.shape, expected.dtype):
        return got
    if got.stride() == expected.stride():
        return got
    out = torch.empty_strided(expected.shape, expected.stride(), dtype=got.dtype, device=got.device)
    return out.copy_(got)


def compare_tiles(stem: str, arguments: dict[str, Any], got: torch.Tensor) -> compare.Comparison:
    """The whole output of a matrix product against fp32, part by part until one is outside."""
    module = cases.load(stem)
    for name, part, take in module.parts(arguments, DENSE):
        dense, magnitude = module.dense(part)
        found = compare.compare(
            defined(stem, part, take(got)).float(), dense, module.AGAINST_FP32,
            names=[f"{name}, against fp32"], magnitude=magnitude,
        )  # fmt: skip
        if not found.ok:
            break
    return found


def accuracy(stem: str, case: Case, arguments: dict[str, Any], got: Any) -> tuple[float, float]:
    """(max|error| / mean|exact|, rms error / rms exact) of a result against float64.

    What ``exact`` is, the case module says: of a quantiser, the input; of a product, the product of
    the same operands in float64 (on the sample where the output is large).
    """
    module = cases.load(stem)
    if sampled(stem, case):
        _, arguments, take = module.sample(arguments)
        got = take(got)
    approximate, exact = module.against_float64(arguments, got)
    return compare.errors_against_exact(approximate, exact)

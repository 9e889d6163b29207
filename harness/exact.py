"""``python -m harness.exact [OPERATOR...]``: every element of every timed case against the reference.

The sweep models a sample of a large product (benchmarks.parity); this models all of it, on the GPU,
a part at a time (``parts`` of the case module), so that no more than 4 GiB are held beside the
problem itself.  Results lie in memory filled with NaN before, so that an element nobody wrote shows.
``--untimed`` adds the production cases that are not timed, such as the slices of a rank.
``--configs`` also runs every configuration of a kernel that has several (``CONFIGS`` and ``run`` of
its module), not only the one its launcher chooses.

``--out FILE`` keeps what was found, as results/MACHINE/exact/COMMIT.json, case by case: a file that is
there already is added to.  ``--write`` makes docs/exact.md of the files that are there, and needs no GPU.

Exit codes: 0 nothing differs, 1 something differs or fails, 2 the command line asks for what there
is not, 3 there is no Hopper GPU.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases, compare, fingerprint, parity
from harness import _evidence, _problem, doctor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from benchmarks.cases import Case

MEMORY = 4 << 30  # bytes that the model may take
# Bytes that the reference holds for one element of a product while it models it: a dozen float64 or
# int64 of the rounded fma, and some fp32.
ELEMENT = 128
LAUNCHER = "launcher"


class Found(NamedTuple):
    """One result against the reference.  elements: all of its outputs.  message: empty when right."""

    operator: str
    case: str
    variant: str
    elements: int
    differing: int
    message: str = ""


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, what ``torch.empty`` returns reads as NaN in every floating format, and as -1."""
    import torch

    fresh = torch.empty

    def empty(*args: Any, **options: Any) -> torch.Tensor:
        return fill(fresh(*args, **options))

    torch.empty = empty
    try:
        yield
    finally:
        torch.empty = fresh


def fill(out: torch.Tensor) -> torch.Tensor:
    """All bits set; ``out`` is contiguous."""
    import torch

    if out.numel():
        out.view(torch.uint8).fill_(0xFF)
    return out


def results(stem: str, arguments: dict[str, Any], *, configs: bool) -> Iterator[tuple[str, Any]]:
    """(variant, result): the public function's, then each configuration's."""
    with poisoned():
        yield LAUNCHER, cases.call(cases.public("kernels", stem), arguments)
    for config in configurations(stem, arguments) if configs else ():
        out = fill(unwritten(stem, arguments))
        run(stem, arguments, out, config)
        yield "-".join(map(str, config)), out


def configurations(stem: str, arguments: dict[str, Any]) -> Sequence[Any]:
    """Those of the launcher's that can take these arguments; none for an operator that has but one."""
    module = importlib.import_module(f"kernels.{stem}")
    found: Sequence[Any] = getattr(module, "CONFIGS", ())
    if hasattr(module, "configurations"):
        found = module.configurations(arguments["x"].shape[0])
    return found


def unwritten(stem: str, arguments: dict[str, Any]) -> torch.Tensor:
    """Memory for the result, of the shape and dtype that the public function gives."""
    from kernels._device import recording

    with recording():
        out: torch.Tensor = cases.call(cases.public("kernels", stem), arguments)
    return out


def run(stem: str, arguments: dict[str, Any], out: torch.Tensor, config: Any) -> None:
    """One launch of one configuration into ``out``."""
    function = importlib.import_module(f"kernels.{stem}").run
    known = inspect.signature(function).parameters
    operands = {name: value for name, value in arguments.items() if name in known}
    function(**operands, out=out, config=config)


def check(
    stem: str, case: Case, device: str = "cuda", *, memory: int = MEMORY, configs: bool = False
) -> list[Found]:
    """Compare every element of every variant's result; the reference is modelled once for all."""
    arguments = case.inputs(device)
    got = dict(results(stem, arguments, configs=configs))
    return compare_all(stem, case, arguments, got, memory=memory)


def compare_all(
    stem: str, case: Case, arguments: dict[str, Any], got: dict[str, Any], *, memory: int = MEMORY
) -> list[Found]:
    """Compare the results of several variants with the reference, chunk by chunk.

    got: variant -> result.  memory: bytes that the reference may take beside the operands.
    """
    module, elements = cases.load(stem), 0
    differing, messages = dict.fromkeys(got, 0), dict.fromkeys(got, "")
    for name, part, take in chunks(stem, arguments, memory):
        expected = cases.call(cases.public("reference_impl", stem), part)
        wanted = parity.defined(stem, part, expected)
        elements += sum(
            one.numel()
            for one in (wanted if isinstance(wanted, tuple) else (wanted,))
            if one is not None
        )
        for variant, result in got.items():
            piece = take(result)
            # A result of another structure is compared as it is, and found to be that.
            alike = not compare.structure(piece, expected, module.OUTPUTS)
            pair = (parity.defined(stem, part, piece), wanted) if alike else (piece, expected)
            found = compare.compare(*pair, module.TOLERANCE, names=module.OUTPUTS)
            differing[variant] += found.differing
            if not found.ok and not messages[variant]:
                messages[variant] = (f"{name}: " if name else "") + found.message
        del expected
    return [
        Found(stem, case.label, name, elements, differing[name], messages[name]) for name in got
    ]


def chunks(stem: str, arguments: dict[str, Any], memory: int) -> Iterator[cases.Part]:
    """The problem in parts that the reference models in so many bytes; whole for an operator that is
    never large."""
    parts = getattr(cases.load(stem), "parts", None)
    if parts is None:
        yield cases.Part("", arguments, lambda result: result)
    else:
        yield from parts(arguments, memory // ELEMENT)


def chosen(
    operators: Sequence[str], part: str | None, untimed: bool = False
) -> list[tuple[str, Case]]:
    """The timed cases of these operators, or of all, whose label has ``part``.  Raises UsageError.

    untimed: those of production that are not timed as well.
    """
    stems = [_problem.operator(text) for text in operators] or cases.names()
    found = [
        (stem, case)
        for stem in stems
        for case in (cases.load(stem).CASES if part is None else _problem.matching(stem, part))
        if case.bench or (untimed and case.layer)
    ]
    if not found:
        raise _problem.UsageError(
            f"--cases: no timed case of {', '.join(stems)} has {part!r} in its label"
        )
    return found


def examine(
    problems: Sequence[tuple[str, Case]], device: str = "cuda", *, configs: bool = False,
    keep: Callable[[dict[str, Any]], None] = _evidence.forget,
) -> int:  # fmt: skip
    """Check each problem and say what came of it; the number of results that are wrong or failed.

    keep: called with the row of each case that is to be kept (harness/_evidence.py).
    """
    wrong = differing = elements = results_ = 0
    begun = time.monotonic()
    for stem, case in problems:
        start = time.monotonic()
        try:
            found = check(stem, case, device, configs=configs)
        except Exception as error:  # noqa: BLE001  (one case's failure says nothing of the others)
            found = [Found(stem, case.label, LAUNCHER, 0, 0, f"{type(error).__name__}: {error}")]
        seconds = time.monotonic() - start
        print(_line(found, seconds), flush=True)
        keep(_evidence.exact_row(found, seconds))
        for one in found:
            wrong += bool(one.message)
            differing += one.differing
            elements += one.elements
            results_ += 1
            if one.message:
                print(f"  {one.variant}: {one.message}", flush=True)
        if any("CUDA error" in one.message for one in found):
            print("  the GPU's context is lost; the remaining cases were not begun", flush=True)
            break
    print(
        f"{differing} of {elements} elements differ, in {results_} results of {len(problems)} cases; "
        f"{wrong} results are wrong; {time.monotonic() - begun:.1f} s"
    )
    return wrong


def _line(found: Sequence[Found], seconds: float) -> str:
    variants = f", {len(found) - 1} configurations besides the launcher's" if len(found) > 1 else ""
    each = " + ".join(str(one.differing) for one in found if one.differing) or "0"
    name = f"{found[0].operator} {found[0].case}"
    return f"{name}: {each} of {found[0].elements} elements differ{variants}, {seconds:.1f} s"


def ready(command: str) -> bool:
    """Whether ``command`` can compare here; says on what, or why not.  To be asked before any kernel is
    defined: what is interpreted does not run on the GPU."""
    if not fingerprint.has_hopper():
        print(
            f"{command} needs a Hopper GPU: the reference models its tensor cores. Nothing was compared.",
            file=sys.stderr,
        )
        return False
    os.environ.pop("TRITON_INTERPRET", None)
    doctor.require(["torch", "triton"], command)
    print(f"{_problem.tree()}; {_problem.machine()}", flush=True)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.exact", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help="default: all")
    parser.add_argument(
        "--cases", metavar="PART", help="only cases with this in their label, such as m=4096"
    )
    parser.add_argument(
        "--configs", action="store_true", help="every configuration, not only the launcher's"
    )
    parser.add_argument(
        "--untimed", action="store_true", help="production cases that are not timed, too"
    )
    _evidence.options(parser)
    options = parser.parse_args(arguments)
    if options.write:
        _evidence.write()
        return 0
    try:
        problems = chosen(options.operators, options.cases, options.untimed)
        keep = _evidence.keeper(options, ("operator", "case"))
    except _problem.UsageError as error:
        print(error, file=sys.stderr)
        return 2
    if not ready("exact"):
        return 3
    return 1 if examine(problems, configs=options.configs, keep=keep) else 0


if __name__ == "__main__":
    sys.exit(main())

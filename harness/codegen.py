"""``python -m harness.codegen [OPERATOR...]``: what the compiler makes of the working tree, for sm_90.

One row a kernel and configuration that the timed cases reach, each on its largest problem; ``--all``
one a timed case; ``--edges`` one a configuration that no timed case reaches; ``--case`` (a label, a
part of one, or M,N,K) the problem named.  ``--sass`` prints the machine code of one operator's case.
Needs no GPU: Triton compiles and disassembles anywhere.

Exit codes: 0, 1 when something does not compile, 2 when the command line asks for what there is not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases, codegen
from harness import _problem, doctor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.table import Table

    from benchmarks.cases import Case

EDGES = "*"
HASH = 8  # characters of a hash that tell kernels apart on a screen


class Built(NamedTuple):
    """The kernels of one case, or why they do not compile."""

    operator: str
    case: str
    kernels: list[codegen.Compiled]
    error: str = ""


def build(stem: str, case: Case) -> Built:
    """Compile one case.  Not in a process in which kernels are interpreted."""
    try:
        return Built(stem, case.label, codegen.compile_case(stem, case))
    except Exception as error:  # noqa: BLE001  (a kernel that does not compile is a row, not our end)
        return Built(stem, case.label, [], f"{type(error).__name__}: {error}")


def elsewhere(problems: Iterable[tuple[str, str]]) -> subprocess.Popen[str]:
    """Start compiling (operator, case) pairs in a process of its own, for :func:`collect`.

    An empty case stands for those that the table without options has, EDGES for those of ``--edges``.
    Kernels that Triton interprets cannot be compiled in the same process.
    """
    pairs = [f"{stem}:{case}" for stem, case in problems]
    command = [sys.executable, "-m", "harness.codegen", "--json", *pairs]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=_problem.ROOT, env=_problem.without_interpreter(),
    )  # fmt: skip


def collect(child: subprocess.Popen[str]) -> list[Built]:
    """What a process of :func:`elsewhere` compiled.  Raises RuntimeError when it died."""
    out, err = child.communicate()
    if child.returncode not in (0, 1) or not out.strip():
        raise RuntimeError(f"compiling ended with {child.returncode}: {err.strip()[-800:]}")
    rows = [json.loads(line) for line in out.splitlines()]
    return [
        Built(stem, case, [codegen.Compiled(**kernel) for kernel in kernels], error)
        for stem, case, kernels, error in rows
    ]


def timed(stem: str) -> list[Case]:
    """The operator's timed cases."""
    return [case for case in cases.load(stem).CASES if case.bench]


def distinct(stem: str) -> list[Case]:
    """For each configuration that the timed cases reach, the largest of them."""
    return list(_largest(stem, timed(stem)).values())


def edges(stem: str) -> list[Case]:
    """For each configuration that other cases reach and timed ones do not, the largest of them."""
    known = _largest(stem, timed(stem))
    found = _largest(stem, cases.load(stem).CASES)
    return [case for configuration, case in found.items() if configuration not in known]


def _largest(stem: str, of: Iterable[Case]) -> dict[tuple[Any, ...], Case]:
    largest: dict[tuple[Any, ...], Case] = {}
    for case in of:
        key = configuration(stem, case)
        if key not in largest or work(case) > work(largest[key]):
            largest[key] = case
    return largest


def work(case: Case) -> int:
    """How much a case has to do, to order them by."""
    cost = case.cost()
    return cost.flops + cost.bytes


def configuration(stem: str, case: Case) -> tuple[Any, ...]:
    """Kernels and options of a case's launches; how many programs share the work is not one."""
    return tuple(
        (
            launch.kernel.__name__,
            *sorted(item for item in launch.options.items() if (item[1],) != launch.grid),
        )
        for launch in _recorded(stem, case)
    )


def _recorded(stem: str, case: Case) -> list[Any]:
    from kernels._device import recording

    with recording() as launches:
        cases.call(cases.public("kernels", stem), case.inputs("meta"))
    return launches


def table(stem: str, built: Sequence[Built]) -> Table:
    """A row a kernel; the case is named on its first."""
    from rich.table import Table

    shared, names = _problem.shortened([one.case for one in built])
    drawn = Table(title=f"{stem}, sm_90 {shared}".rstrip(), title_justify="left")
    drawn.add_column("case", overflow="fold")
    drawn.add_column("kernel", overflow="fold")
    for name in ("grid", "warps", "registers", "spills B", "shared KB"):
        drawn.add_column(name, justify="right")
    drawn.add_column("wgmma", overflow="fold")
    for name in ("instructions", "compile s"):
        drawn.add_column(name, justify="right")
    drawn.add_column("sass_code")
    drawn.add_column("sass_ops")
    for one in built:
        for index, kernel in enumerate(one.kernels):
            drawn.add_row("" if index else names[one.case], *_cells(kernel))
        if not one.kernels:
            drawn.add_row(names[one.case], "[red]does not compile[/red]" if one.error else "none")
    return drawn


def _cells(kernel: codegen.Compiled) -> list[str]:
    spills = f"[red]{kernel.spills}[/red]" if kernel.spills else "0"
    shapes = " + ".join(f"{count} {shape.split('.')[0]}" for shape, count in kernel.shapes.items())
    if sum(kernel.shapes.values()) != kernel.wgmma:
        shapes = f"{kernel.wgmma}, in PTX {shapes or 'none'}"  # ptxas duplicated or dropped some
    return [
        kernel.name.strip("_").removesuffix("_kernel"), "x".join(map(str, kernel.grid)),
        str(kernel.warps), str(kernel.registers), spills, f"{kernel.shared / 1024:.1f}",
        shapes or "0", str(kernel.instructions),
        f"{kernel.seconds:.2f}", kernel.sass_code[:HASH], kernel.sass_ops[:HASH],
    ]  # fmt: skip


def sass(stem: str, case: Case) -> Iterator[tuple[str, str]]:
    """(kernel, nvdisasm's text) of every kernel of a case."""
    with codegen.offline(), tempfile.TemporaryDirectory() as folder:
        for launch in _recorded(stem, case):
            kernel = launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options)
            cubin = Path(folder) / "kernel.cubin"
            cubin.write_bytes(kernel.asm["cubin"])
            yield kernel.metadata.name, codegen._tool("nvdisasm", "-c", str(cubin))  # noqa: SLF001


def _chosen(options: argparse.Namespace) -> list[tuple[str, Case]]:
    """What the command line names, in order.  Raises UsageError."""
    if options.json:
        return [pair for text in options.operators for pair in _asked(*text.split(":", 1))]
    stems = [_problem.operator(text) for text in options.operators] or cases.names()
    if options.case and len(options.operators) != 1:
        raise _problem.UsageError("--case: expected one operator before it")
    if options.sass and len(options.operators) != 1:
        raise _problem.UsageError("--sass: expected one operator")
    if options.case:
        return [(stems[0], _problem.find(stems[0], text)) for text in options.case]
    if options.sass:
        return [(stems[0], max(timed(stems[0]), key=work))]
    which = timed if options.all else edges if options.edges else distinct
    return [(stem, case) for stem in stems for case in which(stem)]


def _asked(stem: str, case: str) -> list[tuple[str, Case]]:
    """One argument of :func:`elsewhere`."""
    if case == EDGES:
        return [(stem, one) for one in edges(stem)]
    found = [_problem.find(stem, case)] if case else distinct(stem)
    return [(stem, one) for one in found]


def show(problems: Sequence[tuple[str, Case]]) -> int:
    """Compile and print a table an operator; the number of cases that do not compile."""
    console, failed = _problem.console(), 0
    for stem in dict.fromkeys(stem for stem, _ in problems):
        built = [build(stem, case) for of, case in problems if of == stem]
        console.print(table(stem, built))
        for one in built:
            for name in (kernel.name for kernel in one.kernels if kernel.misled):
                said = f"{one.case}: {name} may reduce under a wrong predicate (codegen.misled)"
                console.print(said, style="red", markup=False, soft_wrap=True)
            if one.error:
                failed += 1
                console.print(f"{one.case}: {one.error}", style="red", markup=False, soft_wrap=True)
    return failed


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.codegen", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help="default: all")
    parser.add_argument("--case", action="append", help="a label, a part of one, or M,N,K")
    parser.add_argument("--all", action="store_true", help="every timed case")
    parser.add_argument("--edges", action="store_true", help="what only untimed cases reach")
    parser.add_argument("--sass", action="store_true", help="print the machine code instead")
    # For :func:`elsewhere`: operators are OPERATOR:CASE, and a line of JSON a case comes back.
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _options(arguments)
    # Before any kernel is defined: an interpreted kernel has no code.
    os.environ.pop("TRITON_INTERPRET", None)
    doctor.require(["torch", "triton", "rich"], "codegen")
    try:
        problems = _chosen(options)
    except _problem.UsageError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        failed = 0
        for stem, case in problems:
            one = build(stem, case)
            failed += bool(one.error)
            print(
                json.dumps([stem, one.case, list(map(asdict, one.kernels)), one.error]), flush=True
            )
        return 1 if failed else 0
    if options.sass:
        for stem, case in problems:
            for name, text in sass(stem, case):
                print(f"// {stem} {case.label}: {name}, sm_90\n{text}")
        return 0
    print(f"{_problem.tree()}; {_problem.machine()}")
    return 1 if show(problems) else 0


if __name__ == "__main__":
    sys.exit(main())

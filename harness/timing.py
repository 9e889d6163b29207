"""``python -m harness.timing OPERATOR [CASE]``: check and time the working tree, and record nothing.

The edit loop: uncommitted changes are included, and it takes less than 20 s.  CASE is a label, a
part of one that fits no other (``layer=kv_a,m=128``), or a problem of its own as whole numbers in
the order of the case's fields (``M,N,K``).  Without CASE a few of the timed cases are taken.

On a Hopper GPU: parity, then device time, throughput and launch overhead, beside the peers that are
installed.  Elsewhere: parity in Triton's interpreter, the reference's time, and what the compiler
makes of the kernels for sm_90.

Exit codes: 0, 1 when our result is wrong or does not come about, 2 when the command line asks for
what there is not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING

from benchmarks import cases, fingerprint
from harness import _problem, doctor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.cases import Case

SAMPLE = 5  # timed cases taken when none is named
SECONDS = 14.0  # after which no further case is begun
# Work interpreted when no case is named: some 4 s (benchmarks.cases.INTERPRETER_BUDGET is 15 s).
STEPS = 1300
CHECKING = 9.0  # seconds after which no further case is interpreted


def selected(stem: str, case: str | None, *, hopper: bool) -> list[Case]:
    """The cases to run.  Raises UsageError where ``case`` fits none, or several."""
    if case is not None:
        return [_problem.find(stem, case)]
    timed = [one for one in cases.load(stem).CASES if one.bench]
    if not hopper:
        return _interpretable(stem, timed)
    last = len(timed) - 1
    places = sorted({round(index * last / (SAMPLE - 1)) for index in range(SAMPLE)})
    return [timed[place] for place in places]


def _interpretable(stem: str, timed: Sequence[Case]) -> list[Case]:
    """Timed ones first, then edges, the smallest first, until they would take too long."""
    able = sorted(
        cases.on_cpu(stem), key=lambda case: (case not in timed, case.interpreter_steps())
    )
    chosen: list[Case] = []
    spent = 0
    for case in able:
        spent += case.interpreter_steps()
        if chosen and spent > STEPS:
            break
        chosen.append(case)
    return chosen


def on_gpu(stem: str, chosen: Sequence[Case]) -> int:
    """Check and time each case; how many of ours are wrong or fail."""
    from harness import _desk

    desk, console, failed, start = _desk.Desk(stem), _problem.console(), 0, time.monotonic()
    rows: list[_desk.Row] = []
    left: list[str] = []
    for case in chosen:
        if rows and time.monotonic() - start > SECONDS:
            left.append(case.label)
            continue
        for row in desk.rows(case):
            rows.append(row)
            if row.problem:
                console.print(
                    f"{case.label} {row.name}: {row.problem}", markup=False, soft_wrap=True
                )
            failed += bool(row.problem) and row.ours
    console.print(_desk.table(stem, rows))
    for label in left:
        console.print(f"{label}: not begun, {SECONDS:.0f} s were over; name it to time it")
    return failed


def on_cpu(stem: str, chosen: Sequence[Case], *, named: bool) -> int:
    """Check each case in the interpreter, and compile; how many are wrong or fail."""
    from harness import _desk, codegen

    child = codegen.elsewhere([(stem, _problem.spelled(stem, chosen[0]) if named else "")])
    console, start = _problem.console(), time.monotonic()
    try:
        checked: list[_desk.Check] = []
        for case in chosen:
            if not checked or time.monotonic() - start < CHECKING:
                checked.append(_desk.interpreted(stem, case, timed=named or case.bench))
        built = codegen.collect(child)
    finally:
        child.kill()
        child.wait()
    console.print(
        _desk.checks(stem, [row for row in checked if row.samples or row.problem or named])
    )
    untimed = sum(not row.samples and not row.problem for row in checked)
    if untimed and not named:
        console.print(f"and {untimed} further cases: equal, or inside their bound")
    console.print(codegen.table(stem, built))
    problems = [(row.case, row.problem) for row in checked] + [
        (one.case, one.error) for one in built
    ]
    for label, problem in problems:
        if problem:
            console.print(f"{label}: {problem}", markup=False, soft_wrap=True)
    return sum(row.wrong for row in checked) + sum(bool(one.error) for one in built)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.timing", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("operator", metavar="OPERATOR", help=f"one of {', '.join(cases.names())}")
    parser.add_argument("case", metavar="CASE", nargs="?", help="label, part of a label, or M,N,K")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _options(arguments)
    hopper = fingerprint.has_hopper()
    # Before any kernel is defined: Triton decides at that moment whether it is interpreted.
    if hopper:
        os.environ.pop("TRITON_INTERPRET", None)
    else:
        os.environ["TRITON_INTERPRET"] = "1"
    doctor.require(["torch", "triton", "numpy", "rich"], "timing")
    print(_problem.tree(), flush=True)
    print(_problem.machine(), flush=True)
    try:
        stem = _problem.operator(options.operator)
        chosen = selected(stem, options.case, hopper=hopper)
        named = options.case is not None
        failed = on_gpu(stem, chosen) if hopper else on_cpu(stem, chosen, named=named)
    except _problem.UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception:  # noqa: BLE001  (a kernel being written fails in any way; its author wants to see where)
        traceback.print_exc()
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m gate selftest``: what the gate's verdicts are worth, on data of which the truth is known.

Two parts.  The history's detector of change points beside asv's and Otava's, on series with a known
step in five kinds of noise.  And the verdict of ``compare``, on processes made by a model, or drawn
from processes that were measured (``--aa LOG``, see ``python -m gate aa``).

Exit code: 0, or 10 when a share of false alarms is clearly above what is promised.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gate import _cost, _curves, _page, _processes, _simulate
from harness._verdict import BROKEN, OK, REGRESSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gate._curves import Curves
    from gate._processes import Result, Source

PAGE, PICTURE = Path("docs/selftest.md"), Path("docs/selftest.svg")


def processes(sources: Sequence[Source], runs: int, quiet: bool) -> list[Result]:
    """Drive the verdict with each source and number of blocks."""
    results = []
    for source in sources:
        for blocks in _processes.BLOCKS:
            _tell(f"{source.name}, {blocks} blocks", quiet)
            made = _processes.measure(source, blocks, 4 * runs, _simulate.PUBLISHED, runs)
            results.append(made)
    return results


def broken_promises(curves: Curves, results: Sequence[Result]) -> list[str]:
    """Where false alarms are clearly more than promised: the whole interval lies above."""
    told = []
    for (row, step), held in curves.items():
        share = held[_curves.OURS]
        if not step and share.interval[0] > _curves.FALSE_ALARMS:
            told.append(f"history, {row.kind}, {row.before}+{row.after}: {share} % false alarms")
    told += [
        f"verdict, {one.source}, {one.blocks} blocks: {one.cases} % of clean cases alarm"
        for one in results
        if one.cases.interval[0] > _processes.FALSE_ALARMS
    ]
    return told


def _tell(said: str, quiet: bool) -> None:
    if not quiet:
        print(said, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m gate selftest", description=__doc__.splitlines()[0]
    )
    made.add_argument("--draws", type=int, default=40, help="series of each row and step")
    made.add_argument("--noise", type=int, default=200, help="series of each row without a step")
    made.add_argument(
        "--runs", type=int, default=50, help="runs of each slowdown; 4 times as many without"
    )
    made.add_argument(
        "--aa", type=Path, help="a raw log of python -m gate aa: draw from its processes"
    )
    made.add_argument("--only", choices=("series", "processes"), help="one part")
    made.add_argument("--write", action="store_true", help=f"write {PAGE} and {PICTURE}")
    made.add_argument("--tune", action="store_true", help="print the detectors' constants, and end")
    made.add_argument("--quiet", action="store_true", help="no progress")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    line = parser()
    options = line.parse_args(arguments)
    if options.write and options.only:
        line.error("--write needs both parts: leave --only out")
    started = time.monotonic()
    if options.tune:
        print(_curves.tune(options.noise, _simulate.ROWS, print))
        return OK
    sources: list[Source] = list(_processes.MODELS)
    if options.aa:
        try:
            measured = _processes.read(options.aa, lambda said: print(said, file=sys.stderr))
        except ValueError as error:
            print(error, file=sys.stderr)
            return BROKEN
        sources.append(measured)
    curves: Curves = {}
    others: Curves = {}
    if options.only != "processes":
        draws, noise = options.draws, options.noise
        tell = functools.partial(_tell, quiet=options.quiet)
        curves = _curves.curves(draws, noise, _simulate.ROWS, _simulate.STEPS, tell)
        others = _curves.others(draws, noise, tell)
    results = processes(sources, options.runs, options.quiet) if options.only != "series" else []
    seconds = time.monotonic() - started
    text = _page.page(curves, others, results, _command(options), seconds)
    if options.aa and results:
        own = [one for one in results if one.source == measured.name]
        clock = _cost.read(options.aa, lambda said: _tell(said, options.quiet))
        text += f"\n{_cost.text(clock, own)}"
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
        _page.picture(curves, results, PICTURE)
    print(text)
    told = broken_promises(curves, results)
    print("\n".join(f"broken promise: {one}" for one in told), file=sys.stderr, end="")
    return REGRESSED if told else OK


def _command(options: argparse.Namespace) -> str:
    parts = ["python -m gate selftest", f"--draws {options.draws}", f"--noise {options.noise}"]
    parts.append(f"--runs {options.runs}")
    parts += [f"--aa {options.aa}"] if options.aa else []
    parts += ["--write"] if options.write else []
    return " ".join(parts)


if __name__ == "__main__":
    sys.exit(main())

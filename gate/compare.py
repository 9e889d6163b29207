"""``python -m gate compare BASE HEAD [OPERATOR [CASE-PART]...]...``: did HEAD make it worse?

Both commits are checked out and measured in turn, a fresh process at a time, on this machine: codegen
for sm_90, exactness, and time (the kernels' on a Hopper GPU, the reference's on a CPU).  Interrupted?
The same command goes on where it stopped; with more --blocks, it adds to what is there.

exit code: 0 ok, 10 regressed, 11 inconclusive, 12 measured nothing.  Every other is broken.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import fingerprint
from gate import log, plan, report, runner, stats, verdict
from harness import _problem, doctor
from harness.bench import BenchError, dirty, limits, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gate.log import Process
    from gate.verdict import Result

# The fewest with which a slowdown of 2 % was found in 95 % of the cases drawn from measured processes
# (docs/selftest.md).
BLOCKS = 8
NEEDED = ("torch", "triton", "numpy", "scipy", "rich")
ALLOWED = 0.2
INTERRUPTED = 130


def percent(text: str) -> float:
    """``2`` or ``2%`` as 0.02."""
    return float(text.removesuffix("%")) / 100


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m gate compare", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    made.add_argument("base", metavar="BASE", help="the commit that was good")
    made.add_argument("head", metavar="HEAD", help="the commit in question")
    made.add_argument("filters", nargs="*", metavar="OPERATOR [CASE-PART]...", help="default: all")
    made.add_argument(
        "--blocks", type=int, default=BLOCKS,
        help=f"of 4 processes each; 0 times nothing; default {BLOCKS}",
    )  # fmt: skip
    made.add_argument(
        "--threshold", type=percent, default=stats.DEFAULT.threshold, metavar="PERCENT",
        help="the change that matters; default 2",
    )  # fmt: skip
    made.add_argument(
        "--allow-inconclusive", type=float, default=ALLOWED, metavar="SHARE",
        help=f"of the times, before the exit code is 11; default {ALLOWED}",
    )  # fmt: skip
    made.add_argument("--log", type=Path, help="default: under .gate/, by commits and machine")
    made.add_argument("--no-measure", action="store_true", help="judge what the log holds already")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the report for an issue")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all verdicts")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    line = parser()
    options = line.parse_intermixed_args(arguments)
    if options.blocks < 0:
        line.error(f"--blocks: expected 0 or more, got {options.blocks}")
    if not 0 <= options.allow_inconclusive <= 1:
        line.error(f"--allow-inconclusive: expected 0 to 1, got {options.allow_inconclusive}")
    try:
        rule = stats.Rule(threshold=options.threshold)
        chosen = plan.select(options.filters)
    except ValueError as error:  # _problem.UsageError is one
        line.error(str(error))
    # Before an hour of measuring, not after it.
    doctor.require(NEEDED, "python -m gate compare")
    try:
        result, about = compare(options, chosen, rule)
    except BenchError as error:
        print(error, file=sys.stderr)
        return verdict.BROKEN
    except KeyboardInterrupt:
        print("interrupted; what was measured is in the log, the same command goes on from there")
        return INTERRUPTED
    report.table(result, about, _problem.console())
    if options.markdown:
        options.markdown.write_text(report.issue(result, about), encoding="utf-8")
    if options.json:
        options.json.write_text(report.data(result, about), encoding="utf-8")
    return result.code


def compare(
    options: argparse.Namespace, chosen: dict[str, list[str]], rule: stats.Rule
) -> tuple[Result, report.About]:
    """Measure what is missing, then judge.  Raises BenchError."""
    root = Path.cwd()
    base, head = resolve(root, [options.base])[0], resolve(root, [options.head])[0]
    path = options.log or runner.log_path(root, base, head)
    wanted = runner.Comparison(root, base, head, chosen, options.blocks, path.absolute())
    if not options.no_measure:
        for said in (dirty(root, [options.base, options.head], [base, head]), limits()):
            if said:
                _tell(said)
        runner.measure(wanted, _tell)
    held = _held(wanted, newest=options.no_measure)
    result = verdict.judge(held, chosen, rule, options.allow_inconclusive)
    machine = _machine(held[-1].facts) if held else "nothing measured"
    blocks = 1 + max((one.turn.block for one in held if one.turn.step == plan.TIME), default=-1)
    return result, report.About(base, head, machine, blocks, str(path))


def _held(wanted: runner.Comparison, *, newest: bool) -> list[Process]:
    """The log's processes of these commits, of this machine, or of that which was measured last."""
    processes = wanted.processes(_tell)
    if not processes:
        return []
    if newest:
        return log.alike(processes, processes[-1].facts, processes[-1].measuring)
    return log.alike(processes, fingerprint.fingerprint(), log.measuring())


def _machine(facts: dict[str, str]) -> str:
    device = facts.get("cpu", "unknown") if facts.get("gpu") in (None, "none") else facts["gpu"]
    return f"{device}, torch {facts.get('torch')}, Triton {facts.get('triton')}"


def _tell(text: str) -> None:
    print(text, flush=True)

"""``python -m harness.sanitize [OPERATOR...]``: compute-sanitizer over a reduced set of cases.

Runs memcheck, racecheck, initcheck and synccheck, each on each operator in a process of its own,
and prints a table of tool by operator: clean, or how many errors and the first of them.  The cases
are small ones, since racecheck slows a kernel a hundredfold, that together launch every kernel
(harness/_sanitized.py); a kernel with several configurations runs all of them, also on two
multiprocessors, so that programs walk many tiles.  Where no kernel was launched nothing is clean.

Each tool looks inside a kernel.  Whether one that starts early waits for the one before is read in its
PTX (tests/test_chain.py).

Operands are drawn on the CPU and copied, so that torch launches no kernel of its own but the few of a
layer's backward: what is reported is ours.

``--out FILE`` keeps the verdicts, as results/MACHINE/sanitize/COMMIT.json: a file that is there already
is added to.  ``--write`` makes docs/exact.md of the files that are there, and needs no GPU.

Exit codes: 0 clean, 1 errors or a run that did not finish, 2 the command line asks for what there
is not, 3 no compute-sanitizer or no Hopper GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import cases, fingerprint
from harness import _cuda_tools, _evidence, _problem, doctor
from harness._sanitized import child

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOOLS = _evidence.TOOLS
ERRORS = 9  # the sanitizer's exit code when it found something
SECONDS = 600  # of one tool on one operator
# Operators at a time: their processes wait for the processor, more than for the GPU they share.
JOBS = min(8, os.cpu_count() or 1)
NOTHING = "no kernel was launched"
SUMMARY = re.compile(r"^=+ (?:ERROR|RACECHECK) SUMMARY: (\d+) ")
# What the child prints at its end.
LAUNCHES = re.compile(r"\b(\d+) launches of kernels in (\d+) cases\b")
# Lines of the sanitizer's that are not findings.
ABOUT = re.compile(r"^=+ *$|^=+ (COMPUTE-SANITIZER|ERROR SUMMARY|RACECHECK SUMMARY|LEAK SUMMARY)")


class Finding(NamedTuple):
    """What one tool says of one operator.

    errors: None when it did not finish, or saw nothing.  first: its line.  launches: of kernels, in so
    many cases.
    """

    tool: str
    operator: str
    errors: int | None
    first: str
    seconds: float = 0.0
    launches: int = 0
    cases: int = 0

    @property
    def clean(self) -> bool:
        return self.errors == 0


def find() -> str | None:
    """Path of compute-sanitizer, or None."""
    return _cuda_tools.find("compute-sanitizer")


def command(stem: str, tool: str | None, sanitizer: str) -> list[str]:
    """The child alone, or under a tool."""
    plain = [sys.executable, "-m", "harness.sanitize", "--child", stem]
    if tool is None:
        return plain
    # application-only: Triton starts ptxas, which is none of the sanitizer's business.
    options = ["--tool", tool, "--error-exitcode", str(ERRORS)]
    return [sanitizer, *options, "--target-processes", "application-only", *plain]


def environment(tool: str | None) -> dict[str, str]:
    """Without torch's cache of memory where a tool follows what was allocated and written."""
    found = _problem.without_interpreter()
    if tool in ("memcheck", "initcheck"):
        found["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    return found


def run(stem: str, tool: str | None, sanitizer: str) -> Finding:
    """One tool on one operator; no tool: whether the child works at all, and into Triton's cache."""
    start, name = time.monotonic(), tool or "none"
    try:
        done = subprocess.run(
            command(stem, tool, sanitizer), cwd=_problem.ROOT, env=environment(tool), text=True,
            errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding(name, stem, None, f"not finished after {SECONDS} s", SECONDS)
    seconds, saw = time.monotonic() - start, launched(done.stdout)
    if tool is None:
        last = (done.stdout.strip().splitlines() or [""])[-1]
        bad = f"exit code {done.returncode} without a tool: {last}" if done.returncode else ""
        bad = bad or (NOTHING if not saw[0] else "")
        return Finding(name, stem, None if bad else 0, bad, seconds, *saw)
    errors, first = verdict(done.stdout, done.returncode)
    return Finding(tool, stem, errors, first, seconds, *saw)


def launched(output: str) -> tuple[int, int]:
    """(launches that the child counted, its cases); 0 where it does not say."""
    found = LAUNCHES.findall(output)
    return (int(found[-1][0]), int(found[-1][1])) if found else (0, 0)


def verdict(output: str, code: int) -> tuple[int | None, str]:
    """(errors, the first one's line) of a tool's output; None errors when it says nothing, when its
    exit code and its count disagree, or when it saw no kernel."""
    lines = output.splitlines()
    counts = [int(match[1]) for match in map(SUMMARY.match, lines) if match]
    findings = [line for line in lines if line.startswith("=====") and not ABOUT.match(line)]
    first = findings[0].lstrip("= ") if findings else ""
    if not counts:
        last = next((line for line in reversed(lines) if line.strip()), "nothing was printed")
        return None, f"no summary, exit code {code}: {first or last}"
    if counts[-1]:
        return counts[-1], first
    if code:
        last = next(
            (line for line in reversed(lines) if line.strip("= \n") and not ABOUT.match(line)), ""
        )
        return None, f"no error counted, yet exit code {code}: {first or last}"
    return (0, "") if launched(output)[0] else (None, NOTHING)


def examine(
    stems: Sequence[str], tools: Sequence[str], sanitizer: str, jobs: int = 1,
    keep: Callable[[Finding], None] = _evidence.forget,
) -> list[Finding]:  # fmt: skip
    """Every tool on every operator, ``jobs`` operators at a time, with a line as each ends.

    keep: called with each finding as it comes, one at a time: what a run cut short found is kept.
    """
    one_at_a_time = threading.Lock()

    def one(stem: str) -> list[Finding]:
        bare = run(stem, None, sanitizer)
        if not bare.clean:
            print(f"{stem}: {bare.first}", flush=True)
        found = []
        for tool in tools:
            found.append(run(stem, tool, sanitizer) if bare.clean else bare._replace(tool=tool))
            if bare.clean:
                print(f"{stem} {tool}: {said(found[-1])} ({found[-1].seconds:.0f} s)", flush=True)
            with one_at_a_time:
                keep(found[-1])
        return found

    with ThreadPoolExecutor(jobs) as pool:
        return [finding for found in pool.map(one, stems) for finding in found]


def said(one: Finding) -> str:
    """The finding in a few words."""
    if one.clean:
        return "clean"
    came = "did not finish" if one.errors is None else f"{one.errors} errors"
    return f"{came}: {one.first}"


def show(found: Sequence[Finding], tools: Sequence[str]) -> None:
    """Tool by operator."""
    from rich.markup import escape
    from rich.table import Table

    drawn = Table("operator", *tools)
    for stem in dict.fromkeys(one.operator for one in found):
        cells = [
            next(one for one in found if (one.operator, one.tool) == (stem, tool)) for tool in tools
        ]
        drawn.add_row(
            stem, *("clean" if one.clean else f"[red]{escape(said(one))}[/red]" for one in cells)
        )
    _problem.console().print(drawn)


def known(tools: Sequence[str]) -> Sequence[str]:
    """``tools``, all of them compute-sanitizer's.  Raises UsageError."""
    unknown = sorted(set(tools) - set(TOOLS))
    if unknown:
        raise _problem.UsageError(
            f"--tools: expected some of {', '.join(TOOLS)}, got {', '.join(unknown)}"
        )
    return tools


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.sanitize", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help="default: all")
    parser.add_argument(
        "--tools", default=",".join(TOOLS), help=f"comma-separated; default {','.join(TOOLS)}"
    )
    parser.add_argument(
        "-j", "--jobs", type=int, default=JOBS, help=f"operators at a time; default {JOBS}"
    )
    _evidence.options(parser)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _options(arguments)
    if options.child:
        child(options.child)
        return 0
    if options.write:
        _evidence.write()
        return 0
    try:
        stems = [_problem.operator(text) for text in options.operators] or cases.names()
        tools = known(options.tools.split(","))
        keep = _evidence.keeper(options, ("operator", "tool"))
    except _problem.UsageError as error:
        print(error, file=sys.stderr)
        return 2
    sanitizer = find()
    if not fingerprint.has_hopper():
        print(
            "sanitize needs a Hopper GPU to run the kernels on. Nothing was checked.",
            file=sys.stderr,
        )
        return 3
    if sanitizer is None:
        print(
            "compute-sanitizer is neither on the path nor under CUDA_HOME; it comes with the CUDA toolkit.",
            file=sys.stderr,
        )
        return 3
    doctor.require(["torch", "triton", "rich"], "sanitize")
    print(f"{_problem.tree()}; {_problem.machine()}; {Path(sanitizer)}", flush=True)
    found = examine(
        stems, tools, sanitizer, max(1, options.jobs), lambda one: keep(_evidence.sanitize_row(one))
    )
    show(found, tools)
    return 0 if all(one.clean for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())

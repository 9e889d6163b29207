"""``python -m harness.bottleneck OPERATOR[:CASE]...``: what Nsight Compute says holds a kernel back.

Runs the operator once under ncu, cold and at the clocks as they are, and prints a line for each kernel
it launches: time, how busy memory, L2 and issue slots were, how many warps a
multiprocessor held, and for what they waited most.  CASE is what ``harness.timing`` takes; without it
the largest timed case.

``--out FILE`` keeps the numbers, as results/MACHINE/ncu/COMMIT.json; ``--write`` makes
docs/bottlenecks.md of the files that are there, and needs no GPU.

ncu runs a kernel once for each group of counters and empties the caches before: its times are not
the sweep's.  Exit codes: 0; 1 something did not run; 2 the command line asks for what there is not;
3 no ncu or no Hopper GPU.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases, fingerprint
from harness import _cuda_tools, _kept, _problem, codegen, doctor

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS = 300
STALLS = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
# Reasons of ncu for which a warp does not issue, and what they mean here.
REASONS = {
    "long_scoreboard": "global memory",
    "short_scoreboard": "shared memory or special functions",
    "wait": "the instruction before",
    "barrier": "a barrier",
    "gmma": "wgmma",
    "math_pipe_throttle": "a busy arithmetic pipe",
    "mio_throttle": "a full queue of shared memory",
    "lg_throttle": "a full queue of global memory",
    "not_selected": "another warp's turn",
    "no_instruction": "instruction fetch",
    "branch_resolve": "a branch",
    "membar": "a memory fence",
    "dispatch_stall": "dispatch",
    "drain": "stores at the end",
    "imc_miss": "constants",
    "sleeping": "nanosleep",
    "tex_throttle": "a full queue of textures",
    "misc": "something else",
}
METRICS = {
    "us": "gpu__time_duration.sum",
    "memory": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "l2": "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "issue": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "warps": "sm__warps_active.avg.per_cycle_active",
    "instructions": "smsp__inst_executed.sum",
    "registers": "launch__registers_per_thread",
    "programs": "launch__grid_size",
}
WARPS = 64  # that a multiprocessor holds at most
SCALE = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}


def largest(stem: str) -> str:
    """Label of the timed case with most work."""
    return str(max(codegen.timed(stem), key=codegen.work).label)


def child(stem: str, label: str) -> None:
    """One call of the operator between profiler start and stop, everything compiled before."""
    import torch

    arguments = _problem.find(stem, label).inputs("cuda")
    function = cases.public("kernels", stem)
    cases.call(function, arguments)
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    cases.call(function, arguments)
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def find() -> str | None:
    """Path of ncu, or None."""
    return _cuda_tools.find("ncu")


def command(ncu: str, stem: str, label: str) -> list[str]:
    """ncu over the child."""
    metrics = [*METRICS.values(), *(STALLS.format(reason) for reason in REASONS)]
    return [
        ncu, "--csv", "--page", "raw", "--profile-from-start", "off", "--clock-control", "none",
        "--target-processes", "application-only", "--metrics", ",".join(metrics),
        sys.executable, "-m", "harness.bottleneck", "--child", stem, label,
    ]  # fmt: skip


def read(text: str) -> list[dict[str, Any]]:
    """A row for each kernel in what ncu printed, which begins with lines of its own.

    Returns name, the keys of METRICS that were measured, and stalls: cycles a warp waited for each
    reason, for each instruction issued.  Raises ValueError where there is no table.
    """
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        said = next((line for line in reversed(lines) if line.strip()), "nothing was printed")
        raise ValueError(f"no table in ncu's output: {said}")
    table = list(csv.DictReader(io.StringIO("\n".join(lines[start:]))))
    units, rows = table[0], table[1:]
    return [_row(row, units) for row in rows if row.get("Kernel Name")]


def _row(row: dict[str, str], units: dict[str, str]) -> dict[str, Any]:
    def number(metric: str) -> float | None:
        try:
            return float(row[metric].replace(",", ""))
        except (KeyError, ValueError):
            return None

    found: dict[str, Any] = {"kernel": row["Kernel Name"].split("(")[0].split("<")[0]}
    for name, metric in METRICS.items():
        value = number(metric)
        if value is not None:
            found[name] = value
    if "us" in found:
        found["us"] *= SCALE[units[METRICS["us"]]]
    stalls = {reason: number(STALLS.format(reason)) for reason in REASONS}
    found["stalls"] = {reason: value for reason, value in stalls.items() if value is not None}
    return found


def measure(ncu: str, stem: str, label: str) -> list[dict[str, Any]]:
    """Rows of one operator's case.  Raises ValueError when it did not run."""
    done = subprocess.run(
        command(ncu, stem, label), cwd=_problem.ROOT, env=_problem.without_interpreter(), text=True,
        errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        timeout=SECONDS,
    )  # fmt: skip
    rows = read(done.stdout)
    if done.returncode or not rows:
        raise ValueError(f"exit code {done.returncode}, {len(rows)} kernels")
    return [{"operator": stem, "case": label, **row} for row in rows]


def waits(row: dict[str, Any], count: int = 2) -> str:
    """For what its warps waited most, and what share of their time that was."""
    stalls = row["stalls"]
    total = sum(stalls.values()) + 1.0  # and the one that issues
    longest = sorted(stalls, key=lambda reason: -stalls[reason])[:count]
    return ", ".join(
        f"{REASONS[reason]} {100 * stalls[reason] / total:.0f} %" for reason in longest
    )


HEADINGS = (
    "operator",
    "case",
    "kernel",
    "us",
    "memory",
    "L2",
    "issue",
    "warps",
    "waits for",
)


def line(row: dict[str, Any]) -> list[str]:
    """The cells of a row."""

    def share(name: str) -> str:
        return f"{row[name]:.0f} %" if name in row else "-"

    return [
        row["operator"], row["case"], row["kernel"], f"{row['us']:.1f}" if "us" in row else "-",
        *map(share, ("memory", "l2", "issue")),
        f"{row['warps']:.0f} of {WARPS}" if "warps" in row else "-", waits(row),
    ]  # fmt: skip


PAGE = _kept.Page(
    "docs/bottlenecks.md", "ncu", """
# What holds the kernels back

Of Nsight Compute (`python -m harness.bottleneck`): one call of an operator, caches empty, clocks
as they are. us: its time, with the overhead of counting. memory, L2, issue: how busy device memory,
the L2 and the issue slots were, of what they can at most. warps: held by a multiprocessor on
average. waits for: shares of a warp's time, the two largest reasons. Generated; do not edit.
""", HEADINGS, 3, line,
)  # fmt: skip


def show(rows: Sequence[dict[str, Any]]) -> None:
    """On the terminal."""
    from rich.table import Table

    drawn = Table(*HEADINGS)
    for row in rows:
        drawn.add_row(*line(row))
    _problem.console().print(drawn)


def examine(ncu: str, chosen: Sequence[tuple[str, str]]) -> tuple[list[dict[str, Any]], int]:
    """(rows, how many did not run)."""
    rows: list[dict[str, Any]] = []
    failed = 0
    for stem, label in chosen:
        try:
            rows += measure(ncu, stem, label)
        except (ValueError, subprocess.TimeoutExpired) as error:
            failed += 1
            print(f"{stem} {label}: {error}", file=sys.stderr, flush=True)
    return rows, failed


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.bottleneck", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("operators", nargs="*", metavar="OPERATOR[:CASE]", help="default: all")
    parser.add_argument("--commit", help="40 digits of the commit that this tree is; default: HEAD")
    parser.add_argument("--out", type=Path, help="keep the numbers in this file, JSON")
    parser.add_argument(
        "--write", action="store_true", help=f"only write {PAGE.path} from results/"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _options(arguments)
    if options.child:
        child(*options.child)
        return 0
    if options.write:
        PAGE.write()
        return 0
    try:
        chosen = []
        for text in options.operators or cases.names():
            stem, _, part = text.partition(":")
            _problem.operator(stem)
            label = _problem.spelled(stem, _problem.find(stem, part)) if part else largest(stem)
            chosen.append((stem, label))
        commit = _problem.commit(options.commit) if options.out else None
    except _problem.UsageError as error:
        print(error, file=sys.stderr)
        return 2
    ncu = find()
    if not fingerprint.has_hopper() or ncu is None:
        missing = "ncu, which comes with the CUDA toolkit" if ncu is None else "a Hopper GPU"
        print(f"bottleneck needs {missing}. Nothing was measured.", file=sys.stderr)
        return 3
    doctor.require(["torch", "triton", "rich"], "bottleneck")
    rows, failed = examine(ncu, chosen)
    show(rows)
    if commit is not None:
        _kept.keep(options.out, commit, rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m harness.upgrade``: what another Triton makes of the same kernels, for sm_90, without a GPU.

``collect --out FILE [OPERATOR...]`` runs in an environment with one Triton: it compiles the timed cases
of the working tree and writes what came out.  ``compare FILE FILE...`` runs anywhere: it ranks what
differs from the oldest Triton to each newer one, what no longer compiles and spills first, with device
times where ``results/`` holds them.  ``nox -s upgrade`` does both for the Tritons that must work.

Exit codes: 0; 1 when a newer Triton does not compile what the oldest does, or spills more; 2 when the
command line asks for what there is not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness import _logs, _upgrade, _upgrade_text, doctor

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[1]
# What decides the machine code of a case.
COMPILED = ("kernels", "benchmarks")


def state(root: Path) -> tuple[str, list[str]]:
    """(commit, uncommitted files of what is compiled) of the working tree."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _upgrade.UpgradeError(f"git {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    changed = git("status", "--porcelain", "--untracked-files=all", "--", *COMPILED).splitlines()
    return git("rev-parse", "HEAD").strip(), sorted(line[3:] for line in changed)


def collect(out: Path, operators: Sequence[str]) -> int:
    """Compile the timed cases and write the file; the number of those that do not compile."""
    # Before any kernel is defined: an interpreted kernel has no code.
    os.environ.pop("TRITON_INTERPRET", None)
    doctor.require(["torch", "triton"], "collecting codegen")
    import torch
    import triton

    from benchmarks import cases
    from harness import _problem, codegen

    out.unlink(missing_ok=True)  # a failure must not leave an older file in its place
    stems = [_problem.operator(text) for text in operators] or cases.names()
    commit, changed = state(ROOT)
    built: list[codegen.Built] = []
    for stem in stems:
        built += [codegen.build(stem, case) for case in codegen.timed(stem)]
        print(f"Triton {triton.__version__}: {stem}", file=sys.stderr, flush=True)
    held = {
        "schema": _upgrade.SCHEMA, "commit": commit, "changed": changed,
        "torch": torch.__version__.split("+")[0], "triton": triton.__version__.split("+")[0],
        "python": "{}.{}".format(*sys.version_info[:2]),
        "cases": [
            [one.operator, one.case, [asdict(kernel) for kernel in one.kernels], one.error]
            for one in built
        ],
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    failed = [one for one in built if one.error]
    for one in failed:
        print(f"{one.operator} {one.case}: {one.error}", file=sys.stderr)
    return len(failed)


def compare(options: argparse.Namespace) -> int:
    """Rank, write and print; 1 when something got worse that a compiler must not make worse."""
    files = _upgrade.together([_upgrade.read(path) for path in options.files])
    logs = _logs.load(options.results, lambda text: print(text, file=sys.stderr))
    found = [(file, _upgrade.compare(files[0], file, logs)) for file in files[1:]]
    text = _upgrade_text.markdown(files[0], found, options.top)
    if options.json:
        options.json.write_text(_upgrade_text.as_json(files[0], found), encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(text, end="")
    worse = [
        change
        for _, changes in found
        for change in changes
        if (change.now.error and not change.before.error)
        or change.now.spills > change.before.spills
    ]
    return 1 if worse else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.upgrade", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("collect", help="compile under the Triton of this environment")
    one.add_argument("operators", nargs="*", metavar="OPERATOR", help="default: all")
    one.add_argument("--out", type=Path, required=True, help="the file to write")
    two = commands.add_parser("compare", help="rank what differs between collected files")
    two.add_argument("files", nargs="+", type=Path, metavar="FILE")
    two.add_argument("--results", type=Path, default=ROOT / "results", help="where raw logs are")
    two.add_argument("--top", type=int, default=8, help="rows of a table (default: 8)")
    two.add_argument("--markdown", type=Path, help="write the tables there as well")
    two.add_argument("--json", type=Path, help="write every change there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _options(arguments)
    try:
        if options.command == "compare":
            return compare(options)
        # What does not compile is in the file, for the comparison to judge.
        collect(options.out, options.operators)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

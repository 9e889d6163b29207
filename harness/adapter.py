"""``python -m harness.adapter FILE.py...``: are these kernels right, by the contract of their operator?

A FILE holds ``NAME``, ``OPERATOR`` (one of ours), a function of the operator's name and signature, and,
if it cannot take every case, ``supports(case)``: True, or the reason as text.  ``EXACT = True`` declares
that it computes in the reference's order: then every bit must be the reference's.  Otherwise its results
must be inside the bound derived for other orders, where the operator has one.  An installed package
offers the same as an entry point of the group ``fp8_bench.kernels``; then its name is given.  ``ours``
and the names of peers (``cublaslt``, ...) are columns beside it.

On a Hopper GPU every case of the operator is put to each, elsewhere those that a CPU can take (Triton's
kernels are interpreted).  Each is called on fresh memory that holds a pattern, then on other numbers at
the same addresses, and compared with the reference, in a process of its own with a time limit.

``--time`` then times them on a Hopper GPU, beside ours and the peers that are installed, a round of each
in turn.

Exit codes: 0 when all that are there are right on every case that they support, and have a time where
one was wanted; 1 otherwise; 2 when nothing was judged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases, fingerprint, peers, tasks
from harness import _adapter, _backends, _probes, doctor

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS = 60.0
NO_CLOCK = (
    "--time: no device time without a Hopper GPU: what a CPU takes to interpret a kernel is not the "
    "kernel's time. `nox -s time -- {}` has the reference's on this CPU."
)


def judged(
    given: Sequence[str], operator: str | None, part: str | None, seconds: float
) -> list[_probes.Column]:
    """A column for each name, in their order.  An adapter's OPERATOR is that of ours and the peers.

    Raises AdapterError where no name is one of a backend.  Of several, what is none is absent.
    """
    found: dict[str, _probes.Column] = {}
    for name in sorted(dict.fromkeys(given), key=_backends.shipped):
        try:
            found[name] = _probes.probe(name, operator, part, seconds)
        except _backends.AdapterError as error:
            if len(given) == 1:
                raise
            found[name] = _probes.Column(name, Path(name).stem, "", absent=str(error), broken=True)
        operator = operator or found[name].operator or None
    columns = [found[name] for name in dict.fromkeys(given)]
    _tell_apart(columns)
    return columns


def _tell_apart(columns: Sequence[_probes.Column]) -> None:
    """Of two columns of one name, or one named as ours and the peers are, the file says more."""
    titles = [column.name for column in columns]
    ours = {_backends.OURS, tasks.OURS, *peers.names()}
    for column in columns:
        if not _backends.shipped(column.given) and (
            column.name in ours or titles.count(column.name) > 1
        ):
            column.name = f"{column.name} ({column.given})"


def times(
    columns: Sequence[_probes.Column], operator: str, part: str | None, seconds: float
) -> list[dict[str, Any]]:
    """Times of these, of ours and of the peers that are installed.  What is wrong has none."""
    here = {column.given: column.name for column in columns if not column.absent}
    named = {column.given for column in columns}
    more = [name for name in (_backends.OURS, *peers.here(operator)) if name not in named]
    # Ours is first in each case.
    given = sorted([*here, *more], key=lambda name: name != _backends.OURS)
    known: dict[str, dict[str, str]] = {}
    for column in columns:
        for row in column.rows:
            if row.status != _adapter.RIGHT:
                known.setdefault(row.case, {})[column.timed_as] = row.status
    job = {
        "backends": [(name, here.get(name, name)) for name in given], "operator": operator,
        "part": part, "known": known,
    }  # fmt: skip
    return _probes.clocked(job, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _options(arguments)
    doctor.require(["torch", "triton", "numpy", "rich"], "an adapter's check")
    from harness._adapter_report import Result

    part, seconds = options.case, options.seconds
    try:
        columns = judged(options.adapters, options.operator, part, seconds)
        operator = next((one.operator for one in columns if one.operator), "")
        clock = options.time and operator and fingerprint.has_hopper()
        rows = times(columns, operator, part, seconds) if clock else []
    except _backends.AdapterError as error:
        print(error, file=sys.stderr)
        return 2
    note = NO_CLOCK.format(operator) if options.time and not fingerprint.has_hopper() else ""
    result = Result(operator, columns, rows, note)
    result.show()
    for path, text in ((options.markdown, result.markdown), (options.json, result.json)):
        if path:
            path.write_text(text(), encoding="utf-8")
    return _exit_code(columns, rows, part)


def _exit_code(
    columns: Sequence[_probes.Column], times: Sequence[dict[str, Any]], part: str | None
) -> int:
    """See the module's docstring; a line on each backend is printed."""
    timeless = {(time["name"], time["case"]) for time in times if time["problem"]}
    good, judged = True, False
    for column in columns:
        if column.absent:
            good = good and not column.broken
            continue
        if not column.rows:
            print(f"no case of {column.operator} has {part!r} in its label", file=sys.stderr)
            continue
        statuses = [row.status for row in column.rows]
        right, left = statuses.count(_adapter.RIGHT), statuses.count(_adapter.UNSUPPORTED)
        bad = len(statuses) - right - left
        print(f"{column.name}: {right} right, {bad} not, {left} not supported")
        untimed = any(
            row.status == _adapter.RIGHT and (column.timed_as, row.case) in timeless
            for row in column.rows
        )
        good, judged = good and right > 0 and not (bad or untimed), True
    if not judged:
        return 2
    return 0 if good else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.adapter", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "adapters", metavar="FILE", nargs="+",
        help=f"a Python file, an entry point's name, ours, or a peer: {', '.join(peers.names())}",
    )  # fmt: skip
    parser.add_argument(
        "--operator", choices=cases.names(), metavar="OPERATOR", help="where no FILE says it"
    )
    parser.add_argument("--case", help="only cases whose label has this")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for a case (default: 60)")
    parser.add_argument("--time", action="store_true", help="device times, on a Hopper GPU")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all verdicts and times")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

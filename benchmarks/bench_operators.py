"""What asv records: thin track functions over the raw log, one class an operator.

asv runs :func:`setup_cache` once for each commit.  It measures what the commit's raw log lacks
(:mod:`benchmarks.sweep`) and returns every value of the log; each track function then picks its own
value out, in a process that imports neither torch nor Triton.

Two traps of asv shape this file.  It identifies a ``setup_cache`` by its source line, so there is
exactly one, at module level: several made by one factory would share a cache in silence.  And it
takes any function called ``time_*``, ``track_*``, ``mem_*`` or ``peakmem_*`` for a benchmark, so no
helper under ``benchmarks/`` may begin with one of these.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases, metrics, peers, rawlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Bumped when a recorded number changes its meaning; asv hides values of another version.
VERSION = "1"
# The sweep of one commit on a GPU takes minutes; a hang ends here, not by asv's silence timer.
SWEEP_TIMEOUT_S = 4 * 3600.0
VALUE_TIMEOUT_S = 60.0
RECORDED = metrics.COSTS + metrics.THROUGHPUTS
# Statuses of the raw log that asv shows as a failure; any other absence is n/a.
BROKEN = ("failed", "died")
# What a failure is recorded under, one a phase, where nothing of its implementation was measured.
UNKNOWN_METRICS = {"differing_elements", "registers"}

Key = tuple[str, str, str, str]


class MeasurementError(RuntimeError):
    """There is no number to record, and why."""


def setup_cache() -> dict[Key, dict[str, Any]]:
    """Every value of this commit, machine and environment, by its key.

    Environment: FP8_BENCH_COMMIT, FP8_BENCH_CHECKOUT and FP8_BENCH_RESULTS, from asv's environment
    ``checkout``.  With FP8_BENCH_FACTS set nothing is measured: the log of that machine is read.
    """
    commit = _variable("FP8_BENCH_COMMIT")
    results = Path(_variable("FP8_BENCH_RESULTS"))
    replayed = os.environ.get("FP8_BENCH_FACTS")
    if replayed:
        facts = json.loads(replayed)
        name = rawlog.file_name(commit, *(facts[key] for key in ("python", "torch", "triton")))
        path = results / facts["machine"] / "raw" / name
    else:
        from benchmarks import sweep

        path = sweep.sweep(Path(_variable("FP8_BENCH_CHECKOUT")), commit, results)
    rows = [row for row in rawlog.read(path, print) if _is_of(row, commit)]
    return tabulate(rawlog.collect(rows), rawlog.statuses(rows), commit)


setup_cache.timeout = SWEEP_TIMEOUT_S  # type: ignore[attr-defined]


def _is_of(row: dict[str, Any], commit: str) -> bool:
    if row["commit"][:12] == commit[:12]:
        return True
    print(f"a row of commit {row['commit'][:12]} in the log of {commit[:12]}: left out")
    return False


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise MeasurementError(f"{name} is not set: run asv with environment_type checkout")
    return value


def tabulate(
    measured: Mapping[rawlog.Key, rawlog.Measured],
    statuses: Mapping[tuple[str, str, str, str], tuple[str, str]],
    commit: str,
) -> dict[Key, dict[str, Any]]:
    """Plain entries for asv, out of :func:`benchmarks.rawlog.collect` and ``statuses``.

    An entry holds its own ``key`` and ``commit``, and ``samples`` or the ``reason`` of a failure.
    A wrong answer discredits every number of its phase; a death leaves those that were finished.
    """
    table: dict[Key, dict[str, Any]] = {}
    usual: dict[str, set[str]] = {}
    for key, found in measured.items():
        if key.metric in RECORDED:
            usual.setdefault(key.implementation, set()).add(key.metric)
            table[(*key,)] = {"key": (*key,), "commit": commit, "samples": list(found.samples)}
    for (operator, case, implementation, phase), (status, reason) in statuses.items():
        if status not in BROKEN:
            continue
        # Failed are the metrics that this implementation has elsewhere in this log, so that a
        # kernel which fails on a machine without a GPU does not fail in device time as well.
        for metric in usual.get(implementation, UNKNOWN_METRICS):
            wanted = (operator, case, implementation, metric)
            if metrics.phase(metric) == phase and (status == "failed" or wanted not in table):
                text = f"{phase} {status}: {reason}"
                table[wanted] = {"key": wanted, "commit": commit, "reason": text}
    return table


def value(table: dict[Key, dict[str, Any]], key: Key) -> dict[str, Any] | float:
    """What asv stores for ``key``: samples, or NaN (n/a) where this commit has no such value.

    Raises MeasurementError for a failed measurement, and for an entry that is another key's or
    another commit's: a number under a wrong name is worse than none.
    """
    entry = table.get(key)
    if entry is None:
        return math.nan
    if tuple(entry["key"]) != key:
        raise MeasurementError(f"asked for {key}, was given the entry of {entry['key']}")
    commit = os.environ.get("FP8_BENCH_COMMIT")
    if commit is not None and entry["commit"] != commit:
        raise MeasurementError(f"asked for commit {commit}, was given one of {entry['commit']}")
    if "reason" in entry:
        raise MeasurementError(f"{' '.join(key[:3])} {entry['reason']}")
    if not all(math.isfinite(sample) for sample in entry["samples"]):
        raise MeasurementError(f"{' '.join(key)}: not a finite number: {entry['samples']}")
    # asv takes any benchmark's return of this shape for samples: median, interval and quartiles.
    return {"samples": entry["samples"], "number": 1}


def _tracker(operator: str, metric: str) -> Callable[..., Any]:
    """What asv calls for one metric of one operator; cases x implementations are its parameters."""

    def track(
        self: object,  # noqa: ARG001 (asv makes it a method)
        table: dict[Key, dict[str, Any]],
        case: str,
        implementation: str,
    ) -> Any:
        # asv prints a failure's traceback; the reason alone is what its reader needs.
        sys.tracebacklimit = 0
        return value(table, (operator, case, implementation, metric))

    known = metrics.METRICS[metric]
    timed = [case.label for case in cases.load(operator).CASES if case.bench]
    track.__name__ = track.__qualname__ = f"track_{metric}"
    track.__doc__ = known.meaning
    attributes = {
        "params": (timed, _implementations(operator, metric)),
        "param_names": ("case", "implementation"),
        "unit": known.unit or "unit",
        "version": VERSION,
        "timeout": VALUE_TIMEOUT_S,
        "less_is_better": known.better != "more",
        "pretty_name": f"{operator} {metric}",
        # Shown in the pages in place of this factory's source.
        "pretty_source": f"{operator}, {metric}: {known.meaning}",
    }
    for name, attribute in attributes.items():
        setattr(track, name, attribute)
    return track


def _implementations(operator: str, metric: str) -> list[str]:
    """Whose value of ``metric`` a sweep can measure: asv lists every combination it is told of."""
    if metric == "cpu_us":
        return ["reference"]
    if metrics.phase(metric) == "codegen":
        return ["kernels"]
    return ["kernels", *peers.names(operator)]


def _setup(self: Any, table: dict[Key, dict[str, Any]], case: str, implementation: str) -> None:
    if not any((self.operator, case, implementation, metric) in table for metric in RECORDED):
        raise NotImplementedError(f"{self.operator} {case} {implementation}: not at this commit")


_setup.pretty_source = ""  # type: ignore[attr-defined]
setup_cache.pretty_source = ""  # type: ignore[attr-defined]


def _suite(operator: str) -> type:
    """asv's class of one operator: a function for each metric."""
    contents: dict[str, Any] = {
        "__doc__": f"Costs and throughput of {operator}.",
        "__module__": __name__,
        "operator": operator,
        "setup": _setup,
    }
    contents.update({f"track_{metric}": _tracker(operator, metric) for metric in RECORDED})
    return type(operator, (), contents)


globals().update({operator: _suite(operator) for operator in cases.names()})

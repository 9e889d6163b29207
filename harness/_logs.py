"""Raw logs as the reports see them: one :class:`Log` a file, machine's facts beside numbers."""

from __future__ import annotations

import datetime
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks import metrics, rawlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

# Not an operator: the ceilings of the machine, a copy and a plain matrix product.
MACHINE = "machine"
UNKNOWN = "unknown"
# The implementation that is ours, and the operators of README's tables.
OURS = "kernels"
GEMM = ("fp8_gemm",)
QUANTISERS = ("act_quant", "weight_quant", "weight_dequant")
GROUPED = ("grouped_gemm_contiguous", "grouped_gemm_masked", "grouped_gemm_wgrad")
LAYERS = ("moe_layer", "moe_layer_backward", "moe_layer_decode")
# README shows one machine: this one where it has been measured, else any that has.
PREFERRED = "H200"
# What rawlog.file_name makes; the commit in front is what every row inside must carry.
NAME = re.compile(r"(?P<commit>[0-9a-f]{7,12})-py[^-]+-torch[^-]+-triton[^-]+\.jsonl")

# The tokens that a case's label says.
TOKENS = re.compile(r"(?:^|,)t=([1-9][0-9]*)(?:,|$)")


@dataclass(frozen=True)
class Log:
    """One raw log: a commit in one environment of one machine.

    facts: the fingerprint of its newest process row.  commit: 12 hex digits.  date: the commit's,
    in UTC.  times: when its processes started, UTC, oldest first; empty if no process row survived.
    """

    path: Path
    machine: str
    facts: dict[str, str]
    commit: str
    date: str
    times: tuple[str, ...]
    measured: dict[rawlog.Key, rawlog.Measured]
    statuses: dict[tuple[str, str, str, str], tuple[str, str]]

    @property
    def age(self) -> tuple[str, str, str]:
        """Sorts logs from the oldest commit to the newest, then by when they were measured."""
        return self.date, self.times[-1] if self.times else "", self.path.name

    def fact(self, name: str) -> str:
        """One fact of the machine, or ``unknown``."""
        return str(self.facts.get(name, UNKNOWN))

    def get(
        self, operator: str, case: str, implementation: str, metric: str
    ) -> rawlog.Measured | None:
        """What was measured of this key, or None."""
        return self.measured.get(rawlog.Key(operator, case, implementation, metric))


def load(results: Path, warn: Callable[[str], None]) -> list[Log]:
    """All logs under ``results``, by path.  What cannot be used is named to ``warn``."""
    logs = []
    for path in rawlog.logs(results):
        log = _load(path, warn)
        if log is not None:
            logs.append(log)
    return logs


def _load(path: Path, warn: Callable[[str], None]) -> Log | None:
    name = NAME.fullmatch(path.name)
    if name is None:
        warn(f"{path}: skipped: not named like a raw log")
        return None
    problems: list[str] = []
    rows = [
        row
        for row in rawlog.read(path, problems.append)
        if _usable(row, name["commit"], path, problems)
    ]
    if not rows:
        first = f", the first because: {problems[0]}" if problems else ""
        warn(f"{path}: skipped: none of its lines can be used{first}")
        return None
    for problem in problems:
        warn(problem)
    processes = sorted(
        (row for row in rows if row["kind"] == "process"), key=lambda row: row["time"]
    )
    if not processes:
        warn(f"{path}: no process row: what machine it is from stays unknown")
    newest = processes[-1] if processes else {"machine": {}, "date": UNKNOWN}
    return Log(
        path=path,
        machine=path.parent.parent.name,
        facts=newest["machine"] if isinstance(newest["machine"], dict) else {},
        commit=name["commit"],
        date=utc(newest["date"]),
        times=tuple(utc(row["time"]) for row in processes),
        measured=with_tokens(rawlog.collect(rows)),
        statuses=rawlog.statuses(rows),
    )


def with_tokens(
    measured: dict[rawlog.Key, rawlog.Measured],
) -> dict[rawlog.Key, rawlog.Measured]:
    """With the tokens a second of every layer that has a device time, which no raw log holds."""
    found = dict(measured)
    for key, times in measured.items():
        tokens = TOKENS.search(key.case)
        if key.operator in LAYERS and key.metric == "device_us" and tokens:
            rates = tuple(int(tokens[1]) / us * 1e6 for us in times.samples)
            named = key._replace(metric="tokens_per_s")
            unit = metrics.METRICS[named.metric].unit
            found[named] = replace(times, key=named, unit=unit, samples=rates)
    return found


def _usable(row: dict[str, Any], commit: str, path: Path, problems: list[str]) -> bool:
    """Whether a well-formed row belongs into this file; says why not in ``problems``."""
    if not str(row["commit"]).startswith(commit):
        problems.append(f"{path}: skipped: a row of commit {row['commit']}")
        return False
    if (
        row["kind"] == "sample"
        and row["operator"] != MACHINE
        and row["metric"] not in metrics.METRICS
    ):
        problems.append(f"{path}: skipped: a row of the unknown metric {row['metric']!r}")
        return False
    return True


def newest(logs: Iterable[Log], operators: Sequence[str], metric: str = "device_us") -> Log | None:
    """The log of the newest commit with our ``metric`` of one of ``operators``.

    From an H200 where there is one; of several environments of that commit, the last measured.  A
    commit whose kernels failed on a Hopper GPU counts: an older one's numbers must not hide that.
    """
    held = [log for log in logs if _holds(log, operators, metric) or _lost(log, operators)]
    preferred = [log for log in held if PREFERRED in log.fact("gpu")]
    return max(preferred or held, key=lambda log: log.age, default=None)


def _holds(log: Log, operators: Sequence[str], metric: str) -> bool:
    return any(
        key.operator in operators and (key.implementation, key.metric) == (OURS, metric)
        for key in log.measured
    )


def _lost(log: Log, operators: Sequence[str]) -> bool:
    return log.fact("capability") == "9.0" and any(lost(log, operators))


def lost(log: Log, operators: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(operator, case) that our kernels were run on and failed, or died of."""
    for (operator, case, implementation, phase), (status, _) in log.statuses.items():
        ours = operator in operators and (implementation, phase) == (OURS, "run")
        if ours and status in ("failed", "died"):
            yield operator, case


def utc(date: Any) -> str:
    """An ISO 8601 date as ``2026-08-22T10:00:00Z``, so that dates sort as text."""
    try:
        moment = datetime.datetime.fromisoformat(str(date))
    except ValueError:
        return str(date)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def quantile(samples: Sequence[float], fraction: float) -> float:
    """Linear interpolation between order statistics; NaN if any sample is.

    Not numpy's: that one gives NaN for an infinite error measured twice, which is infinite.
    """
    if any(math.isnan(value) for value in samples):
        return math.nan
    ordered = sorted(samples)
    position = fraction * (len(ordered) - 1)
    low, high = ordered[math.floor(position)], ordered[math.ceil(position)]
    return low if low == high else low + (high - low) * (position - math.floor(position))

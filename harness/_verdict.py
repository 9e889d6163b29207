"""The nightly screen: what one commit costs beside a baseline commit, from their raw logs.

A cost regressed when three things hold: its median grew by more than the metric's threshold, the
boxes between the quartiles do not overlap, and the program is another one (equal machine code
launched alike is the same program, and a difference of its time is noise).  That is a simple rule:
both commits were measured once, in a process each, so what differs between processes passes for a
change.  It is a screen: it chooses what the gate measures again (harness/_confirm.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases, metrics
from benchmarks.rawlog import Key
from harness._logs import OURS, quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.rawlog import Measured
    from harness._logs import Log

OK, BROKEN, REGRESSED, INCONCLUSIVE, NOTHING = 0, 1, 10, 11, 12
WORDS = {
    OK: "ok", BROKEN: "broken", REGRESSED: "regressed", INCONCLUSIVE: "inconclusive",
    NOTHING: "measured nothing",
}  # fmt: skip
# Growth of the median that counts, by metric.  What is not here decides nothing by itself: registers
# or spills are no loss unless they cost time, and a compilation's time says little about a kernel.
THRESHOLDS = {
    "device_us": 0.03,
    "launch_us": 0.10,
    "peak_bytes": 0.0,
    "differing_elements": 0.0,
    "max_error": 0.01,
    "rms_error": 0.01,
}
# Facts that must be equal before two logs may be compared.
SAME = (
    "gpu", "driver", "sm_clock_max_mhz", "memory_clock_max_mhz", "power_limit_w", "cpu", "python",
    "torch", "triton",
)  # fmt: skip
OUR_SIDES = (OURS, "reference")


class Change(NamedTuple):
    """A cost that changed: before and now are (first quartile, median, third quartile)."""

    key: Key
    unit: str
    before: tuple[float, float, float]
    now: tuple[float, float, float]


@dataclass
class Verdict:
    """``code`` and ``word`` say what came out; the lists, why.

    compared: costs that both commits have.  throttled: of them, those left out because the GPU
    throttled.  same_program: changes that are noise, because the machine code did not change.
    dropped: what the commit no longer has, said by itself (n/a).
    """

    machine: str
    commit: str
    baseline: str | None
    nothing: str = ""
    compared: int = 0
    throttled: int = 0
    same_program: int = 0
    regressed: list[Change] = field(default_factory=list)
    improved: list[Change] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        """The exit code.  What is broken comes first: it may hide anything else."""
        if self.broken:
            return BROKEN
        if self.nothing:
            return NOTHING
        return REGRESSED if self.regressed else OK

    @property
    def word(self) -> str:
        """The exit code in words."""
        return WORDS[self.code]


def judge(logs: Sequence[Log], machine: str, baseline: str | None, commit: str) -> Verdict:
    """Compare ``commit`` with ``baseline`` (full hashes) on one machine.

    Without a baseline there is nothing to compare: a commit that was measured and is whole is ok.
    """
    verdict = Verdict(machine, commit, baseline)
    now = _newest(logs, machine, commit)
    if now is None:
        verdict.nothing = f"no raw log of {commit[:12]}"
        return verdict
    verdict.broken += _failures(now)
    ours = [key for key in now.measured if key.implementation in OUR_SIDES]
    if not ours:
        verdict.nothing = "no value of our implementations"
    if baseline is None or verdict.nothing:
        return verdict
    before = _newest(logs, machine, baseline, like=now)
    if before is None:
        verdict.nothing = f"no raw log of the baseline {baseline[:12]} from this environment"
        return verdict
    verdict.broken += _lost(before, now)
    verdict.dropped += _dropped(before, now)
    _compare(verdict, before, now)
    if not verdict.compared:
        verdict.nothing = "no cost that both commits have"
    return verdict


def _newest(logs: Sequence[Log], machine: str, commit: str, like: Log | None = None) -> Log | None:
    """The last measured log of a commit; with ``like``, from the same environment as that one."""
    held = [
        log
        for log in logs
        if (log.machine, log.commit) == (machine, commit[:12])
        and (like is None or all(log.fact(name) == like.fact(name) for name in SAME))
    ]
    return max(held, key=lambda log: log.age, default=None)


def _failures(log: Log) -> list[str]:
    """What broke of our side, a line each."""
    return [
        f"{operator} {case} {implementation}, {phase}: {status}: {reason}"
        for (operator, case, implementation, phase), (status, reason) in sorted(
            log.statuses.items()
        )
        if implementation in OUR_SIDES and status in ("failed", "died")
    ]


def _absent(before: Log, now: Log) -> Iterator[tuple[tuple[str, str, str, str], str]]:
    """(operator, case, implementation, phase) without a number that the baseline had, and why."""
    had = {(*key[:3], metrics.phase(key.metric)) for key in before.measured}
    has = {(*key[:3], metrics.phase(key.metric)) for key in now.measured}
    for which in sorted(had - has):
        if which[2] in OUR_SIDES and known(*which[:2]):
            yield which, now.statuses.get(which, ("", ""))[0]


def known(operator: str, case: str) -> bool:
    """Whether today's table times this case: the others are not measured any more, on purpose."""
    if operator not in cases.names():
        return False
    return any(known.label == case and known.bench for known in cases.load(operator).CASES)


def _lost(before: Log, now: Log) -> list[str]:
    """What the sweep did not come to: a line each."""
    lost = [which for which, status in _absent(before, now) if not status]
    return [f"{' '.join(which[:3])}, {which[3]}: not measured" for which in lost]


def _dropped(before: Log, now: Log) -> list[str]:
    return [" ".join(which[:3]) for which, status in _absent(before, now) if status == "n/a"]


def _compare(verdict: Verdict, before: Log, now: Log) -> None:
    """Fill in the counts and the changes."""
    for key in sorted(set(before.measured) & set(now.measured)):
        threshold = THRESHOLDS.get(key.metric)
        if key.implementation != OURS or threshold is None:
            continue
        verdict.compared += 1
        old, new = before.measured[key], now.measured[key]
        if old.throttled or new.throttled:
            verdict.throttled += 1
            continue
        changes = [(verdict.regressed, grew(old, new, threshold))]
        changes.append((verdict.improved, grew(new, old, threshold)))
        for found, changed in changes:
            if changed and key.metric == "device_us" and same_program(before, now, key):
                verdict.same_program += 1
            elif changed:
                found.append(Change(key, new.unit, _box(old), _box(new)))


def _box(measured: Measured) -> tuple[float, float, float]:
    low, middle, high = (quantile(measured.samples, part) for part in (0.25, 0.5, 0.75))
    return low, middle, high


def grew(old: Measured, new: Measured, threshold: float) -> bool:
    """Whether ``new`` costs more than ``old``.  An error that became NaN has grown."""
    (_, old_median, old_high), (new_low, new_median, _) = _box(old), _box(new)
    if math.isnan(new_median) or math.isnan(old_median):
        return math.isnan(new_median) and not math.isnan(old_median)
    return new_median > old_median * (1 + threshold) and new_low > old_high


def same_program(before: Log, now: Log, key: Key) -> bool:
    """Whether both commits launch the same machine code in the same way for this case."""
    return equal(program(before, key), program(now, key))


def equal(old: list[list[Any]] | None, new: list[list[Any]] | None) -> bool:
    """Whether two programs, as :func:`program` gives them, are known and the same."""
    if old is None or new is None or len(old) != len(new):
        return False
    # A row of an older schema does not know what was launched with what.
    compared = -1 if any(not kernel[-1] for kernel in (*old, *new)) else None
    return [kernel[:compared] for kernel in old] == [kernel[:compared] for kernel in new]


def program(log: Log, key: Key) -> list[list[Any]] | None:
    """Hash and launch parameters of each kernel of a call, or None where they are not known."""
    compiled = log.measured.get(Key(key.operator, key.case, key.implementation, "registers"))
    kernels = compiled.detail.get("kernels") if compiled else None
    if not kernels or not all("sass_code" in kernel for kernel in kernels):
        return None
    wanted = ("sass_code", "grid", "warps", "shared", "launch")
    return [[kernel.get(name) for name in wanted] for kernel in kernels]

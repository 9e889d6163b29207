"""Detectors of change points on series of which the truth is known."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from gate import _rivals, _simulate, _tuned, changepoints
from gate._shares import Share
from harness._markdown import percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy

    from gate._simulate import Row

# One setting for every kind of noise: no row has more than 1 % false alarms, but for the two usual ones.
OURS, ASV, OTAVA = "history", "asv, every step", "Otava, strict"
USUAL_ASV, USUAL_OTAVA = "asv, 5 %", "Otava, p 0.001"
# A setting for each row, as if its noise were known.
OURS_TOLD, OTAVA_TOLD = "history, told", "Otava, told"
DETECTORS = (OURS, ASV, OTAVA, USUAL_ASV, USUAL_OTAVA, OURS_TOLD, OTAVA_TOLD)
# Ours, and the rivals of which it is asked that they find no more: with one setting, and told.
DUELS = ((OURS, ASV), (OURS, OTAVA))
DUELS_TOLD = ((OURS_TOLD, OTAVA_TOLD),)
# A step is found when an alarm is as near as this to it.
NEAR = 2
FALSE_ALARMS = 0.01

# Row and step (0: no step, false alarms) -> detector -> share.
Curves = dict[tuple["Row", float], dict[str, Share]]


def curves(
    draws: int, quiet: int, rows: Sequence[Row], steps: Sequence[float], tell: Callable[[str], None]
) -> Curves:
    """Shares of series with an alarm.  draws: series of each row and step.  quiet: of each row without."""
    found: Curves = {}
    for row in rows:
        tell(f"{row.kind}, {row.before}+{row.after}")
        for step in (0.0, *steps):
            of = draws if step else quiet
            hits = dict.fromkeys(DETECTORS, 0)
            for draw in range(of):
                places = alarms(_simulate.series(_simulate.PUBLISHED, row, step, draw), row)
                for name in DETECTORS:
                    hits[name] += alarmed(places[name], row, step)
            found[row, step] = {name: Share(count, of) for name, count in hits.items()}
    return found


def alarms(costs: numpy.ndarray, row: Row) -> dict[str, list[int]]:
    """Where each detector sees a step upward."""
    ours = changepoints.Long(_logs(costs))
    memory: dict[Any, Any] = {}
    gain, strength = _tuned.SETTINGS[row]

    def history(threshold: float) -> list[int]:
        return [step.place for step in ours.find(threshold) if step.after > step.before]

    return {
        OURS: history(changepoints.THRESHOLD),
        ASV: _rivals.asv(costs, 0.0, memory),
        OTAVA: _rivals.otava(costs, _rivals.OTAVA_STRICT_P, memory),
        USUAL_ASV: _rivals.asv(costs, _rivals.ASV_THRESHOLD, memory),
        USUAL_OTAVA: _rivals.otava(costs, _rivals.OTAVA_P, memory),
        OURS_TOLD: history(gain),
        OTAVA_TOLD: _rivals.otava(costs, 10**-strength, memory),
    }


def alarmed(places: Sequence[int], row: Row, step: float) -> bool:
    """Whether one of the alarms is the step's; without a step, whether there is any."""
    return any(not step or abs(place - row.before) <= NEAR for place in places)


def pooled(found: Curves, kind: str, step: float, name: str) -> Share:
    """Share over all rows of one kind of noise."""
    parts = [held[name] for (row, at), held in found.items() if (row.kind, at) == (kind, step)]
    return functools.reduce(lambda one, other: one + other, parts, Share(0, 0))


def beaten(
    found: Curves, steps: Sequence[float], duels: Sequence[tuple[str, str]]
) -> tuple[int, list[str]]:
    """How often a rival finds more than ours, of all rows and steps; and a sentence for each time that
    it clearly does, their intervals being apart."""
    more, told = 0, []
    for row in dict.fromkeys(row for row, _ in found):
        for step in steps:
            for mine, other in duels:
                ours, theirs = found[row, step][mine], found[row, step][other]
                more += theirs.value > ours.value
                if theirs.interval[0] > ours.interval[1]:
                    told.append(
                        f"{row.kind}, {row.before}+{row.after}, a step of {percent(step)}: `{other}` "
                        f"finds {theirs} %, `{mine}` {ours} %"
                    )
    return more, told


def tune(quiet: int, rows: Sequence[Row], tell: Callable[[str], None]) -> dict[str, float]:
    """The constants with which no row has more than FALSE_ALARMS, from seeds of their own.

    Returns our threshold, -log10 of Otava's p, and the largest share of asv's rows without any
    threshold: asv has no looser setting.
    """
    worst = {"history": -math.inf, "Otava, -log10 p": -math.inf, "asv's false alarms": 0.0}
    for row in rows:
        made = [_simulate.series(_simulate.TUNING, row, 0.0, draw) for draw in range(quiet)]
        ours = _upper([changepoints.rise(_logs(costs)) for costs in made])
        otava = _upper([_rivals.otava_strength(costs) for costs in made])
        asv = sum(bool(_rivals.asv(costs, 0.0)) for costs in made) / quiet
        tell(
            f"{row.kind}, {row.before}+{row.after}: history {ours:.2f}, Otava {otava:.1f}, asv {asv:.1%}"
        )
        for name, value in zip(worst, (ours, otava, asv), strict=True):
            worst[name] = max(worst[name], value)
    return worst


def _logs(costs: numpy.ndarray) -> numpy.ndarray:
    import numpy

    logs: numpy.ndarray = numpy.log(costs)
    return logs


def _upper(values: Sequence[float]) -> float:
    """What FALSE_ALARMS of the values are above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil((1 - FALSE_ALARMS) * len(ordered)) - 1)]

"""Detectors of change points on series of which the truth is known."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from gate import _likelihood, _rivals, _simulate, _tuned, changepoints
from gate._shares import Share
from gate._simulate import Row
from harness._markdown import percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy

    from gate._likelihood import Model

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
Curves = dict[tuple[Row, float], dict[str, Share]]


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
                for name, at in places.items():
                    hits[name] += alarmed(at, row, step)
            found[row, step] = {name: Share(hits[name], of) for name in places}
    return found


def others(draws: int, quiet: int, tell: Callable[[str], None]) -> Curves:
    """The rows beside those of the large tables: noise of other sizes, and kinds not tuned on."""
    found = curves(draws, quiet, _simulate.OTHER_ROWS, (), tell)
    for sd, steps in _simulate.SIZES.items():
        rows = [Row(_simulate.INDEPENDENT, *layout, sd) for layout in _simulate.LAYOUTS]
        found |= curves(draws, quiet, [row for row in rows if sd != _simulate.SD], steps, tell)
    return found


def alarms(costs: numpy.ndarray, row: Row) -> dict[str, list[int]]:
    """Where each detector sees a step upward; without those that are told, if nobody can tell them."""
    import numpy

    memory: dict[Any, Any] = {}

    def history(threshold: float, model: Model) -> list[int]:
        steps = changepoints.Long(numpy.log(costs), model).find(threshold)
        return [step.place for step in steps if step.after > step.before]

    found = {
        OURS: history(changepoints.THRESHOLD, _likelihood.ANY),
        ASV: _rivals.asv(costs, 0.0, memory),
        OTAVA: _rivals.otava(costs, _rivals.OTAVA_STRICT_P, memory),
        USUAL_ASV: _rivals.asv(costs, _rivals.ASV_THRESHOLD, memory),
        USUAL_OTAVA: _rivals.otava(costs, _rivals.OTAVA_P, memory),
    }
    plain = row._replace(
        sd=_simulate.SD
    )  # what they are told does not depend on the size of the noise
    if plain in _tuned.SETTINGS:
        gain, strength = _tuned.SETTINGS[plain]
        found[OURS_TOLD] = history(gain, _tuned.MODELS[row.kind])
        found[OTAVA_TOLD] = _rivals.otava(costs, 10**-strength, memory)
    return found


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


def judged(held: dict[str, Share], duels: Sequence[tuple[str, str]]) -> str:
    """Ours against the rival that finds most: better, equal or worse, and equal if intervals meet."""
    ours = held[duels[0][0]].interval
    theirs = max((held[other] for _, other in duels), key=lambda share: share.value).interval
    return "better" if ours[0] > theirs[1] else "**worse**" if theirs[0] > ours[1] else "equal"


def tune(quiet: int, rows: Sequence[Row], tell: Callable[[str], None]) -> dict[str, float]:
    """The constants with which no row has more than FALSE_ALARMS, from seeds of their own.

    Returns our threshold, -log10 of Otava's p, and the largest share of asv's rows without any
    threshold: asv has no looser setting.  Tells the settings of every row (gate/_tuned.py).
    """
    import numpy

    worst = {"history": -math.inf, "Otava, -log10 p": -math.inf, "asv's false alarms": 0.0}
    for row in rows:
        made = [_simulate.series(_simulate.TUNING, row, 0.0, draw) for draw in range(quiet)]
        logs = [numpy.log(costs) for costs in made]
        ours = _upper([changepoints.rise(one) for one in logs])
        told = _upper([changepoints.rise(one, _tuned.MODELS[row.kind]) for one in logs])
        otava = _upper([_rivals.otava_strength(costs) for costs in made])
        asv = sum(bool(_rivals.asv(costs, 0.0)) for costs in made) / quiet
        tell(
            f'Row("{row.kind}", {row.before}, {row.after}): ({told:.2f}, {otava:.1f}),  '
            f"# history {ours:.2f}, asv {asv:.1%}"
        )
        for name, value in zip(worst, (ours, otava, asv), strict=True):
            worst[name] = max(worst[name], value)
    return worst


def _upper(values: Sequence[float]) -> float:
    """What FALSE_ALARMS of the values are above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil((1 - FALSE_ALARMS) * len(ordered)) - 1)]

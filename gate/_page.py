"""The self-test's page and picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from benchmarks.fingerprint import cpu_name
from gate import _curves, _processes, _simulate
from harness._markdown import markdown, percent
from harness._plots import FAINT, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gate._curves import Curves
    from gate._processes import Result
    from gate._shares import Share
    from gate._simulate import Row

SHOWN_STEPS = (0.02, 0.03, 0.05, 0.10)
STYLES = {
    _curves.OURS: ("#0072B2", "o"), _curves.ASV: ("#E69F00", "s"), _curves.OTAVA: ("#009E73", "^"),
}  # fmt: skip
BLOCKS_SHOWN = 8  # what compare runs by default
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#222222")
INTRODUCTION = """# What the verdicts are worth

Generated, in {seconds:.0f} s on {machine}, by

    {command}

Shares are per cent, with their 95 % interval (Wilson).
[Decision 0008](decisions/0008-history-and-selftest.md) says why it is done so.

![Detection of steps and slowdowns](selftest.svg)
"""
SERIES = """## The history: steps in a series

Series of {points} points (before and after the step), with noise of {sd} in each, of
five kinds: independent; AR(0.5) and AR(0.8), in which neighbours resemble each other; a drift of
{drift:.0f} standard deviations from end to end beside independent noise; outliers, {share} of the points
slower by a normal number of {outliers:.0f} standard deviations. A step is found when an upward alarm lies
within {near} points of it; any upward alarm in a series without a step is false.

Published series have seeds that begin with {published}; every constant was tuned on seeds that begin
with {tuning}, by `python -m gate selftest --tune --noise 800`. Of the detector
before this one, seeds that begin with 2027 were published; they had been seen, so others are used.

Detectors: `history` is ours. `asv, 5 %` and `Otava, p 0.001` are the usual settings of asv 0.6.6
(`asv.step_detect`) and of Otava, whose method is written here from its papers (gate/_rivals.py).
`asv, every step` has no threshold, which is its loosest setting. `Otava, strict` has the largest p (to
a power of ten) with which no row of the tuning has more than 1 % false alarms; `history` is held to the
same, with a threshold that is rounded up to a tenth.
"""
ONE_SETTING = """### One setting for every kind of noise

All five lengths together; `worst` is the row with the most false alarms.
"""
TOLD = """### Each row's noise known beforehand

As above, but with a setting for each row, tuned so that this row has 1 % false alarms. `history` is
told the kind of noise, too: its resemblance, that it drifts or that it has outliers (gate/_tuned.py).
Nobody has this knowledge of a real series; it shows what is lost by not having it. asv is not here,
since it has no looser setting than the one above.
"""
SIZES = """### Independent noise of other sizes

{rows} rows with which asv's and Otava's detectors were looked at before there was this one: independent
noise of 1, 2 and 4 %, steps of five times as much, of ten times as much, and of 3 %. First with one
setting for every kind of noise (no row of the table above has more than 1 % false alarms in the tuning),
then told that the noise is independent. `history` is better or worse than the best of the others where
the intervals are apart.
"""
OTHERS = """### Noise that nothing was tuned on

False alarms of the same settings, in series without a step: longer ones; and of other kinds, a random
walk, a bend of {bend:.0f} standard deviations beside independent noise, and outliers, as above, amid AR(0.8).
"""
VERDICT = """## `compare`: slowdowns between two commits

{cases} cases, judged together; in runs with a slowdown, {slowed} of them are slower at head. The models
are of one number a process and case: {samples} samples with 0.5 % noise inside, and between processes what
the name says, half of it common to all cases of a process. A block is four processes.
"""


def page(
    curves: Curves, others: Curves, results: Sequence[Result], command: str, seconds: float
) -> str:
    """The whole text.  others: of the rows beside those of the large tables."""
    machine = f"a CPU ({cpu_name()}, {os.cpu_count()} cores)"
    parts = [INTRODUCTION.format(command=command, seconds=seconds, machine=machine)]
    if curves:
        parts += _series(curves)
        sizes = _sizes(curves | others)
        parts += [SIZES.format(rows=len(sizes)), _judged(curves | others, sizes)]
        parts += [OTHERS.format(bend=_simulate.BEND_SDS), _others(others)]
    if results:
        cases, slowed = _processes.CASES, _processes.SLOWED
        parts.append(VERDICT.format(cases=cases, slowed=slowed, samples=_processes.SAMPLES))
        parts.append(_verdicts(results))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _series(curves: Curves) -> list[str]:
    points = ", ".join(f"{before}+{after}" for before, after in _simulate.LAYOUTS)
    parts = [
        SERIES.format(
            points=points, sd=percent(_simulate.SD), drift=_simulate.DRIFT_SDS,
            share=percent(_simulate.OUTLIER_SHARE), outliers=_simulate.OUTLIER_SDS, near=_curves.NEAR,
            published=_simulate.PUBLISHED, tuning=_simulate.TUNING,
        ),
        ONE_SETTING,
    ]  # fmt: skip
    names = (_curves.OURS, _curves.ASV, _curves.OTAVA, _curves.USUAL_ASV, _curves.USUAL_OTAVA)
    parts.append(_by_kind(curves, names))
    parts.append(
        "The same by row, for the three that are held to as many false alarms: "
        + " / ".join(f"`{name}`" for name in STYLES)
    )
    parts += [_by_row(curves, tuple(STYLES)), _beaten(curves, _curves.DUELS)]
    parts += [TOLD, _by_kind(curves, (_curves.OURS_TOLD, _curves.OTAVA_TOLD))]
    parts.append(
        "By row: `history, told` / `Otava, told`\n\n"
        + _by_row(curves, (_curves.OURS_TOLD, _curves.OTAVA_TOLD))
    )
    parts.append(_beaten(curves, _curves.DUELS_TOLD))
    return parts


def _beaten(curves: Curves, duels: Sequence[tuple[str, str]]) -> str:
    """Where a rival finds more."""
    more, told = _curves.beaten(curves, _simulate.STEPS, duels)
    compared = sum(bool(step) for _, step in curves) * len(duels)
    said = (
        f"Of {compared} comparisons with a rival (one a row and step), the rival found more in {more}, "
        f"and clearly more (intervals apart) in {len(told)}"
    )
    return said + (":\n\n" + "\n".join(f"- {one}" for one in told) if told else ".")


def _by_kind(curves: Curves, names: Sequence[str]) -> str:
    header = ["noise", "detector", "false alarms", "worst"]
    header += [percent(step) for step in _simulate.STEPS]
    rows = []
    for kind in _simulate.KINDS:
        for name in names:
            quiet = [h[name] for (row, step), h in curves.items() if row.kind == kind and not step]
            worst = max(quiet, key=lambda share: share.value)
            found = [_curves.pooled(curves, kind, step, name) for step in (0.0, *_simulate.STEPS)]
            rows.append([kind, name, str(found[0]), str(worst), *map(str, found[1:])])
    return markdown(header, rows, left=2)


def _by_row(curves: Curves, names: Sequence[str]) -> str:
    header = ["noise", "points", "false alarms", *(percent(step) for step in SHOWN_STEPS)]
    rows = []
    for row in dict.fromkeys(row for row, _ in curves):
        cells = [
            " / ".join(f"{100 * curves[row, step][name].value:.0f}" for name in names)
            for step in (0.0, *SHOWN_STEPS)
        ]
        rows.append([row.kind, f"{row.before}+{row.after}", *cells])
    return markdown(header, rows, left=2)


def _sizes(curves: Curves) -> list[tuple[Row, float]]:
    """Rows and steps of the table of sizes, by the size of the noise and the step."""
    return [
        (row, step)
        for sd, steps in _simulate.SIZES.items()
        for step in steps
        for row, at in curves
        if row.kind == _simulate.INDEPENDENT and (row.sd, at) == (sd, step)
    ]


def _judged(curves: Curves, sizes: Sequence[tuple[Row, float]]) -> str:
    names = (_curves.OURS, _curves.ASV, _curves.USUAL_ASV, _curves.OTAVA)
    told = (_curves.OURS_TOLD, _curves.OTAVA_TOLD)
    header = ["noise", "step", "points", *names, "`history` is", *told, "`history, told` is"]
    rows = []
    for row, step in sizes:
        held = curves[row, step]
        cells = [percent(row.sd), percent(step), f"{row.before}+{row.after}"]
        cells += [str(held[name]) for name in names]
        cells += [_curves.judged(held, _curves.DUELS), *(str(held[name]) for name in told)]
        rows.append([*cells, _curves.judged(held, _curves.DUELS_TOLD)])
    return markdown(header, rows, left=3)


def _others(curves: Curves) -> str:
    names = (_curves.OURS, _curves.ASV, _curves.OTAVA, _curves.USUAL_ASV, _curves.USUAL_OTAVA)
    rows = [
        [row.kind, str(row.before + row.after), *(str(curves[row, 0.0][name]) for name in names)]
        for row in _simulate.OTHER_ROWS
    ]
    return markdown(["noise", "points", *names], rows, left=1)


def _verdicts(results: Sequence[Result]) -> str:
    header = ["processes", "blocks", "false alarms, cases", "false alarms, runs", "left open"]
    header += [percent(slowdown) for slowdown in _processes.SLOWDOWNS]
    rows = [
        [
            one.source, str(one.blocks), str(one.cases), str(one.runs), str(one.opened),
            *(str(one.found[slowdown]) for slowdown in _processes.SLOWDOWNS),
        ]
        for one in results
    ]  # fmt: skip
    return markdown(header, rows, left=1)


def picture(curves: Curves, results: Sequence[Result], path: Path) -> None:
    """Detection over the size of the step: a panel a kind of noise, and one of ``compare``."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    with mpl.rc_context(SETTINGS | {"svg.hashsalt": "selftest"}):
        figure, axes = pyplot.subplots(2, 3, figsize=(10, 6), sharey=True, layout="constrained")
        flat = list(axes.flat)
        for axis, kind in zip(flat, _simulate.KINDS, strict=False):
            for name, (colour, marker) in STYLES.items():
                shares = [_curves.pooled(curves, kind, step, name) for step in _simulate.STEPS]
                quiet = _curves.pooled(curves, kind, 0.0, name)
                label = f"{name} ({100 * quiet.value:.1f} % false)"
                _line(axis, _simulate.STEPS, shares, colour, marker, label)
            axis.set_title(f"history: {kind}", fontsize=9)
        shown = [one for one in results if one.blocks == BLOCKS_SHOWN]
        for one, colour in zip(shown, COLOURS, strict=False):
            shares = [one.found[slowdown] for slowdown in _processes.SLOWDOWNS]
            _line(flat[5], _processes.SLOWDOWNS, shares, colour, "o", one.source)
        flat[5].set_title(f"compare: {BLOCKS_SHOWN} blocks", fontsize=9)
        for axis in flat:
            axis.legend(fontsize=6.5, frameon=False, loc="lower right")
            axis.set_xscale("log")
            axis.set_xticks(list(_simulate.STEPS), [f"{100 * s:.0f}" for s in _simulate.STEPS])
            axis.minorticks_off()
            axis.grid(color=FAINT, alpha=0.2, linewidth=0.5)
        for axis in flat[3:]:
            axis.set_xlabel("true slowdown, %")
        for axis in (flat[0], flat[3]):
            axis.set_ylabel("found, % (95 % interval)")
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _line(
    axis: Any, steps: Sequence[float], shares: Sequence[Share], colour: str, marker: str, label: str
) -> None:
    values = [100 * share.value for share in shares]
    low = [value - 100 * share.interval[0] for value, share in zip(values, shares, strict=True)]
    high = [100 * share.interval[1] - value for value, share in zip(values, shares, strict=True)]
    bars = [[max(0.0, one) for one in side] for side in (low, high)]
    axis.errorbar(
        steps, values, yerr=bars, color=colour, marker=marker, markersize=3.5, linewidth=1.1,
        elinewidth=0.7, capsize=1.5, label=label,
    )  # fmt: skip

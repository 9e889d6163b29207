"""The picture of README.md: what the kernels reach, under what this machine was measured to allow.

Two panels, because the two kinds of operator have different limits.  A quantiser does no work on
the tensor cores, so it has no place on the axis of operations per byte; its limit is a plain copy
of as many bytes, which is a curve over the number of bytes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases
from benchmarks.roofline import DATASHEET
from benchmarks.tasks import CEILINGS
from harness._logs import GEMM, MACHINE, OURS, QUANTISERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness._logs import Log

# Okabe and Ito's colours, told apart with every common colour blindness; the shapes differ as well.
STYLES = (
    ("#0072B2", "o"),
    ("#E69F00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#D55E00", "v"),
    ("#56B4E9", "P"),
)
INK, FAINT = "#222222", "#767676"
SETTINGS: dict[Any, Any] = {
    # Text stays text: searchable, small, and the same bytes whatever fonts are installed.
    "svg.fonttype": "none",
    "svg.hashsalt": "roofline",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
COPY = re.compile(r"copy,bytes=(\d+)")


class Point(NamedTuple):
    """x: operations per byte, or bytes moved.  y: TFLOP/s, or GB/s."""

    x: float
    y: float


class Ceilings(NamedTuple):
    """What the machine was measured to allow: copies (bytes, GB/s), TFLOP/s by precision."""

    copies: list[Point]
    tflops: dict[str, float]

    @property
    def gbps(self) -> float:
        """The best copy, or 0 when none was measured."""
        return max((point.y for point in self.copies), default=0.0)


def ceilings(log: Log) -> Ceilings:
    """The ceilings in this log; either part may be empty."""
    copies, tflops = [], {}
    for key, measured in log.measured.items():
        size = COPY.fullmatch(key.case)
        if key.operator != MACHINE:
            continue
        if key.metric == "gbps" and size:
            copies.append(Point(int(size[1]), measured.median))
        elif key.metric == "tflops" and key.case != CEILINGS:  # that one says the step is complete
            tflops[key.case.split()[0]] = measured.median
    return Ceilings(sorted(copies), tflops)


def gemm_points(log: Log, implementation: str) -> dict[int, list[Point]]:
    """FP8 GEMM cases by M, at operations per byte and TFLOP/s, without those no longer a case."""
    found: dict[int, list[Point]] = {}
    for key in sorted(log.measured):
        if key.operator not in GEMM or (key.implementation, key.metric) != (
            implementation,
            "tflops",
        ):
            continue
        case = _case(key.operator, key.case)
        m = getattr(case, "m", 0)
        cost = case.cost() if case is not None else None
        if cost is not None and cost.flops and cost.bytes:
            found.setdefault(m, []).append(Point(cost.flops / cost.bytes, log.measured[key].median))
    return dict(sorted(found.items()))


def copy_points(log: Log, operator: str) -> list[Point]:
    """Cases of a memory-bound operator, at bytes moved and GB/s."""
    points = []
    for key in sorted(log.measured):
        if (key.operator, key.implementation, key.metric) == (operator, OURS, "gbps"):
            case = _case(key.operator, key.case)
            if case is not None and case.cost().bytes:
                points.append(Point(case.cost().bytes, log.measured[key].median))
    return points


def _case(operator: str, label: str) -> Any:
    try:
        return cases.find(operator, label)
    except ValueError:
        return None


def roofline(log: Log, path: Path) -> str:
    """Draw both panels to ``path`` (SVG, or what its suffix says); says what was drawn."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(10, 4.4), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, subplot_kw={"xscale": "log", "yscale": "log"})
        limits = ceilings(log)
        drawn = _gemm_panel(left, log, limits) + _copy_panel(right, log, limits)
        figure.suptitle(f"{log.fact('gpu')}, commit {log.commit}", color=INK, fontsize=10)
        # No date, and nothing of the library's version: the same log gives the same bytes.
        metadata = (
            {"Date": None, "Creator": None, "Title": "Roofline"} if path.suffix == ".svg" else {}
        )
        figure.savefig(path, metadata=metadata)
    return f"{drawn} points of commit {log.commit} on {log.machine}"


def _gemm_panel(axes: Any, log: Log, limits: Ceilings) -> int:
    ours, theirs = gemm_points(log, OURS), gemm_points(log, "cublaslt")
    drawn = 0
    for (m, points), (colour, marker) in zip(ours.items(), STYLES * len(ours), strict=False):
        axes.scatter(*_axes(points), s=30, color=colour, marker=marker, label=f"M = {m}", zorder=3)
        drawn += len(points)
        if m in theirs:
            axes.scatter(
                *_axes(theirs[m]), s=30, facecolors="none", edgecolors=colour, marker=marker,
                linewidths=0.9, zorder=2,
            )  # fmt: skip
            drawn += len(theirs[m])
    _roofs(
        axes, [point for points in (*ours.values(), *theirs.values()) for point in points], limits
    )
    _datasheet(axes, log.fact("gpu"))
    if theirs:
        axes.scatter([], [], s=30, facecolors="none", edgecolors=FAINT, label="cuBLASLt (hollow)")
    _finish(axes, "FP8 GEMM", "operations per byte of operands and result", "TFLOP/s")
    return drawn


def _roofs(axes: Any, points: Sequence[Point], limits: Ceilings) -> None:
    """The slope that the best copy gives, and a level for each precision that was measured."""
    xs = [point.x for point in points] or [1.0, 1000.0]
    low, high = min(xs) / 2, max(xs) * 2
    slope = limits.gbps / 1000
    for precision, level in sorted(limits.tflops.items()):
        ridge = level / slope if slope else low
        style = (
            {"color": INK, "linewidth": 1.3}
            if precision == "fp8"
            else {"color": FAINT, "linestyle": "--"}
        )
        start = min(max(low, ridge), high)
        axes.plot([start, high], [level, level], **style, zorder=1)
        _label(axes, f"{precision}, measured: {level:.0f}", start, level, "center")
    if slope:
        top = max(limits.tflops.values(), default=max((point.y for point in points), default=1.0))
        end = min(top / slope, high)
        axes.plot([low, end], [low * slope, end * slope], color=INK, linewidth=1.3, zorder=1)
        middle = (low * end * end) ** (1 / 3)
        _label(axes, f"copy, measured: {slope:.2f} TB/s", middle, middle * slope, "bottom")


def _label(axes: Any, text: str, x: float, y: float, vertical: str) -> None:
    """Words to the left of a point of the roof: no measurement can lie there."""
    axes.annotate(
        text, (x, y), ha="right", va=vertical, xytext=(-4, 0), textcoords="offset points",
        color=INK, fontsize=8,
    )  # fmt: skip


def _datasheet(axes: Any, gpu: str) -> None:
    """The datasheet's FP8 rate, for the parts that are known: beside what was measured."""
    for part, (tflops, _) in DATASHEET.items():
        if part in gpu:
            axes.set_ylim(top=tflops * 1.6)
            axes.axhline(tflops, color=FAINT, linewidth=0.8, linestyle=":", zorder=1)
            axes.annotate(
                f"fp8, {part} datasheet: {tflops:.0f}", (0.01, tflops), ha="left", va="bottom",
                xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
                color=FAINT, fontsize=8,
            )  # fmt: skip


def _copy_panel(axes: Any, log: Log, limits: Ceilings) -> int:
    drawn = 0
    if limits.copies:
        axes.plot(
            *_axes(limits.copies), color=INK, linewidth=1.3, label="plain copy, measured", zorder=1
        )
    for operator, (colour, marker) in zip(QUANTISERS, STYLES, strict=False):
        points = copy_points(log, operator)
        if points:
            axes.scatter(
                *_axes(points), s=30, color=colour, marker=marker, label=operator, zorder=3
            )
        drawn += len(points)
    _finish(axes, "Quantisers", "bytes read and written", "GB/s")
    return drawn


def _axes(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.x for point in points], [point.y for point in points]


def _finish(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, which="major", color="#E3E3E3", linewidth=0.6)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, loc="lower right")

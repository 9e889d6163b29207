"""Changes to the copy of asv's browser code that lies beside the pages.

asv has no settings for these.  Each is a replacement of exact text, counted, so that a version of
asv in which it no longer applies is noticed: the pages then work as asv made them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

# Facts that a reader always wants to see beside a curve.
SHOWN = ("gpu", "driver", "torch", "triton")
# Facts that follow from others in the legend (of the machine's name) and only make it longer.
IMPLIED = ("gpu", "sm_clock_max_mhz", "power_limit_w", "python")


class Patch(NamedTuple):
    """``old`` stands ``times`` times in ``file`` and becomes ``new``."""

    file: str
    old: str
    new: str
    purpose: str
    times: int = 1


_ONE = "if (values.length > 1 && param != 'machine') {\n                $.asv.ui"
_ALWAYS = _ONE.replace(
    "values.length > 1", f"(values.length > 1 || {json.dumps(SHOWN)}.indexOf(param) >= 0)"
)
_PLAIN = (
    "(Number.isInteger({0}) || Math.abs({0}) >= 1000"
    " ? Math.round({0}).toString() : {0}.toPrecision({1}))"
)
_WHERE = (
    "['machine', 'torch', 'triton'].filter(function (key) { return param_dict[key]; })"
    ".map(function (key) { return ' \\u00b7 ' + key + ' ' + param_dict[key]; }).join('')"
)
PATCHES = (
    Patch(
        "summarylist.js",
        "if (change > 5) {",
        "var more = $.asv.main_json.benchmarks[row.name].less_is_better === false;\n"
        "                var worse = more ? -change : change;\n"
        "                if (worse > 5) {",
        "a loss of throughput is red in the list",
    ),
    Patch(
        "summarylist.js",
        "else if (change < -5) {",
        "else if (worse < -5) {",
        "a gain of throughput is green in the list",
    ),
    Patch("summarylist.js", _ONE, _ALWAYS, "the list shows GPU, driver, torch and Triton"),
    Patch("graphdisplay.js", _ONE, _ALWAYS, "the graphs show GPU, driver, torch and Triton"),
    Patch(
        "graphdisplay.js",
        "                    'os': null,\n",
        "".join(f"                    '{name}': null,\n" for name in ("os", *IMPLIED)),
        "the legend is short",
    ),
    Patch(
        "graphdisplay.js",
        "                    orig_graphs.push({\n",
        "                    if (series.every(function (p) { return p[1] === null; })) return;\n"
        "                    orig_graphs.push({\n",
        "curves without a point are not in the legend",
    ),
    Patch(
        "graphdisplay.js",
        "                multiplier = 1.0;\n",
        "                multiplier = 1.0;\n"
        "                if (!zoom_y_axis && max > 0) {\n"
        "                    options.yaxis.min = 0.0;\n"
        "                    options.yaxis.max = max * 1.3;\n"
        "                }\n",
        "axes begin at 0, for every unit and not only for seconds and bytes",
    ),
    Patch(
        "graphdisplay.js",
        "return (v / multiplier).toPrecision(3);",
        f"return {_PLAIN.format('(v / multiplier)', 3)};",
        "numbers on the axis are not written as powers of ten",
    ),
    Patch(
        "asv.js", "x.toPrecision(3)", _PLAIN.format("x", 4),
        "numbers from 1000 on are not written as powers of ten", times=2,
    ),
    Patch(
        "regressions.js",
        ".text(benchmark_name);",
        f".text(benchmark_name + {_WHERE});",
        "regressions say on which machine and versions they are",
        times=2,
    ),
    Patch(
        "summarygrid.js",
        "var i = bm_name.indexOf('.');\n            var group = bm_name.slice(0, i);",
        "var i = bm_name.indexOf('.');\n            var group = bm_name.split('.')[1];",
        "the grid is grouped by operator",
    ),
)  # fmt: skip

# Labels of cases are long: they wrap in the selectors, and stand upright under an axis.
STYLE = """
.asv-navigation .btn { white-space: normal; overflow-wrap: anywhere; }
.flot-x-axis .flot-tick-label { writing-mode: vertical-rl; max-height: 26em; overflow: hidden; }
"""


def apply(html: Path) -> list[str]:
    """Apply PATCHES and STYLE to the files in ``html``; a sentence for each that does not apply."""
    problems = []
    for patch in PATCHES:
        path = html / patch.file
        text = path.read_text(encoding="utf-8")
        if text.count(patch.old) != patch.times:
            problems.append(
                f"this version of asv has another {patch.file}; not done: {patch.purpose}"
            )
            continue
        path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")
    with (html / "asv.css").open("a", encoding="utf-8") as style:
        style.write(STYLE)
    return problems

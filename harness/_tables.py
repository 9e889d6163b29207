"""The tables of README.md and results/README.md, as Markdown, made from raw logs alone."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks import cases
from harness import _missing
from harness._lines import cell, extra, get, lines_where, short, timed
from harness._logs import GEMM, OURS, QUANTISERS, newest
from harness._markdown import NONE, THROTTLED, count, markdown, micro, percent, rate
from harness._table_experts import experts
from harness._table_grouped import grouped
from harness._table_layers import layers
from harness._table_parts import BESIDE, NAMES, absent, beside, clock, heads, peers, source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.rawlog import Key, Measured
    from harness._lines import Line
    from harness._logs import Log

TIMES = ("device_us",)
CODEGEN = ("registers", "spills", "shared_bytes", "wgmma", "instructions")


def blocks(logs: Sequence[Log], picture: Path) -> dict[str, str]:
    """Body of every marked table by its name; a table without data is a sentence that says so."""
    return {
        "fp8_gemm": fp8_gemm(logs),
        "quantisers": quantisers(logs),
        "layers": layers(logs),
        "grouped": grouped(logs),
        "experts": experts(logs),
        "codegen": codegen(logs),
        "launch": launch(logs),
        "roofline": roofline(logs, picture),
        "machines": machines(logs),
    }


def fp8_gemm(logs: Sequence[Log]) -> str:
    """Per layer and M: time, throughput and exactness, ours beside every peer in the same log."""
    log = newest(logs, GEMM)
    if log is None:
        return absent("the FP8 GEMM's times")
    others = ["cublaslt", *(name for name in peers(log, GEMM) if name != "cublaslt")]
    lines = timed(log, GEMM, (OURS, *others))
    header = ["layer", "M", "N x K", "ours, us", "TFLOP/s", "of roofline"]
    rows = [_gemm_row(log, line, others, extra(line, lines)) for line in lines]
    said = (
        f"{source(log)} {clock(log, GEMM)} `of roofline` is the time that ceilings of this run "
        f"allow, over the time taken. {BESIDE}"
    )
    lacks = _missing.sentence(logs, log, lines, GEMM, TIMES)
    return f"{said}\n\n{markdown([*header, *heads(others)], rows, left=1)}{lacks}"


def _gemm_row(log: Log, line: Line, others: Sequence[str], more: str) -> list[str]:
    fields = line.fields
    shape = f"{fields['n']} x {fields['k']}" if {"n", "k"} <= set(fields) else line.case
    return [
        fields.get("layer", NONE) + more,
        fields.get("m", NONE),
        shape,
        cell(log, line, OURS, "device_us", micro),
        cell(log, line, OURS, "tflops", rate),
        cell(log, line, OURS, "roofline_fraction", percent),
        *beside(log, line, others),
    ]


def quantisers(logs: Sequence[Log]) -> str:
    """Time and bandwidth of the memory-bound operators."""
    log = newest(logs, QUANTISERS)
    if log is None:
        return absent("the quantisers' times")
    lines = timed(log, QUANTISERS, (OURS,))
    rows = [
        [
            f"`{line.operator}`",
            *_layer_and_shape(line, lines),
            cell(log, line, OURS, "device_us", micro),
            cell(log, line, OURS, "gbps", rate),
            cell(log, line, OURS, "copy_fraction", percent),
        ]
        for line in lines
    ]
    said = (
        f"{source(log)} {clock(log, QUANTISERS)} GB/s counts each input and output byte once; "
        "`of a copy` is the time of a plain copy of as many bytes, in the same run and cache "
        "state, over the time taken."
    )
    header = ["operator", "layer", "shape", "us", "GB/s", "of a copy"]
    lacks = _missing.sentence(logs, log, lines, QUANTISERS, TIMES)
    return f"{said}\n\n{markdown(header, rows, left=2)}{lacks}"


def _layer_and_shape(line: Line, lines: Sequence[Line]) -> tuple[str, str]:
    """Two cells.  Rows that tokens were sent to have no M: there the label says what they are."""
    layer = line.fields.get("layer", NONE)
    sides = [line.fields[name] for name in ("m", "n", "k") if name in line.fields]
    if {"m", "n"} & set(line.fields):
        return layer + extra(line, lines), " x ".join(sides)
    return layer, short(line, lines).removeprefix(f"layer={layer},")


def codegen(logs: Sequence[Log]) -> str:
    """What Triton compiles for sm_90; cases that compile to the same figures share a row."""
    held = [log for log in logs if any(_is_codegen(key) for key in log.measured)]
    log = max(held, key=lambda log: log.age, default=None)
    if log is None:
        return "No log holds codegen yet: `nox -s bench` on any machine, GPU or not, makes one."
    groups: dict[tuple[str, ...], list[Line]] = {}
    shown = lines_where(log, _is_codegen)
    for line in shown:
        figures = [*(cell(log, line, OURS, name, count) for name in CODEGEN), _shapes(log, line)]
        groups.setdefault((f"`{line.operator}`", *figures), []).append(line)
    rows = []
    for (operator, *figures), lines in groups.items():
        measured = [get(log, line, OURS, "compile_s") for line in lines]
        seconds = [item.median for item in measured if item is not None]
        compile_s = f"{statistics.median(seconds):.2f}" if seconds else NONE
        label = short(lines[0], shown)
        named = label if len(lines) == 1 else f"{len(lines)} cases, such as {label}"
        rows.append([operator, named, *figures, compile_s])
    header = [
        "operator", "cases", "registers", "spills, B", "shared, B", "wgmma", "instructions",
        "wgmma shapes", "compile, s",
    ]  # fmt: skip
    said = (
        f"{source(log)} Compiled for sm_90, without a GPU, with the launcher's specialisation. "
        "Registers are a thread's and shared memory a block's, the most of any kernel of the call; "
        "spills (local memory a thread), wgmma and instructions (in the SASS) are summed over its "
        "kernels. Compile time is cold, the cases' median."
    )
    lacks = _missing.sentence(logs, log, shown, cases.names(), CODEGEN)
    return f"{said}\n\n{markdown(header, rows, left=2)}{lacks}"


def _shapes(log: Log, line: Line) -> str:
    """Tile shapes of the tensor-core instructions, from the detail beside the figures."""
    measured = get(log, line, OURS, "wgmma")
    kernels = measured.detail.get("kernels", []) if measured else []
    shapes = {shape.split(".")[0] for kernel in kernels for shape in kernel.get("shapes", {})}
    return ", ".join(sorted(shapes)) or NONE


def _is_codegen(key: Key) -> bool:
    return key.metric in CODEGEN and key.implementation == OURS


def launch(logs: Sequence[Log]) -> str:
    """Host time of a call, summed up by operator: it hardly depends on the case."""
    log = newest(logs, (*GEMM, *QUANTISERS, "wgmma"), "launch_us")
    if log is None:
        return absent("launch overhead")
    groups: dict[tuple[str, str], list[Measured]] = {}
    for key in sorted(log.measured):
        if key.metric == "launch_us":
            groups.setdefault((key.operator, key.implementation), []).append(log.measured[key])
    rows = []
    for (operator, implementation), held in groups.items():
        medians = [item.median for item in held]
        figures = [
            micro(value) for value in (statistics.median(medians), min(medians), max(medians))
        ]
        figures[0] += f" {THROTTLED}" if any(item.throttled for item in held) else ""
        rows.append(
            [f"`{operator}`", NAMES.get(implementation, implementation), str(len(held)), *figures]
        )
    said = (
        f"{source(log)} Host time of one warm call, from the call to its return, in microseconds: "
        "the median of each case, then the median, least and most over the operator's cases."
    )
    header = ["operator", "implementation", "cases", "median", "least", "most"]
    shown = lines_where(log, lambda key: key.implementation == OURS and key.metric == "launch_us")
    lacks = _missing.sentence(logs, log, shown, cases.names(), ("launch_us",))
    return f"{said}\n\n{markdown(header, rows, left=2)}{lacks}"


def roofline(logs: Sequence[Log], picture: Path) -> str:
    """The picture's place in README.md, with what it shows in words."""
    log = newest(logs, GEMM)
    if log is None:
        return absent("a roofline")
    return (
        "![Left: FP8 GEMM throughput over operations per byte, under the measured roofline. Right: "
        "the quantisers' bandwidth over bytes moved, under a plain copy's.]"
        f"({picture.as_posix()})\n\n{source(log)}"
    )


def machines(logs: Sequence[Log]) -> str:
    """Every machine as it was set up, and when it was measured; a change of driver is a new row."""
    header = [
        "machine", "GPU", "driver", "SM / memory clock, MHz", "power limit, W", "measured", "logs",
    ]  # fmt: skip
    groups: dict[tuple[str, ...], list[Log]] = {}
    for log in logs:
        clocks = f"{log.fact('sm_clock_max_mhz')} / {log.fact('memory_clock_max_mhz')}"
        gpu = log.fact("gpu") if log.fact("gpu") != "none" else f"none ({log.fact('cpu')})"
        facts = [f"`{log.machine}`", gpu, log.fact("driver"), clocks, log.fact("power_limit_w")]
        groups.setdefault(tuple(facts), []).append(log)
    if not groups:
        return "Nothing has been measured yet."
    rows = []
    for row, held in sorted(groups.items()):
        days = sorted(time[:10] for log in held for time in log.times)
        measured = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "unknown"
        rows.append([*row, measured, str(len(held))])
    return markdown(header, rows, left=3)

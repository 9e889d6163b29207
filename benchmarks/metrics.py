"""Names, units and direction of everything that is measured.

The one table that the sweep, asv's classes and the reports share: a metric that is not here cannot
be written, recorded or shown.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """unit: as written to the raw log.  better: ``less``, ``more`` or ``neither``.  meaning: one line."""

    unit: str
    better: str
    meaning: str


METRICS = {
    # Time, on the GPU.
    "device_us": Metric("us", "less", "device time of one call, CUDA graph, cold L2"),
    "launch_us": Metric("us", "less", "host time of one warm call, from call to return"),
    "roofline_cost": Metric("x", "less", "device time over the time the measured ceilings allow"),
    "roofline_fraction": Metric("", "more", "time the measured ceilings allow over device time"),
    "copy_fraction": Metric("", "more", "time of a copy of the same bytes over device time"),
    "tflops": Metric("TFLOP/s", "more", "tensor-core operations of the case over device time"),
    "gbps": Metric("GB/s", "more", "bytes of the case, each counted once, over device time"),
    "tokens_per_s": Metric("tokens/s", "more", "tokens of a layer's case over device time; in no raw log"),
    "peak_bytes": Metric("B", "less", "peak memory of one call above its inputs"),
    # Time, without a GPU.
    "cpu_us": Metric("us", "less", "wall time of one call on the CPU (reference only)"),
    # Exactness: against the reference, and against float64.
    "differing_elements": Metric("elements", "less", "output elements whose bits differ from the reference"),
    "max_error": Metric("", "less", "max |error| over mean |exact|, against float64"),
    "rms_error": Metric("", "less", "rms error over rms exact, against float64"),
    # Codegen for sm_90, no GPU needed.
    "registers": Metric("registers", "less", "registers a thread, the most of any kernel of the call"),
    "spills": Metric("B", "less", "local memory a thread, all kernels of the call"),
    "shared_bytes": Metric("B", "less", "shared memory a block, the most of any kernel of the call"),
    "wgmma": Metric("instructions", "neither", "wgmma instructions in the SASS, all kernels of the call"),
    "instructions": Metric("instructions", "less", "SASS instructions, all kernels of the call"),
    "compile_s": Metric("s", "less", "time to compile all kernels of the call, cold"),
}  # fmt: skip

# What asv stores: costs, for which smaller is better, ...
COSTS = (
    "device_us", "roofline_cost", "launch_us", "peak_bytes", "cpu_us", "differing_elements",
    "max_error", "rms_error", "registers", "spills", "shared_bytes", "instructions", "compile_s",
)  # fmt: skip
# ... and one series of throughput a case, kept out of asv's regressions by our publisher.
THROUGHPUTS = ("tflops", "gbps")

# What the compiler alone decides; the rest needs a run.  A failure in one phase hides nothing of the
# other.
CODEGEN = ("registers", "spills", "shared_bytes", "wgmma", "instructions", "compile_s")


def phase(metric: str) -> str:
    """The phase of a sweep that measures ``metric``: ``codegen`` or ``run``."""
    return "codegen" if metric in CODEGEN else "run"

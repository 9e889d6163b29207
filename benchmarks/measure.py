"""The one clock.

Device time: a CUDA graph of many calls over rotating sets of buffers, so that neither launch gaps
nor a warm L2 flatter small problems.  Every set has its own inputs and outputs, and together they
pass the L2 twice over.  Compilation, autotuning and the first calls stay outside.  A sample is one
replay divided by its calls; a round is some replays after a warm-up; several rounds are taken, so
that drift between them can be seen.

Host time: what one warm call costs the caller, measured apart (:func:`launch_us`).

Evidence: SM and memory clocks, power, temperature and the driver's reasons for slowing down, before
and after; a sample taken while the card was slowed is marked.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

REPLAYS = 12
TARGET_US = 1000.0  # a graph holds at least this much work, so that its own launch does not count
MOST_CALLS = 200
MOST_SETS = 48
LARGE_CALL = 2 << 30  # bytes of a call that is its own flush of the L2
# Reasons of NVML that make a sample suspect, by name; being idle or capped by a setting does not.
THROTTLE = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x20: "thermal", 0x40: "hardware thermal",
    0x80: "power brake",
}  # fmt: skip


# The power cap's reason stands for seconds at 1965 of 1980 MHz; that changes no figure.
SLOWED = 0.97


@dataclass
class Timing:
    """samples: us of one call, one a replay.  outputs: what the last replay left, one a buffer set.
    replay: runs the graph once more, to check what it writes."""

    samples: list[float]
    outputs: list[Any]
    replay: Callable[[], None]
    clocks: dict[str, Any] = field(default_factory=dict)

    @property
    def throttled(self) -> bool:
        """Whether the card was slowed before or after: a reason stood, and the clock was down."""
        readings = [self.clocks[when] for when in ("before", "after") if when in self.clocks]
        return any(
            reading["throttle"] and reading["sm_mhz"] < SLOWED * reading["sm_max_mhz"]
            for reading in readings
        )

    @property
    def median(self) -> float:
        """Median sample, in us."""
        return statistics.median(self.samples)


def clocks() -> dict[str, Any]:
    """What the driver says of GPU 0 now; empty where it says nothing."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        return {
            "sm_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "sm_max_mhz": pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "memory_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            "power_w": round(pynvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            "temperature_c": pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            "throttle": [name for bit, name in THROTTLE.items() if reasons & bit],
        }
    except Exception:  # noqa: BLE001  (no driver, no package, no permission: no evidence, no failure)
        return {}


def l2_bytes() -> int:
    """Size of the L2 cache."""
    import torch

    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def buffer_sets(bytes_per_call: int, l2: int) -> int:
    """Sets of buffers that together pass an L2 of ``l2`` bytes twice over: two at least, since equal
    results in two show that neither reads the other's; but one where a second would take memory for
    which a call's own bytes pass the L2 many times."""
    if bytes_per_call > LARGE_CALL:
        return 1
    return min(MOST_SETS, max(2, -(-2 * l2 // max(1, bytes_per_call))))


def device_us(
    make: Callable[[], Callable[[], Any]],
    *,
    bytes_per_call: int,
    rounds: int = 1,
    replays: int = REPLAYS,
    warm: bool = False,
) -> Timing:
    """Device time of what ``make()`` returns.

    make: builds one set of buffers and returns the call on it, which returns its outputs.
    bytes_per_call: bytes a call touches, to know how many sets pass the L2.
    warm: use one set only, so that what fits in the L2 stays there.
    """
    import torch

    sets = 1 if warm else buffer_sets(bytes_per_call, l2_bytes())
    calls = [make() for _ in range(sets)]
    one = _estimate_us(calls[0])
    passes = max(1, min(MOST_CALLS // sets, int(TARGET_US / max(one, 0.1) / sets) + 1))
    graph = torch.cuda.CUDAGraph()
    outputs: list[Any] = [None] * sets
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            for index in range(passes * sets):
                # The previous result of this set is dropped only now: no two sets share memory.
                outputs[index % sets] = calls[index % sets]()
    torch.cuda.synchronize()
    samples: list[float] = []
    before = clocks()
    for _ in range(rounds):
        for _ in range(3):
            graph.replay()
        pairs = [
            tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(replays)
        ]
        for start, stop in pairs:
            start.record()
            graph.replay()
            stop.record()
        torch.cuda.synchronize()
        samples += [start.elapsed_time(stop) * 1000 / (passes * sets) for start, stop in pairs]
    after = clocks()
    evidence: dict[str, Any] = {"before": before, "after": after} if after else {}
    if evidence:
        evidence["throttle"] = sorted({*before["throttle"], *after["throttle"]})
    return Timing(samples, outputs, graph.replay, evidence)


def _estimate_us(call: Callable[[], Any]) -> float:
    """Rough time of one call, compilation excluded."""
    import torch

    call()
    torch.cuda.synchronize()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(3):
        call()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop) * 1000 / 3)


def launch_us(call: Callable[[], Any], *, rounds: int = 20, calls: int = 20) -> list[float]:
    """Host time of one warm call, from call to return, us; the device is idle when a round starts."""
    import torch

    samples = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        start = time.perf_counter_ns()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter_ns() - start) / calls / 1000)
    torch.cuda.synchronize()
    return samples[1:]


def peak_bytes(call: Callable[[], Any]) -> int:
    """Device memory one call needs above what was held before, results included."""
    import torch

    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return int(torch.cuda.max_memory_allocated() - before)


def cpu_us(call: Callable[[], Any], *, seconds: float = 0.3) -> list[float]:
    """Wall time of one call on the CPU, us: at least 3 samples, then until ``seconds`` have passed."""
    call()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 3 or (time.perf_counter() < end and len(samples) < 50):
        start = time.perf_counter_ns()
        call()
        samples.append((time.perf_counter_ns() - start) / 1000)
    return samples

"""What the machine is: the facts without which two numbers must not be joined into one curve."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

# Set to give the machine another name than its GPU's or CPU's; results are filed under it.
MACHINE_VARIABLE = "FP8_BENCH_MACHINE"


def version(package: str) -> str:
    """Installed version without its local part (``2.11.0+cu130`` is ``2.11.0``), or ``none``."""
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "none"


@cache
def gpu() -> dict[str, Any]:
    """Name, driver and limits of GPU 0 as the driver tells them, without CUDA; empty with no GPU."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return {
            "name": _text(pynvml.nvmlDeviceGetName(handle)),
            "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
            "capability": f"{major}.{minor}",
            "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            "sm_clock_max_mhz": pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "memory_clock_max_mhz": pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            "power_limit_w": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        }
    except pynvml.NVMLError:
        return {}
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def has_hopper() -> bool:
    """Whether GPU 0 is of compute capability 9.0, which every kernel here is written for."""
    return gpu().get("capability") == "9.0"


@cache
def cpu_name() -> str:
    """The processor's own name, or its architecture where none is told."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine_name() -> str:
    """Folder under ``results/``: the variable FP8_BENCH_MACHINE, else the GPU's name, else the CPU's."""
    named = os.environ.get(MACHINE_VARIABLE)
    name = named or gpu().get("name") or f"cpu-{cpu_name()}"
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def fingerprint() -> dict[str, Any]:
    """All of it, as it is written to the raw log and to asv's machine.json (every value a string)."""
    card = gpu()
    facts = {
        "machine": machine_name(),
        "os": f"{platform.system()} {platform.release()}",
        "arch": platform.machine(),
        "cpu": cpu_name(),
        "num_cpu": os.cpu_count() or 0,
        "ram": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') >> 30} GiB",
        "gpu": card.get("name", "none"),
        "driver": card.get("driver", "none"),
        "capability": card.get("capability", "none"),
        "sm_clock_max_mhz": card.get("sm_clock_max_mhz", "none"),
        "memory_clock_max_mhz": card.get("memory_clock_max_mhz", "none"),
        "power_limit_w": card.get("power_limit_w", "none"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": version("torch"),
        "triton": version("triton"),
    }
    return {key: str(value) for key, value in facts.items()}

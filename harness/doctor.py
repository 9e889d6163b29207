"""``python -m harness.doctor``: what this machine can run, and what it lacks, in sentences.

Imports nothing but the standard library until a package is known to be there, because the machine
it is for may have neither nox nor pip.  Exits with 0 when the sweep can run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

PYTHON = (3, 11)
TESTED = ("3.11", "3.12")
# The oldest and the newest Triton, by major and minor version, that the kernels work with.
TRITON = ((3, 6), (3, 9))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Any of these tells of a GPU's driver where NVIDIA's Python package is not there to ask.
DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"))


class Need(NamedTuple):
    """A package: what pip calls it, and what this project needs it for."""

    distribution: str
    purpose: str


# By import name, in the order in which one would install them.
NEEDS = {
    "torch": Need("torch", "the reference implementations and every operand"),
    "triton": Need("triton", "the kernels"),
    "numpy": Need("numpy", "Triton's interpreter, which runs the kernels on a CPU"),
    "pynvml": Need("nvidia-ml-py", "seeing the GPU: its driver, clocks, power and throttling"),
    "pytest": Need("pytest", "the tests"),
    "hypothesis": Need("hypothesis", "the property tests"),
    "pytest_benchmark": Need("pytest-benchmark", "the host-side timings in tests/bench"),
    "xdist": Need("pytest-xdist", "tests in several processes at a time"),
    "asv": Need("asv", "recording commits and publishing the pages"),
    "nox": Need(
        "nox", "running everything by name; each of its names stands for a plain python command"
    ),
    "rich": Need("rich", "progress and tables in the terminal"),
    "pandas": Need("pandas", "the report: summary.csv and README's tables"),
    "matplotlib": Need("matplotlib", "the report's pictures"),
    "scipy": Need("scipy", "statistics of the regression gate"),
    "packaging": Need("packaging", "filling a wheelhouse"),
}
SWEEP = ("torch", "triton", "numpy")


def has(name: str) -> bool:
    """Whether the module can be found; does not import it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def version(name: str) -> str:
    """Installed version of the package that module ``name`` is from; empty when there is none."""
    try:
        return importlib.metadata.version(NEEDS[name].distribution if name in NEEDS else name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def require(names: Sequence[str], purpose: str) -> None:
    """Raise SystemExit, naming each module of ``names`` that is missing and how to get it."""
    missing = [name for name in names if not has(name)]
    if not missing:
        return
    lines = [f"{purpose} needs what {sys.executable} does not have:"]
    lines += [f"  {_described(name)}" for name in missing]
    packages = " ".join(_need(name).distribution for name in missing)
    lines.append(f"With a network: {sys.executable} -m pip install {packages}")
    lines.append("Without one: python -m harness.wheelhouse elsewhere fills a folder to copy.")
    raise SystemExit("\n".join(lines))


def _need(name: str) -> Need:
    return NEEDS.get(name, Need(name, "this command"))


def _described(name: str) -> str:
    need = _need(name)
    return f"{need.distribution}: for {need.purpose}"


def packages() -> tuple[list[str], list[str]]:
    """Sentences about the packages, and the reasons among them why the sweep cannot run."""
    lines, blocked = [], []
    if sys.version_info < PYTHON:
        blocked.append(
            f"Python {sys.version.split()[0]} is too old: {'.'.join(map(str, PYTHON))} or newer."
        )
    elif ".".join(map(str, sys.version_info[:2])) not in TESTED:
        lines.append(
            f"Python {sys.version.split()[0]}: not tested; tested are {' and '.join(TESTED)}."
        )
    for name, need in NEEDS.items():
        if has(name):
            continue
        sentence = f"{need.distribution} is missing: needed for {need.purpose}."
        (blocked if name in SWEEP else lines).append(sentence)
    if shutil.which("git") is None:
        blocked.append("git is missing: needed for the commits that are measured.")
    return lines, [*blocked, *_broken(("torch", "triton")), *triton_problems()]


def _broken(names: Sequence[str]) -> list[str]:
    """Packages that are there and cannot be imported: a half-installed torch is common."""
    problems = []
    for name in names:
        if has(name):
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 (whatever it raises is the finding)
                first = (str(error).splitlines() or [type(error).__name__])[0]
                problems.append(f"{name} is installed but cannot be imported: {first}")
    return problems


def triton_problems() -> list[str]:
    """Why the installed Triton cannot be used; empty when it can, or is not there."""
    found = _release(version("triton"))
    if not found:
        return []
    low, high = ("{}.{}".format(*bound) for bound in TRITON)
    problems = []
    if not TRITON[0] <= found <= TRITON[1]:
        problems.append(f"Triton {version('triton')}: the kernels work with {low} to {high}.")
    if found == (3, 6) and _release(version("numpy")) >= (2, 4):
        problems.append(f"Triton 3.6's interpreter needs numpy < 2.4; this is {version('numpy')}.")
    return problems


def _release(text: str) -> tuple[int, ...]:
    """Major and minor version; empty when there is none."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else ()


def card() -> tuple[str, str | None]:
    """A sentence about the GPU, and why the sweep cannot measure one that is there, or None."""
    from benchmarks import fingerprint

    gpu = fingerprint.gpu()
    if not gpu:
        if not any(path.exists() for path in DRIVER) and shutil.which("nvidia-smi") is None:
            return (
                "GPU: none. Kernels are run in Triton's interpreter and compiled, not timed.",
                None,
            )
        if has("pynvml"):
            return "GPU: there is a driver, but it shows no GPU.", None
        text = "GPU: there is a driver, but it cannot be asked which GPU this is."
        return text, "nvidia-ml-py is missing: without it the sweep would see no GPU here."
    text = f"GPU: {gpu['name']}, driver {gpu['driver']}, compute capability {gpu['capability']}."
    if not fingerprint.has_hopper():
        return (
            f"{text} The kernels are for Hopper (9.0): they are compiled and checked, not timed.",
            None,
        )
    return text, _cuda()


def _cuda() -> str | None:
    """Why torch cannot use the Hopper GPU that the driver shows, or None."""
    if not has("torch"):
        return None
    import torch

    if torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} sees no GPU: it is a CPU build, or too new for the driver."


def parts(blocked: bool, hopper: bool) -> list[str]:
    """One line for each part of the project: whether it works here, else what it waits for."""
    waits = {
        "tests": ["torch", "triton", "numpy", "pytest", "hypothesis"],
        "host-side benchmarks": ["torch", "triton", "numpy", "pytest", "pytest_benchmark"],
        "bench: recording and pages": [*SWEEP, "asv"],
        "compare": [*SWEEP, "scipy", "rich"],
        "report": ["pandas"],
    }
    where = "with times on the GPU" if hopper else "on the CPU: parity, codegen, accuracy"
    lines = [f"sweep: {'cannot run, see above' if blocked else f'works, {where}'}"]
    for part, names in waits.items():
        missing = [NEEDS[name].distribution for name in names if not has(name)]
        lines.append(f"{part}: {'waits for ' + ', '.join(missing) if missing else 'works'}")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    lines.append(f"tests of the pages: {'work' if browser else 'skipped, there is no Chromium'}")
    npm = (
        "found"
        if shutil.which("npm")
        else "not found; the pages' scripts then need Node from a wheel"
    )
    lines.append(f"npm, for the pages' scripts: {npm}")
    lines.append("nvcc: not needed; Triton brings its own ptxas")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0 when the sweep can run, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.doctor", description=__doc__.split("\n")[0]
    )
    parser.parse_args(arguments)
    lines, blocked = packages()
    gpu, problem = card()
    blocked += [problem] if problem else []
    held = ", ".join(f"{name} {version(name)}" for name in ("torch", "triton") if has(name))
    print(f"Python {sys.version.split()[0]} ({sys.executable}){', ' + held if held else ''}")
    print(gpu)
    for line in (*blocked, *lines):
        print(line)
    print()
    for line in parts(bool(blocked), "9.0." in gpu and not problem):
        print(line)
    return 1 if blocked else 0


if __name__ == "__main__":
    sys.exit(main())

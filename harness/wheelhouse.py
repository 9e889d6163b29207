"""``python -m harness.wheelhouse DIR``: wheels for a box that has torch and Triton but no network.

Run where there is a network, for any target Python; the wheels are for Linux on x86-64.  Holds
pytest, asv, nox and the few others that such a box lacks, with what they depend on, and never torch
or Triton: the box brings the ones that fit its driver.  Versions follow the pins in pyproject.toml.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness import doctor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from packaging.requirements import Requirement

BASE = ("pytest", "pytest-benchmark", "hypothesis", "asv", "nox", "rich", "nvidia-ml-py")
REPORTS = ("pandas", "matplotlib", "scipy")
GROUPS = ("tests", "bench")
PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
# The box's own, always.
NEVER = ("torch", "triton")
# glibc 2.28 (2018) and everything older; pip itself goes from 2014 on down.
GLIBC = (*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)), "manylinux2014_x86_64")
PINS = "requirements.txt"
HEADER = "# Wheels that harness.wheelhouse put into this folder."
# A dependency of a dependency may bring new ones; the set settles in two or three rounds.
ROUNDS = 10


class Wheel(NamedTuple):
    """A downloaded wheel: its file, and from its metadata name, version and requirements."""

    path: Path
    name: str
    version: str
    requires: tuple[str, ...]


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(pyproject: Path) -> dict[str, dict[str, str]]:
    """Requirements by group and name from [dependency-groups]; empty without such a table.

    Includes of other groups are passed over: all groups are looked through for a pin anyway.
    """
    try:
        groups = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("dependency-groups", {})
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        print(f"{pyproject}: no pins taken from it: {error}", file=sys.stderr)
        return {}
    return {
        group: {_name(line): line for line in lines if isinstance(line, str)}
        for group, lines in groups.items()
    }


def _name(requirement: str) -> str:
    from packaging.requirements import Requirement

    return plain(Requirement(requirement).name)


def wanted(groups: dict[str, dict[str, str]], have: Iterable[str], reports: bool) -> list[str]:
    """Requirements to download: the base and the groups tests and bench, less ``have``; sorted."""
    pins = {name: line for lines in groups.values() for name, line in lines.items()}
    names = {*BASE, *(name for group in GROUPS for name in groups.get(group, {}))} - set(REPORTS)
    if reports:
        names |= {*REPORTS, *groups.get("report", {})}
    return [pins.get(name, name) for name in sorted(names - {plain(name) for name in have})]


def fill(
    folder: Path, requirements: Sequence[str], have: Iterable[str], python: str
) -> list[Wheel]:
    """Download ``requirements`` and all they need on Python ``python`` into ``folder``; the wheels.

    pip resolves, but reads environment markers for the Python and the system it runs on, so what
    only the target needs is found here, in the wheels' own metadata, and asked for in a next round.
    """
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in requirements]
    excluded = {plain(name) for name in have}
    for _ in range(ROUNDS):
        _download(folder, asked, python)
        held = {wheel.name: wheel for wheel in map(read_wheel, sorted(folder.glob("*.whl")))}
        needs = needed(asked, held, excluded, python)
        more = [need for need in needs if not _met(need, held)]
        if not more:
            return [held[name] for name in sorted({plain(need.name) for need in needs})]
        asked += more
    raise SystemExit(
        f"the dependencies did not settle; still asked for: {', '.join(map(str, more))}"
    )


def needed(
    asked: Sequence[Requirement], held: dict[str, Wheel], excluded: set[str], python: str
) -> list[Requirement]:
    """All requirements that follow from ``asked`` on the target, through the wheels in hand.

    Stops at an excluded package: the box has it, with what it needs.
    """
    from packaging.requirements import Requirement

    found: dict[str, Requirement] = {}
    waiting = list(asked)
    while waiting:
        need = waiting.pop()
        if str(need) in found or plain(need.name) in excluded or not _applies(need, "", python):
            continue
        found[str(need)] = need
        wheel = held.get(plain(need.name))
        for line in wheel.requires if wheel else ():
            inner = Requirement(line)
            if any(_applies(inner, extra, python) for extra in {"", *need.extras}):
                inner.marker = None
                waiting.append(inner)
    return [found[text] for text in sorted(found)]


def _met(need: Requirement, held: dict[str, Wheel]) -> bool:
    """Whether a wheel in hand is what the requirement asks for."""
    wheel = held.get(plain(need.name))
    return wheel is not None and need.specifier.contains(wheel.version, prereleases=True)


def _applies(need: Requirement, extra: str, python: str) -> bool:
    """Whether the requirement's marker holds on Linux, x86-64, CPython ``python``."""
    target = {
        "python_version": python, "python_full_version": f"{python}.0",
        "implementation_name": "cpython", "implementation_version": f"{python}.0",
        "platform_python_implementation": "CPython", "platform_machine": "x86_64",
        "os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "extra": extra,
    }  # fmt: skip
    return need.marker is None or need.marker.evaluate(target)


def _download(folder: Path, asked: Sequence[Requirement], python: str) -> None:
    """Fill ``folder`` afresh by pip.  Raises SystemExit with pip's own last words when it fails."""
    for old in folder.glob("*.whl"):
        old.unlink()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [part for tag in GLIBC for part in ("--platform", tag)]
    done = subprocess.run([*command, *map(str, asked)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise SystemExit("pip could not download the wheels:\n  " + "\n  ".join(said[-3:]))


def read_wheel(path: Path) -> Wheel:
    """Name, version and requirements of a wheel, from its metadata."""
    with zipfile.ZipFile(path) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(inside).decode("utf-8"), headersonly=True)
    return Wheel(
        path, plain(fields["Name"]), fields["Version"], tuple(fields.get_all("Requires-Dist", ()))
    )


def claim(folder: Path) -> None:
    """Make the folder.  Raises SystemExit when it is not empty and this command did not fill it."""
    folder.mkdir(parents=True, exist_ok=True)
    pins = folder / PINS
    ours = pins.is_file() and pins.read_text(encoding="utf-8").startswith(HEADER)
    if not ours and any(folder.iterdir()):
        raise SystemExit(f"{folder}: is not empty and not a wheelhouse; name an empty folder")


def publish(wheels: Sequence[Wheel], folder: Path) -> None:
    """Move the wheels into a claimed folder, in place of an earlier run's, and list them."""
    for old in folder.glob("*.whl"):
        old.unlink()
    for wheel in wheels:
        shutil.move(wheel.path, folder / wheel.path.name)
    lines = [HEADER, *(f"{wheel.name}=={wheel.version}" for wheel in wheels)]
    (folder / PINS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.wheelhouse", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the folder to fill; made if it is not there"
    )
    parser.add_argument(
        "--python", default="3.12", metavar="X.Y", help="the box's Python (default 3.12)"
    )
    parser.add_argument(
        "--have", nargs="+", action="extend", default=[], metavar="PACKAGE", help="the box has it"
    )
    parser.add_argument("--reports", action="store_true", help=f"also {', '.join(REPORTS)}")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"3\.\d+", options.python):
        parser.error(f"--python: expected a version like 3.12, got {options.python!r}")
    doctor.require(["pip", "packaging"], "the wheelhouse")
    claim(options.folder)
    have = [*NEVER, *options.have]
    requirements = wanted(pinned(PYPROJECT), have, options.reports)
    with tempfile.TemporaryDirectory() as temporary:
        wheels = fill(Path(temporary), requirements, have, options.python)
        publish(wheels, options.folder)
    size = sum((options.folder / wheel.path.name).stat().st_size for wheel in wheels)
    print(
        f"{options.folder}: {len(wheels)} wheels, {size / 1e6:.1f} MB, for Python {options.python}"
    )
    print("Copy the folder to the box; there, without a network:")
    install = f"--find-links {options.folder} -r {options.folder / PINS}"
    print(f"  python -m pip install --no-index --no-deps {install}")
    print(
        "To leave the box's own packages as they are, add --target FOLDER and set PYTHONPATH to it."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

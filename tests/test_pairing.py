"""The pairing rule: one stem, one public name and one signature on both sides, and no leaks."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from benchmarks import cases

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("reference_impl", "kernels")


def stems(folder: str) -> list[str]:
    return sorted(
        path.stem for path in (ROOT / folder).glob("*.py") if not path.name.startswith("_")
    )


def imported(path: Path, *, module_level: bool = False) -> set[str]:
    """Top names of everything a file imports, or of what it imports when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if module_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_same_stems() -> None:
    assert stems("reference_impl") == stems("kernels") == cases.names()


@pytest.mark.parametrize("stem", stems("kernels"))
def test_same_signature(stem: str) -> None:
    reference, kernel = (
        inspect.signature(getattr(importlib.import_module(f"{side}.{stem}"), stem))
        for side in SIDES
    )
    assert reference == kernel


@pytest.mark.parametrize("path", files("reference_impl"), ids=lambda path: path.name)
def test_reference_is_independent(path: Path) -> None:
    allowed = {
        "__future__",
        "collections",
        "contextlib",
        "math",
        "reference_impl",
        "torch",
        "typing",
    }
    assert imported(path) <= allowed


@pytest.mark.parametrize("path", files("kernels"), ids=lambda path: path.name)
def test_kernels_do_not_see_the_reference(path: Path) -> None:
    assert not imported(path) & {"reference_impl", "benchmarks", "tests"}


@pytest.mark.parametrize("path", files("benchmarks/cases"), ids=lambda path: path.name)
def test_cases_see_neither_side(path: Path) -> None:
    assert not imported(path, module_level=True) & {*SIDES, "torch", "triton", "tests"}


@pytest.mark.parametrize("package", [*SIDES, "benchmarks"])
def test_packages_are_this_tree(package: str) -> None:
    """An unrelated ``kernels`` is on PyPI; measuring it by accident must not be possible."""
    found = importlib.import_module(package).__file__
    assert found is not None
    assert Path(found).resolve().parent == ROOT / package

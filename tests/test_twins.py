"""What both packages write down alike stays alike: the layer's composition, statement by statement."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# File -> what is not the same, and why.
TWINS = {
    "_moe.py": {
        "masked": "a stream for the shared expert, a kernel less for one token, and none for counts"
    },
    "moe_layer.py": {"moe_layer": "the kernels' checks its arguments first, and says so"},
}


def definitions(package: str, name: str) -> dict[str, str]:
    """Name -> syntax tree of each function, class and constant of a module, docstrings included."""
    found = {}
    for node in ast.parse((ROOT / package / name).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = ast.dump(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            found[ast.unparse(target)] = ast.dump(node)
    return found


@pytest.mark.parametrize("name", TWINS)
def test_both_are_written_alike(name: str) -> None:
    reference, kernels = (definitions(package, name) for package in ("reference_impl", "kernels"))
    assert list(reference) == list(kernels)
    assert len(reference) > 3
    differing = {one for one in reference if reference[one] != kernels[one]}
    assert differing == set(TWINS[name])  # and what became alike is no exception any more


@pytest.mark.parametrize("name", TWINS)
def test_they_import_the_same_operators(name: str) -> None:
    """Each from its own package."""

    def imports(package: str) -> set[tuple[str, str]]:
        return {
            (node.module.removeprefix(f"{package}."), alias.name)
            for node in ast.parse((ROOT / package / name).read_text(encoding="utf-8")).body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }

    reference, kernels = imports("reference_impl"), imports("kernels")
    assert not reference - kernels
    assert kernels - reference <= {
        ("_device", "beside"), ("kernels", "_moe_check"), ("topk_gate", "choose"),
    }  # fmt: skip

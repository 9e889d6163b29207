"""What the project says of itself is so: commands, sessions, pins, licence, workflows."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness import _tables, doctor, wheelhouse

ROOT = Path(__file__).resolve().parents[1]
OURS = ("benchmarks", "gate", "harness", "kernels", "reference_impl", "tests")
SOURCES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "results" / "README.md"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NOXFILE = ROOT / "noxfile.py"
LINES = 400
SETUP = "python -m pip install nox && python -m nox -s "


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def sessions() -> dict[str, str]:
    """Docstrings of the noxfile's sessions, by name; nox itself need not be installed."""
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.parse(read(NOXFILE)).body
        if isinstance(node, ast.FunctionDef)
        and any("nox.session" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


def constant(variable: str) -> Any:
    """Value of a constant of the noxfile."""
    for node in ast.parse(read(NOXFILE)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == variable:
            return ast.literal_eval(node.value)
    raise KeyError(variable)


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads(read(ROOT / "pyproject.toml"))


@cache
def pins() -> dict[str, str]:
    """Requirements of all groups, by the name of the package."""
    pytest.importorskip("packaging")
    groups = wheelhouse.pinned(ROOT / "pyproject.toml")
    return {package: line for lines in groups.values() for package, line in lines.items()}


def imports(path: Path) -> set[str]:
    """Top names of all that a file imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_two_commands_are_what_is_run() -> None:
    """What a newcomer types is what CI runs, so that it cannot rot."""
    lines = [line.strip() for line in read(ROOT / "README.md").splitlines()]
    assert [line for line in lines if line.startswith("python -m pip install nox")] == [
        f"{SETUP}bench", f"{SETUP}tests",
    ]  # fmt: skip
    assert f"{SETUP}tests || exit" in read(ROOT / ".ci" / "run").splitlines()
    workflow = read(ROOT / ".github" / "workflows" / "ci.yml")
    assert f"- run: {SETUP}bench\n" in workflow
    assert "- run: .ci/run\n" in workflow


def test_ci_can_be_run() -> None:
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & 0o111 == 0o111
    assert read(path).splitlines()[0] == "#!/usr/bin/env bash"


def test_the_menu_has_a_line_for_each_session() -> None:
    assert {"tests", "time", "bench", "serve", "codegen", "report", "lint", "types"} <= set(
        sessions()
    )
    for session, text in sessions().items():
        assert text, f"{session} has no docstring"
        assert "\n" not in text, f"{session}'s docstring has more than a line"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_session_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"nox(?: --?[\w-]+)*? -s ((?:\w+ )*\w+)", read(page))
    assert {word for words in named for word in words.split()} <= set(sessions())


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_session_that_a_message_names_exists(path: Path) -> None:
    if path.name == Path(__file__).name:
        return
    assert set(re.findall(r"nox -s (\w+)", read(path))) <= set(sessions())


@pytest.mark.parametrize("path", [*PAGES, *WORKFLOWS, NOXFILE, *SOURCES], ids=name)
def test_every_command_that_is_named_exists(path: Path) -> None:
    text = read(path).replace('"-m", "', "-m ")
    for module in re.findall(r"-m ((?:gate|harness|benchmarks)\.[a-z_]+)", text):
        assert importlib.util.find_spec(module), f"{name(path)} names {module}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", read(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"


def test_readme_holds_every_table_once() -> None:
    marks = re.findall(r"<!-- table: ([\w-]+) -->", read(ROOT / "README.md"))
    assert sorted(marks) == sorted(_tables.blocks([], Path("docs/roofline.svg")))


def test_what_is_imported_is_installed_by_a_group() -> None:
    known = {*sys.stdlib_module_names, *OURS, "_pytest"}
    foreign = set().union(*map(imports, SOURCES)) - known
    packages = {module: doctor.NEEDS[module].distribution for module in foreign & set(doctor.NEEDS)}
    assert foreign == set(packages), "harness.doctor does not know these"
    # Whoever runs nox has nox.
    assert set(packages.values()) - {"nox"} <= set(pins())


def test_the_doctor_asks_for_nothing_that_is_not_used() -> None:
    installed = {need.distribution for need in doctor.NEEDS.values()}
    assert installed - {"nox"} <= set(pins())


def test_asv_is_pinned_to_the_version_whose_pages_are_patched() -> None:
    pinned = re.fullmatch(r"asv==([\d.]+)", pins()["asv"])
    assert pinned, "asv's pages are patched by exact text"
    if doctor.has("asv") and ".nox" in sys.prefix:
        assert importlib.metadata.version("asv") == pinned[1]


def test_torch_and_triton_are_a_pair() -> None:
    """The pinned Triton is the one that the pinned torch asks for."""
    torch = re.fullmatch(r"torch==([\d.]+)", pins()["torch"])
    triton = re.match(r"triton==([\d.]+)", pins()["triton"])
    assert torch
    assert triton
    if not doctor.has("torch") or doctor.version("torch").split("+")[0] != torch[1]:
        pytest.skip(f"torch {torch[1]} is not installed")
    asked = [line for line in importlib.metadata.requires("torch") or [] if "triton" in line]
    assert all(triton[1] in line for line in asked if line.startswith("triton")), asked


def test_versions_agree() -> None:
    """What the doctor calls tested is what nox tests, and what CI runs."""
    pythons, tritons = constant("PYTHONS"), constant("TRITONS")
    assert tuple(pythons) == doctor.TESTED
    bounds = [tuple(map(int, text.split(".")[:2])) for text in (tritons[0], tritons[-1])]
    assert tuple(bounds) == doctor.TRITON
    assert f"python: {json.dumps(pythons)}" in read(ROOT / ".github" / "workflows" / "ci.yml")
    assert pyproject()["project"]["requires-python"] == f">={pythons[0]}"
    assert f"triton=={tritons[1]}" in pins()["triton"]


def test_the_licence_is_mit() -> None:
    text = read(ROOT / "LICENSE")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 ")
    assert "Permission is hereby granted, free of charge" in text
    assert 'PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND' in text
    assert pyproject()["project"]["license"] == "MIT"
    assert json.loads(read(ROOT / "package.json"))["license"] == "MIT"


@pytest.mark.parametrize("path", [NOXFILE, *SOURCES], ids=name)
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(read(path).splitlines()) <= LINES


def test_actions_are_pinned_to_commits() -> None:
    """By hash, with the version beside it; one action has one version everywhere."""
    found: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for line in re.findall(r"uses: *(.*)", read(path)):
            pinned = re.fullmatch(r"([\w./-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", line)
            assert pinned, f"{path.name}: {line}"
            found.setdefault(pinned[1], set()).add(pinned[2])
    assert found
    assert all(len(versions) == 1 for versions in found.values()), found


@pytest.mark.parametrize("path", WORKFLOWS, ids=name)
def test_jobs_have_no_right_that_they_do_not_name(path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(read(path))
    assert workflow["permissions"] == {}
    for title, job in workflow["jobs"].items():
        assert "permissions" in job, title
        assert job["timeout-minutes"], title
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), f"{title}: an expression in a shell line"
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, title


def test_the_nightly_runner_measures_nothing_but_main() -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(read(ROOT / ".github" / "workflows" / "nightly.yml"))
    ours = [job for job in workflow["jobs"].values() if "self-hosted" in job["runs-on"]]
    assert ours
    for job in ours:
        assert "github.ref == 'refs/heads/main'" in job["if"]
        assert job["permissions"] == {"contents": "read"}
    # YAML reads the key `on` as true.
    assert set(workflow[True]) == {"schedule", "workflow_dispatch"}

"""A box without a network gets every wheel it lacks, and a sentence about each package it lacks."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("packaging", reason="the wheelhouse needs packaging")

from harness import doctor, wheelhouse

ROOT = Path(__file__).resolve().parents[1]
# An interpreter that lacks packages: whatever asks for them is told they are not there.
BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def wheel(
    folder: Path, name: str, *requires: str, tag: str = "py3-none-any", version: str = "1.0"
) -> None:
    """Write a wheel with nothing in it but its metadata."""
    folder.mkdir(exist_ok=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see; without pip the test is skipped."""
    if not doctor.has("pip"):
        pytest.skip("pip is not installed")
    folder = tmp_path / "index"
    for name in wheelhouse.BASE:
        wheel(folder, name)
    for variable, value in (
        ("NO_INDEX", "1"),
        ("FIND_LINKS", str(folder)),
        ("CONFIG_FILE", "/dev/null"),
    ):
        monkeypatch.setenv(f"PIP_{variable}", value)
    monkeypatch.setattr(wheelhouse, "PYPROJECT", tmp_path / "pyproject.toml")
    return folder


def names(folder: Path) -> list[str]:
    """Packages that the folder lists for installation, which are also the wheels it holds."""
    lines = (folder / wheelhouse.PINS).read_text().splitlines()[1:]
    held = sorted(wheelhouse.read_wheel(path).name for path in folder.glob("*.whl"))
    assert held == [line.split("==")[0] for line in lines]
    return held


def test_dependencies_come_with_it_but_never_torch(index: Path, tmp_path: Path) -> None:
    """What torch or Triton need stays away as well: the box has it."""
    wheel(index, "asv", "inner>=1", "triton>=3", "torch")
    wheel(index, "inner", "deeper")
    wheel(index, "deeper")
    wheel(index, "triton", "only-triton", version="3.7")
    wheel(index, "torch", "only-torch")
    wheel(index, "only-triton")
    wheel(index, "only-torch")
    out = tmp_path / "out"
    assert wheelhouse.main([str(out)]) == 0
    assert names(out) == sorted([*wheelhouse.BASE, "inner", "deeper"])


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_markers_are_the_targets(index: Path, tmp_path: Path, python: str) -> None:
    """pip reads them for the Python it runs on, which is not two of these."""
    wheel(
        index, "nox", "older; python_version<'3.12'", "newer; python_version>='3.12'", "third[fast]"
    )
    wheel(index, "rich", "elsewhere; sys_platform!='linux'", "unasked; extra=='more'")
    wheel(index, "third", "fastest; extra=='fast' and sys_platform=='linux'")
    for name in ("older", "newer", "elsewhere", "unasked", "fastest"):
        wheel(index, name)
    out = tmp_path / "out"
    wheelhouse.main([str(out), "--python", python])
    age = "older" if python == "3.11" else "newer"
    assert names(out) == sorted([*wheelhouse.BASE, age, "third", "fastest"])


def test_wheels_are_for_the_targets_python_and_linux(index: Path, tmp_path: Path) -> None:
    for tag in ("cp310-cp310-manylinux2014_x86_64", "cp312-cp312-win_amd64"):
        wheel(index, "hypothesis", tag=tag, version="3.0")
    for tag in ("cp312-cp312-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_28_x86_64"):
        wheel(index, "hypothesis", tag=tag, version="2.0")
    out = tmp_path / "out"
    wheelhouse.main([str(out), "--python", "3.12"])
    (found,) = out.glob("hypothesis*")
    assert found.name == "hypothesis-2.0-cp312-cp312-manylinux_2_28_x86_64.whl"


def test_pins_groups_and_what_the_box_has(index: Path, tmp_path: Path) -> None:
    wheelhouse.PYPROJECT.write_text(
        '[dependency-groups]\ntests = ["pytest==1.0", "Extra_One", {include-group = "lint"}]\n'
        'lint = ["ruff==1"]\nreport = ["pandas==1.0", "tables"]\n'
    )
    wheel(index, "pytest", version="2.0")
    for name in ("extra-one", "tables", *wheelhouse.REPORTS):
        wheel(index, name)
    wheel(index, "pandas", version="2.0")
    out = tmp_path / "out"
    wheelhouse.main([str(out), "--have", "nox", "Rich"])
    assert names(out) == sorted({*wheelhouse.BASE, "extra-one"} - {"nox", "rich"})
    assert "pytest==1.0" in (out / wheelhouse.PINS).read_text()
    wheelhouse.main([str(out), "--reports"])
    assert names(out) == sorted({*wheelhouse.BASE, "extra-one", "tables", *wheelhouse.REPORTS})
    assert "pandas==1.0" in (out / wheelhouse.PINS).read_text()


def test_the_printed_command_installs_it(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even though asv here wants a Triton that is nowhere to be found."""
    wheel(index, "asv", "triton")
    wheel(index, "triton")
    out, target = tmp_path / "out", tmp_path / "target"
    wheelhouse.main([str(out)])
    monkeypatch.delenv("PIP_FIND_LINKS")
    said = capsys.readouterr().out.splitlines()
    assert f"{len(wheelhouse.BASE)} wheels" in said[0]
    (command,) = [line.split() for line in said if "pip install" in line]
    subprocess.run([sys.executable, *command[1:], "--quiet", "--target", str(target)], check=True)
    assert (target / "asv-1.0.dist-info").is_dir()


def test_a_folder_of_something_else_is_left_alone(index: Path, tmp_path: Path) -> None:
    del index
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious-1.0-py3-none-any.whl").write_text("precious")
    with pytest.raises(SystemExit, match="not a wheelhouse"):
        wheelhouse.main([str(tmp_path / "mine")])
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["precious"]


def test_what_cannot_be_had_is_a_sentence(index: Path, tmp_path: Path) -> None:
    next(index.glob("rich-*")).unlink()
    with pytest.raises(SystemExit, match=r"pip could not download the wheels:\n(.*\n)*.*rich"):
        wheelhouse.main([str(tmp_path / "out")])


def python(code: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter to which some packages do not exist."""
    text = BLOCK.format(names=set(blocked)) + code
    command = [sys.executable, "-c", text]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


DOCTOR = "from harness import doctor; sys.exit(doctor.main([]))"


def test_the_doctor_names_what_is_missing_one_by_one() -> None:
    done = python(DOCTOR, "triton", "pynvml", "pandas", "asv")
    assert done.returncode == 1
    assert done.stderr == ""
    said = done.stdout.splitlines()
    for name, purpose in (
        ("triton", "the kernels"), ("nvidia-ml-py", "seeing the GPU"),
        ("pandas", "the report"), ("asv", "recording commits"),
    ):  # fmt: skip
        assert (
            sum(line.startswith(f"{name} is missing: needed for {purpose}") for line in said) == 1
        )
    assert "sweep: cannot run, see above" in said
    assert "report: waits for pandas" in said
    assert any(line.startswith("tests: waits for triton") for line in said)


def test_the_doctor_needs_the_standard_library_only() -> None:
    """All that is not of it is blocked; -S also leaves site-packages out."""
    code = "import sys; sys.path.insert(0, '.'); " + DOCTOR
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "torch is missing: needed for the reference" in done.stdout
    assert "nvcc: not needed" in done.stdout


def test_what_the_sweep_does_without_does_not_stop_it() -> None:
    done = python(DOCTOR, "pandas", "matplotlib", "scipy", "nox", "hypothesis", "rich")
    assert "sweep: works" in done.stdout, done.stdout
    assert done.returncode == 0


def test_require_names_packages_as_pip_knows_them() -> None:
    code = "from harness import doctor; doctor.require(['pynvml', 'json', 'pandas'], 'the report')"
    done = python(code, "pynvml", "pandas")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the report needs what" in done.stderr
    assert "  nvidia-ml-py: for seeing the GPU" in done.stderr
    assert "  pandas: for the report" in done.stderr
    assert "pip install nvidia-ml-py pandas\n" in done.stderr
    assert "json" not in done.stderr
    doctor.require(["json"], "nothing")


@pytest.mark.parametrize(
    ("triton", "numpy", "said"),
    [
        ("3.5.1", "2.3.0", "3.6 to 3.9"), ("3.6.0", "2.3.9", ""), ("3.6.0", "2.4.0", "numpy < 2.4"),
        ("3.9.0", "2.4.0", ""), ("3.10.0", "2.4.0", "3.6 to 3.9"), ("", "2.4.0", ""),
    ],
)  # fmt: skip
def test_the_triton_that_works(
    monkeypatch: pytest.MonkeyPatch, triton: str, numpy: str, said: str
) -> None:
    monkeypatch.setattr(doctor, "version", {"triton": triton, "numpy": numpy}.__getitem__)
    problems = doctor.triton_problems()
    assert len(problems) == bool(said)
    assert said in "".join(problems)


@pytest.mark.parametrize(
    ("capability", "cuda", "said", "blocked"),
    [
        ("9.0", None, "NVIDIA X", False),
        ("9.0", "no CUDA", "NVIDIA X", True),
        ("8.9", None, "not timed", False),
    ],
)
def test_the_card(
    monkeypatch: pytest.MonkeyPatch, capability: str, cuda: str | None, said: str, blocked: bool
) -> None:
    from benchmarks import fingerprint

    card = {"name": "NVIDIA X", "driver": "580", "capability": capability}
    monkeypatch.setattr(fingerprint, "gpu", lambda: card)
    monkeypatch.setattr(doctor, "_cuda", lambda: cuda)
    text, problem = doctor.card()
    assert said in text
    assert (problem is not None) == blocked


@pytest.mark.parametrize(("named", "blocked"), [(True, False), (False, True)])
def test_a_driver_that_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: bool, blocked: bool
) -> None:
    """Without nvidia-ml-py a GPU box would be swept as a laptop: that is no success."""
    from benchmarks import fingerprint

    monkeypatch.setattr(fingerprint, "gpu", dict)
    monkeypatch.setattr(doctor, "DRIVER", (tmp_path,))
    monkeypatch.setattr(doctor, "has", lambda _: named)
    assert (doctor.card()[1] is not None) == blocked

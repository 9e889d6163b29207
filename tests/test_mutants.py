"""The list of planted faults fits the code, and the command that plants them tells the killed from
the survivors.  Whether all are killed is the command's to say: docs/mutants.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import cases
from gate import _faults, _mutants_page, mutants
from gate._faults import Fault, NotApplicableError
from tests.conftest import HOPPER

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
FAULTS = _faults.load()
SOUND = Fault(
    operator="act_quant", name="a", file="kernels/act_quant.py", old="ROWS = 16", new="ROWS = 8",
    models="m", operators=("act_quant",), tests=(), reference_tests=(),
)  # fmt: skip


def changed(**fields: Any) -> Fault:
    return Fault(**(vars(SOUND) | fields))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_every_fault_applies(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    assert fault.applied(text) != text
    assert fault.models


def functions(path: str) -> set[str]:
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_every_named_test_exists() -> None:
    for named in sorted({test for fault in FAULTS for test in fault.tests + fault.reference_tests}):
        path, _, test = named.partition("::")
        assert not test or test in functions(path), named


def test_the_list_covers_every_operator() -> None:
    """Some in each kernel and in each reference, of which a shared file's stand for the operator's."""
    assert len({fault.id for fault in FAULTS}) == len(FAULTS) >= 100
    sides = Counter(
        (stem, fault.of_reference)
        for fault in FAULTS
        for stem in {fault.operator, *fault.operators}
    )
    for stem in cases.names():
        assert sides[stem, False] >= 5, stem
        assert sides[stem, True] >= 1, stem
    for fault in FAULTS:
        assert fault.reference_tests or not fault.of_reference, fault.id
        blind = fault.blind or fault.blind_on_cpu or fault.blind_on_gpu
        assert fault.of_reference or not blind, fault.id
        assert fault.sides(gpu=False) or fault.sides(gpu=True), fault.id


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (
            {"old": "ROWS = 17"},
            "expected its old text once in kernels/act_quant.py, got it 0 times",
        ),
        ({"old": "ROWS"}, r"expected its old text once .* got it \d+ times"),
        ({"new": "ROWS = ("}, "its new text is no Python"),
        ({"new": "ROWS =  16  # more"}, "its new text means the same"),
    ],
)
def test_a_list_that_went_apart_is_refused(bad: dict[str, str], said: str) -> None:
    text = (ROOT / SOUND.file).read_text(encoding="utf-8")
    assert "ROWS = 8" in SOUND.applied(text)
    with pytest.raises(NotApplicableError, match=f"^act_quant/a: {said}"):
        changed(**bad).applied(text)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('name = "a"', r"X\.toml: a: .*missing"),
        ('name = "a"\ncolour = "red"', r"X\.toml: a: .*colour"),
        ('name="a"\nfile="tests/x.py"\nold="a"\nnew="b"\nmodels="m"', "X/a: expected a file of"),
    ],
)
def test_a_table_that_says_too_little_or_too_much(
    row: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_faults, "FOLDER", tmp_path)
    (tmp_path / "X.toml").write_text(f"[[fault]]\n{row}\n", encoding="utf-8")
    with pytest.raises(NotApplicableError, match=said):
        _faults.load()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gate.mutants", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.cpu
@pytest.mark.long
def test_a_sample_is_killed() -> None:
    done = run("--sample", "10", "--seed", "1", "-j", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("10 trials in ")
    assert done.stdout.splitlines()[-1].endswith(": 10 killed")


@pytest.mark.long
@pytest.mark.cpu
def test_survivors_timeouts_and_broken_trials_are_told_apart(tmp_path: Path) -> None:
    """Nothing that matters, a loop without end, an import of what is not there, and a real fault."""
    zero = ("act_quant[m=0,",)
    faults = {
        "survived": changed(new="ROWS = 8", only=zero[0]),
        "wrong": changed(old="import triton\n", new="import tritone as triton\n"),
        "killed": changed(old="if m and k:", new="if not m and k:", only="act_quant[m=1,"),
        "timeout": changed(
            old="    if m and k:\n", new="    while not m:\n        pass\n    if m and k:\n", only=zero[0]
        ),
    }  # fmt: skip
    program = (
        "import sys; from pathlib import Path; from gate import mutants; from gate._faults import Fault\n"
        f"faults = {[vars(fault) for fault in faults.values()]!r}\n"
        "runner = mutants.Runner(Path(sys.argv[1]), 2, False); runner.seconds = 3\n"
        "mutants._warm(runner.trees[0], False)\n"
        "for v in runner.run(mutants.trials([Fault(**f) for f in faults], False)):\n"
        "    print(v.word, v.killer)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    words = {line.split()[0]: line.partition(" ")[2] for line in done.stdout.splitlines()}
    assert sorted(words) == sorted(faults), done.stdout + done.stderr
    assert words["killed"].startswith("tests/test_ops.py::test_parity[act_quant[m=1,")


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.main(["--list", "wgmma"]) == 0
    assert "wgmma/last-channel-left-out" in capsys.readouterr().out
    assert mutants.main(["no-such-fault"]) == 2
    assert "got 'no-such-fault'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as raised:
        mutants.main(["--sample", "-1"])
    assert raised.value.code == 2


@pytest.mark.skipif(HOPPER, reason="this machine has a Hopper GPU")
def test_without_a_gpu() -> None:
    done = run("--gpu", "wgmma")
    assert (done.returncode, done.stdout) == (3, "")


def page(words: Sequence[str], before: str = "", took: str = "") -> str:
    faults = [changed(name=str(number)) for number in range(3)]
    found = [
        mutants.Verdict(mutants.Trial(fault, "tests"), word, "tests/t.py::a[x|y]", "", 0.0)
        for fault, word in zip(faults, words, strict=False)
    ]
    return _mutants_page.page(
        found, [*faults, changed(name="g", gpu="a race")], False, before, took
    )


def test_the_page() -> None:
    whole = page(["killed", "survived", "killed"])
    assert "Of 3 faults 2 were killed" in whole
    assert "1 more can be found only on one" in whole
    assert "| `act_quant/0` | m | `t.py::a[x\\|y]` |" in whole
    assert "| `act_quant/g` | m | not here: a race |" in whole
    assert page(["killed", "killed"], whole).count("t.py::a") == 3  # the third row is kept
    assert "have not been tried" not in whole
    part = page(["killed", "survived"])
    assert "| `act_quant/2` | m | not tried |" in part
    assert "Of 3 faults 2 were tried without a GPU" in part
    assert ", and 1 of these killed; 1 have not been tried. 1 more" in part


def test_who_is_alive() -> None:
    for cell in ("survived", "not tried", "own: timeout", "parity: `t.py::a`<br>own: wrong"):
        assert _mutants_page.alive(cell)
    for cell in ("`t.py::a_wrong_bit` (hangs)", "parity: `t.py::a`<br>own: `t.py::survived`"):
        assert not _mutants_page.alive(cell)


def test_the_page_says_how_long_the_whole_list_took() -> None:
    """A run of part of it keeps what a whole one said."""
    said = _mutants_page.took(5, 93.0, 2)
    assert said == (
        "The last run of the whole list, 5 trials, took 1.6 minutes of wall time, 2 at a time."
    )
    whole = page(["killed"] * 3, page(["killed"] * 3), said)
    assert f"\n{said}\n" in whole
    assert page(["killed"], whole).count(said) == 1
    assert _mutants_page.UNTIMED in page(["killed"] * 3)


@pytest.mark.parametrize(("name", "gpu"), [("mutants.md", False), ("mutants-hopper.md", True)])
def test_the_head_of_a_page_counts_its_rows(name: str, gpu: bool) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    where = re.findall(r"^Of \d+ faults .*?\((.*?)\)", text, re.MULTILINE)[0]
    rows = [*_mutants_page._rows(text).values()]
    assert f"\n{_mutants_page.counted(rows, gpu, where)}\n" in text
    assert len(_mutants_page.TOOK.findall(text)) == 1


def test_the_page_is_of_this_list() -> None:
    text = (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8")
    rows = _mutants_page._rows(text)
    assert list(rows) == [fault.id for fault in FAULTS]
    for fault in FAULTS:
        assert rows[fault.id].startswith(
            f"| `{fault.id}` | {fault.models.replace('|', chr(92) + '|')} |"
        )
    assert not any(
        _mutants_page.alive(row.removesuffix(" |").rsplit(" | ", 1)[1]) for row in rows.values()
    )

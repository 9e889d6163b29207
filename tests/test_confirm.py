"""From a suspicion to the gate's answer, on a small repository with a gate that says what it is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import cases, fingerprint
from harness import _page, _page_marks
from harness._logs import load
from tests._nights import CASE, MACHINE, OPERATOR, STEADY, Night, Project, row, scaled, whole

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("scipy", reason="the gate needs scipy")
pytest.importorskip("rich", reason="the gate needs rich")
OTHER = next(case.label for case in cases.load("wgmma").CASES if case.bench)
BOTH = (row("same"), row("same", "launch_us"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv(fingerprint.MACHINE_VARIABLE, MACHINE)
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    return Project(root)


@pytest.fixture
def quiet(project: Project) -> Project:
    """The baseline and HEAD were measured, and cost the same."""
    project.baseline(project.base)
    for commit in (project.base, project.head):
        whole(project.log(commit, **fingerprint.fingerprint()))
    return project


@pytest.fixture
def night(project: Project) -> Night:
    """HEAD seems to take half as long again, and its launch twice as long."""
    project.baseline(project.base)
    facts = fingerprint.fingerprint()
    whole(project.log(project.base, **facts).put("device_us", STEADY).put("launch_us", STEADY))
    head = project.log(project.head, **facts).put("device_us", scaled(1.5))
    whole(head.put("launch_us", scaled(2.0)))
    return Night(project)


def test_only_what_is_suspicious_is_measured_again(night: Night) -> None:
    """And nothing inconclusive is allowed among that; the raw log is kept with the results."""
    night.says(0, *BOTH)
    assert night.project.call("confirm", "--blocks", "3") == 0
    asked = night.asked()
    base, head = night.project.base, night.project.head
    assert asked[:7] == ["compare", base, head, OPERATOR, CASE, "--allow-inconclusive", "0"]
    assert asked[asked.index("--blocks") + 1] == "3"
    log = f"results/{MACHINE}/gate/{base[:12]}-{head[:12]}.jsonl"
    assert asked[asked.index("--log") + 1] == log


def test_without_a_suspicion_the_gate_is_not_asked(quiet: Project) -> None:
    night = Night(quiet)
    assert quiet.call("confirm") == 0
    assert not (quiet.root / "asked").exists()
    assert night.issues() == []
    assert quiet.call("advance") == 0
    assert night.baseline() == quiet.head


@pytest.mark.parametrize(
    ("verdict", "code", "words"),
    [
        ("same", 0, "did not confirm the screen's suspicion**; the baseline advances"),
        ("regressed", 10, "confirmed a regression**; the baseline stays"),
        ("inconclusive", 11, "could not settle it: inconclusive**; the baseline stays"),
        ("same", 12, "measured nothing that answers it**; the baseline stays"),
        ("same", 1, "is **broken**; the baseline stays"),
    ],
)
def test_the_gates_exit_code_decides(
    night: Night, verdict: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    night.says(code, row(verdict), row("same", "launch_us"))
    assert night.project.call("confirm") == code
    capsys.readouterr()
    issues = night.issues()
    body = capsys.readouterr().out
    assert words in body
    assert "| the gate's table |" in body
    assert night.project.base in body
    assert night.project.head in body
    title = f"{OPERATOR}: device_us regressed on {MACHINE}"
    assert [one["title"] for one in issues if one["new"]] == ([title] if code == 10 else [])
    assert bool(issues) == (code in (0, 10, 11)), (
        "what is broken or measured nothing is no regression"
    )
    assert night.project.call("advance") == code
    assert night.baseline() == (night.project.head if code == 0 else night.project.base)


@pytest.mark.parametrize("code", [2, 130, 77])
def test_any_other_exit_code_is_broken(night: Night, code: int) -> None:
    night.says(code, *BOTH)
    assert night.project.call("confirm") == 1
    assert night.project.call("advance") == 1


@pytest.mark.parametrize("code", [0, 10])
@pytest.mark.parametrize(
    "more", [{"code": 77}, {"head": "f" * 40}, {"base": "f" * 40}], ids=lambda more: next(iter(more))
)  # fmt: skip
def test_verdicts_that_do_not_fit_the_exit_code_are_broken(
    night: Night, code: int, more: dict[str, Any]
) -> None:
    night.says(code, row("regressed"), row("same", "launch_us"), **more)
    assert night.project.call("confirm") == 1
    assert night.issues() == []
    assert not (night.project.results / "verdicts.json").exists()


def test_a_gate_that_leaves_no_verdicts_is_broken(night: Night) -> None:
    """Not even with those of a night before, which lie where it should have left its own."""
    night.says(0, *BOTH)
    assert night.project.call("confirm") == 0
    (night.project.root / "says").write_text(json.dumps({"code": 0, "told": None}))
    assert night.project.call("confirm") == 1
    (night.project.root / "gate/__main__.py").write_text("import os\nos.kill(os.getpid(), 9)")
    assert night.project.call("confirm") == 1
    assert night.project.call("advance") == 1


def test_what_the_gate_did_not_measure_is_not_refuted(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    night.says(0, row("same"))
    assert night.project.call("confirm") == 12
    assert f"not measured: {OPERATOR} {CASE} launch_us" in capsys.readouterr().out
    assert night.project.call("advance") == 12
    night.says(0, row("same", implementation="reference"), row("same", "launch_us"))
    assert night.project.call("confirm") == 12


def test_a_case_that_the_table_no_longer_times_is_not_asked_about(quiet: Project) -> None:
    """With nothing left to ask, the gate would compare everything."""
    for commit, factor in ((quiet.base, 1.0), (quiet.head, 2.0)):
        log = quiet.log(commit, **fingerprint.fingerprint())
        log.put("device_us", scaled(factor), case="m=3")
    Night(quiet).says(0)
    assert quiet.call("confirm") == 12
    assert not (quiet.root / "asked").exists()


def test_a_launch_that_takes_longer_gates_nothing(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    night.says(0, row("same"), row("regressed", "launch_us"))
    assert night.project.call("confirm") == 0
    assert not any(one["new"] for one in night.issues())
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("|") and "launch_us" in line]
    assert line.endswith("| 2.000 | (regressed) |")


def test_an_issue_for_each_operator_and_metric(night: Night) -> None:
    """Those of the gate alone, too; each has the whole table and the suspicions of its own."""
    wgmma = row("regressed", "peak_bytes", operator="wgmma", case=OTHER)
    night.says(10, row("regressed"), row("same", "launch_us"), wgmma)
    assert night.project.call("confirm") == 10
    held = {one["title"].removesuffix(f" regressed on {MACHINE}"): one for one in night.issues()}
    assert {name: one["new"] for name, one in held.items()} == {
        f"{OPERATOR}: device_us": True, f"{OPERATOR}: launch_us": False, "wgmma: peak_bytes": True,
    }  # fmt: skip
    assert all("| the gate's table |" in one["body"] for one in held.values())
    own = held[f"{OPERATOR}: device_us"]["body"]
    assert "| 1.500 | regressed |" in own
    assert "launch_us" not in own
    assert "@" not in own


@pytest.mark.parametrize(
    ("repository", "server", "address"),
    [
        ("Owner/fp8", "https://github.com", "https://owner.github.io/fp8/"),
        ("owner/Owner.github.io", None, "https://owner.github.io/"),
        ("owner/fp8", "https://github.example.org", None),
        ("owner", None, None),
        ("owner/fp8) or [this", None, None),
        (None, None, None),
    ],
)
def test_the_text_leads_to_the_pages(
    night: Night, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    repository: str | None, server: str | None, address: str | None,
) -> None:  # fmt: skip
    for name, value in (("REPOSITORY", repository), ("SERVER_URL", server)):
        if value is not None:
            monkeypatch.setenv(f"GITHUB_{name}", value)
    night.issues()
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if "github" in line or "http" in line]
    assert found == ([f"Its history: {address}"] if address else [])


def test_what_the_gate_said_another_night_is_no_answer(night: Night) -> None:
    night.says(0, *BOTH)
    assert night.project.call("confirm") == 0
    held = json.loads(night.answer.read_text())
    night.answer.write_text(json.dumps(held | {"baseline": night.project.middle}))
    assert night.project.call("advance") == 10, "a suspicion, and nobody looked"
    (night.project.root / "says").unlink()
    assert night.project.call("confirm") == 1


def test_production_shapes_that_differ_are_broken(night: Night) -> None:
    """Whatever the gate says, or said: it is not asked, and nothing advances."""
    night.says(0, *BOTH)
    assert night.project.call("confirm") == 0
    assert night.project.call("advance", "--exact", "failure") == 1
    (night.project.root / "asked").unlink()
    assert night.project.call("confirm", "--exact", "failure") == 1
    assert not (night.project.root / "asked").exists()
    assert night.issues("--exact", "failure") == []
    assert night.baseline() == night.project.base


def test_another_machines_suspicion_cannot_be_confirmed_here(
    night: Night, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(fingerprint.MACHINE_VARIABLE, "box-elsewhere")
    assert night.project.call("confirm") == 1
    assert "this machine is not" in capsys.readouterr().err


def test_the_marks_appear_on_the_page(night: Night) -> None:
    """Of what gates: changes, and what was asked; the reference's times are on no curve."""
    kept = {"commit": "c" * 40, "text": "a person's"}
    old = {"commit": night.project.head, "machine": MACHINE, "operator": OPERATOR, "case": CASE}
    verdicts = night.project.results / "verdicts.json"
    verdicts.write_text(json.dumps([kept, old | {"metric": "device_us", "verdict": "same"}]))
    night.says(
        10, row("regressed"), row("regressed", "launch_us"), row("same", "max_error"),
        row("improved", "peak_bytes", base=200.0, head=100.0, change=None),
        row("changed", "registers", gates=False), row("improved", implementation="reference"),
    )  # fmt: skip
    assert night.project.call("confirm") == 10
    said: list[str] = []
    marks = _page_marks.load(night.project.results, said.append)
    assert said == []
    base, about = night.project.base[:12], old | {"commit": night.project.head[:12]}
    first = {
        "metric": "device_us",
        "verdict": "regressed",
        "text": f"the gate, against {base}: +50.00 %",
    }
    second = {
        "metric": "peak_bytes",
        "verdict": "improved",
        "text": f"the gate, against {base}: 200 to 100",
    }
    assert marks == [kept | {"commit": "c" * 12}, about | first, about | second]
    logs = load(night.project.results, said.append)
    assert f"against {base}: +50.00 %" in _page.html(logs, marks, {})


@pytest.mark.parametrize("content", ["{", '{"other": []}', "[7]"])
def test_a_file_of_verdicts_that_is_none_is_broken_and_stays(night: Night, content: str) -> None:
    night.says(0, *BOTH)
    assert night.project.call("confirm") == 0
    path = night.project.results / "verdicts.json"
    path.write_text(content)
    night.says(10, row("regressed"), row("same", "launch_us"))
    assert night.project.call("confirm") == 1
    assert path.read_text() == content
    assert night.project.call("advance") == 10, "the answer of before was forgotten"

"""What the exact check and the sanitizers found is kept, commit by commit, and shown on docs/exact.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import fingerprint
from benchmarks.cases.act_quant import ActQuant
from harness import _evidence, _problem, doctor, exact, sanitize

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = ("a" * 40, "2026-01-01T00:00:00+00:00")


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hopper GPU, and a tree that is a commit."""
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    monkeypatch.setattr(doctor, "require", lambda packages, of: None)
    monkeypatch.setattr(_problem, "commit", lambda named=None: COMMIT)


def cells(page: str, operator: str) -> list[list[str]]:
    """An operator's rows, in the order of the page."""
    rows = [line for line in page.splitlines() if line.startswith(f"| `{operator}` |")]
    return [[cell.strip() for cell in row.strip("|").split("|")][1:] for row in rows]


def checked(case: str, *differing: int, message: str = "") -> dict[str, Any]:
    """A kept row of a case with so many results."""
    return _evidence.exact_row(
        [
            exact.Found("act_quant", case, f"config {number}", 1000, one, message if one else "")
            for number, one in enumerate(differing)
        ],
        1.25,
    )


def kept(path: Path, kind: str, rows: list[dict[str, Any]], *key: str) -> Path:
    """A file as ``--out`` makes it."""
    out = path / "h200" / kind / f"{COMMIT[0]}.json"
    keeper = _evidence.Keeper(out, COMMIT, ("operator", *key))
    for row in rows:
        keeper.add(row)
    return out


def test_the_page_adds_up_what_is_kept(tmp_path: Path) -> None:
    held = [checked("m=1", 0, 0, 0), checked("m=2", 0, 7, 0, message="wrong")]
    path = kept(tmp_path, "exact", held, "case")
    found = [
        sanitize.Finding("memcheck", "act_quant", 0, "", 2.0, 9, 5),
        sanitize.Finding("racecheck", "act_quant", 3, "a race", 2.0, 9, 5),
        sanitize.Finding("synccheck", "act_quant", None, "nothing was printed", 2.0, 9, 5),
    ]
    rows = [_evidence.sanitize_row(one) for one in found]
    verdicts = kept(tmp_path, "sanitize", rows, "tool")
    page = _evidence.text([path], [verdicts])
    assert cells(page, "act_quant") == [
        ["2", "6", "6,000", "7", "1", "2.5"],
        ["5", "clean", "3 errors", "-", "did not finish", "6"],
    ]
    assert page.count("### h200, aaaaaaaaaaaa") == 2
    assert "Nothing is kept" not in page
    assert _evidence.text([], []).count("Nothing is kept yet.") == 2


def test_the_committed_page_is_of_the_committed_files() -> None:
    page = _evidence.text(_evidence.EXACT.files(), _evidence.SANITIZE.files())
    assert (_problem.ROOT / _evidence.EXACT.path).read_text(encoding="utf-8") == page


@pytest.mark.usefixtures("committed")
def test_exact_keeps_each_case_as_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run cut short keeps what it found, and the next one adds to it."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # which main takes away for good
    out, cut = tmp_path / "exact" / "a.json", [True]

    def check(stem: str, case: Any, device: str, *, configs: bool) -> list[exact.Found]:
        del device, configs
        if case.m == 2 and cut[0]:
            raise KeyboardInterrupt
        return [exact.Found(stem, case.label, exact.LAUNCHER, 10, case.m, "")]

    problems = [("act_quant", ActQuant(m=m, k=128)) for m in (1, 2)]
    monkeypatch.setattr(exact, "check", check)
    monkeypatch.setattr(exact, "chosen", lambda operators, part, untimed: problems)
    with pytest.raises(KeyboardInterrupt):
        exact.main(["--out", str(out)])
    held = json.loads(out.read_text())
    assert (held["commit"], held["date"], len(held["rows"])) == (*COMMIT, 1)
    assert held["fingerprint"] == fingerprint.fingerprint()
    cut[0] = False
    problems.pop(0)
    assert exact.main(["--out", str(out)]) == 0
    assert exact.main(["--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["differing"] for row in rows] == [{exact.LAUNCHER: 1}, {exact.LAUNCHER: 2}]
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.usefixtures("committed")
def test_sanitize_keeps_its_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(stem: str, tool: str | None, sanitizer: str) -> sanitize.Finding:
        del sanitizer
        return sanitize.Finding(
            tool or "none", stem, 2 if tool == "racecheck" else 0, "a race", 1.0, 9, 7
        )

    out = tmp_path / "a.json"
    monkeypatch.setattr(sanitize, "run", run)
    monkeypatch.setattr(sanitize, "find", lambda: "sanitizer")
    assert sanitize.main(["act_quant", "--tools", "memcheck,racecheck", "--out", str(out)]) == 1
    rows = json.loads(out.read_text())["rows"]
    assert [(row["tool"], row["verdict"], row["errors"], row["first"]) for row in rows] == [
        ("memcheck", "clean", 0, ""), ("racecheck", "errors", 2, "a race"),
    ]  # fmt: skip
    assert [(row["launches"], row["cases"]) for row in rows] == [(9, 7), (9, 7)]


def test_no_other_commit_or_machine_is_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = kept(tmp_path, "exact", [checked("m=1", 0)])
    with pytest.raises(_problem.UsageError, match=f"is of commit {COMMIT[0]}, expected bbb"):
        _evidence.Keeper(out, ("b" * 40, ""), ("operator",))
    monkeypatch.setattr(_problem, "machine", lambda: "another")
    with pytest.raises(_problem.UsageError, match="expected another"):
        _evidence.Keeper(out, COMMIT, ("operator",))


def test_a_modified_tree_is_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_problem, "_git", lambda *arguments: " M kernels/act_quant.py")
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    for command in (exact, sanitize):
        assert command.main(["act_quant", "--out", str(tmp_path / "a.json")]) == 2
        assert "what is measured is modified" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

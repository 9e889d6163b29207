"""The night's second look: the gate measures again what the screen (harness/_verdict.py) suspects.

``python -m gate compare BASELINE HEAD`` is asked about the suspicious cases alone, with no
inconclusive time allowed, and its exit code decides.  Its raw log is kept beside the machine's others,
in ``results/<machine>/gate/``, so that a later night or person can judge it again (``--no-measure``);
its verdicts go to ``results/verdicts.json`` and, until the night is over, to ``.gate/nightly/``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import _verdicts_file
from harness._verdict import BROKEN, INCONCLUSIVE, NOTHING, OK, REGRESSED, known

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness._verdict import Change, Verdict

FOLDER = Path(".gate") / "nightly"
CODES = (OK, REGRESSED, INCONCLUSIVE, NOTHING)


@dataclass(frozen=True)
class Answer:
    """What came of asking the gate about a baseline and a commit (full hashes).

    why: what is wrong, where anything is.  rows: the gate's verdicts.  report: its Markdown.
    """

    baseline: str
    commit: str
    code: int
    why: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    report: str = ""

    def row(self, change: Change) -> dict[str, Any] | None:
        """The gate's verdict on what the screen suspects, or None."""
        return next((row for row in self.rows if _about(row) == tuple(change.key)), None)

    def regressed(self) -> list[dict[str, Any]]:
        """The rows for which the exit code is 10."""
        return [row for row in self.rows if row["gates"] and row["verdict"] == "regressed"]


def _about(row: dict[str, Any]) -> tuple[str, ...]:
    return row["operator"], row["case"], row["implementation"], row["metric"]


def outcome(verdict: Verdict, answer: Answer | None) -> int:
    """The night's exit code.  A suspicion that the gate was not asked about counts as a regression."""
    if verdict.code != REGRESSED or answer is None:
        return verdict.code
    return answer.code


def filters(suspected: Iterable[Change]) -> list[str]:
    """The gate's command line: operators, each with the labels of its suspicious cases.

    Cases that today's table does not time are left out: the gate refuses them.
    """
    chosen: dict[str, list[str]] = {}
    for operator, case in dict.fromkeys((one.key.operator, one.key.case) for one in suspected):
        if known(operator, case):
            chosen.setdefault(operator, []).append(case)
    return [word for operator, labels in chosen.items() for word in (operator, *labels)]


def confirm(root: Path, results: Path, verdict: Verdict, blocks: int | None) -> Answer:
    """Ask the gate about what the screen suspects.  blocks: None for the gate's own number."""
    assert verdict.baseline, "without a baseline nothing is suspected"
    named = filters(verdict.regressed)
    if not named:
        why = "today's table of cases times none of the suspicious ones"
        return _keep(root, verdict, Answer(verdict.baseline, verdict.commit, NOTHING, why))
    place = _place(root, verdict.machine)
    told, report = place.with_suffix(".gate.json"), place.with_suffix(".gate.md")
    for path in (told, report):
        path.unlink(missing_ok=True)
    log = (
        results / verdict.machine / "gate" / f"{verdict.baseline[:12]}-{verdict.commit[:12]}.jsonl"
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "gate", "compare", verdict.baseline, verdict.commit, *named,
        "--allow-inconclusive", "0", "--log", str(log), "--json", str(told), "--markdown", str(report),
        *(["--blocks", str(blocks)] if blocks is not None else []),
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=root, check=False).returncode
    answer = _answer(verdict, ended, told, report)
    asked = {(one.key.operator, one.key.case, one.key.metric) for one in verdict.regressed}
    judged = {"base": answer.baseline, "head": answer.commit, "rows": answer.rows}
    _verdicts_file.merge(results, _verdicts_file.entries(verdict.machine, judged, asked))
    return _keep(root, verdict, answer)


def _answer(verdict: Verdict, ended: int, told: Path, report: Path) -> Answer:
    """The gate's answer; broken is every way in which it gave none that fits its exit code."""
    assert verdict.baseline
    answer = Answer(verdict.baseline, verdict.commit, BROKEN)
    try:
        held = json.loads(told.read_text(encoding="utf-8"))
        same = (held["base"], held["head"], held["code"]) == (answer.baseline, answer.commit, ended)
        answer = Answer(
            answer.baseline, answer.commit, BROKEN, "", held["rows"] if same else [],
            report.read_text(encoding="utf-8") if same else "",
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if ended not in CODES:
        return _with(answer, BROKEN, f"exit code {ended}")
    if not same:
        return _with(answer, BROKEN, f"exit code {ended}, and no verdicts that fit it")
    open_ = [one for one in verdict.regressed if answer.row(one) is None]
    if ended == OK and open_:
        # It says nothing of these, so they are not refuted.
        names = ", ".join(f"{one.key.operator} {one.key.case} {one.key.metric}" for one in open_)
        return _with(answer, NOTHING, f"not measured: {names}")
    return _with(answer, ended, "")


def _with(answer: Answer, code: int, why: str) -> Answer:
    return Answer(**(vars(answer) | {"code": code, "why": why}))


def _place(root: Path, machine: str) -> Path:
    """Where the machine's answer is kept until the night is over."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{machine}.json"


def _keep(root: Path, verdict: Verdict, answer: Answer) -> Answer:
    text = json.dumps(asdict(answer), indent=1) + "\n"
    _place(root, verdict.machine).write_text(text, encoding="utf-8")
    return answer


def forget(root: Path, machine: str) -> None:
    """Before anything is asked: what an earlier night was told is no answer for this one."""
    _place(root, machine).unlink(missing_ok=True)


def kept(root: Path, verdict: Verdict) -> Answer | None:
    """The answer about these two commits, or None where the gate was not asked."""
    path = _place(root, verdict.machine)
    if not path.is_file():
        return None
    answer = Answer(**json.loads(path.read_text(encoding="utf-8")))
    asked = (answer.baseline, answer.commit) == (verdict.baseline, verdict.commit)
    return answer if asked else None

"""What a night says: to a job's log, to its summary, and to an issue for each regression.

Holds hashes and numbers, and the reasons of failures as code: what a commit's message says is not ours
to post.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import _confirm, _issues
from harness._issues import Issue
from harness._markdown import NONE, markdown
from harness._verdict import BROKEN, INCONCLUSIVE, NOTHING, OK, REGRESSED, WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness._confirm import Answer
    from harness._verdict import Change, Verdict

HEADER = ["operator", "case", "cost", "before", "now", "ratio"]
SHOWN = 40  # rows of a table
MOST = 60_000  # characters of an issue; GitHub takes 65536
SAID = {
    OK: "The gate measured the two commits again and **did not confirm the screen's suspicion**; the "
    "baseline advances.",
    REGRESSED: "The gate measured the two commits again and **confirmed a regression**; the baseline "
    "stays.",
    INCONCLUSIVE: "The gate measured the two commits again and **could not settle it: inconclusive**; "
    "the baseline stays.",
    NOTHING: "The gate was asked and **measured nothing that answers it**; the baseline stays.",
    BROKEN: "The gate was asked and is **broken**; the baseline stays.",
}


def text(verdict: Verdict, answer: Answer | None = None) -> str:
    """For a terminal or a job's log."""
    against = verdict.baseline[:12] if verdict.baseline else "no baseline yet"
    word = WORDS[_confirm.outcome(verdict, answer)]
    lines = [f"{word}: {verdict.commit[:12]} on {verdict.machine}, against {against}"]
    lines += [verdict.nothing] if verdict.nothing else []
    lines.append(
        f"{verdict.compared} costs compared, {len(verdict.regressed)} regressed, "
        f"{len(verdict.improved)} improved, {verdict.throttled} throttled, "
        f"{verdict.same_program} of the same machine code"
    )
    lines += [f"broken: {line}" for line in verdict.broken]
    lines += [f"no longer there: {line}" for line in verdict.dropped]
    for name, changes in (("regressed", verdict.regressed), ("improved", verdict.improved)):
        lines += [f"{name}: {' '.join(_row(change)).replace('`', '')}" for change in changes]
    if answer:
        lines.append(" ".join(said(answer)).replace("**", ""))
    return "\n".join(lines)


def _row(change: Change) -> list[str]:
    (_, old, _), (_, new, _) = change.before, change.now
    ratio = f"{new / old:.3f}" if old else NONE
    boxes = (f"{box[1]:.5g} ({box[0]:.5g} to {box[2]:.5g})" for box in (change.before, change.now))
    named = (
        f"`{change.key.operator}`",
        f"`{change.key.case}`",
        f"{change.key.metric} {change.unit}",
    )
    return [*named, *boxes, ratio]


def said(answer: Answer) -> list[str]:
    """The gate's answer: a sentence, and why where anything is wrong."""
    return [SAID[answer.code], *([f"Because: {answer.why}."] if answer.why else [])]


def body(
    verdict: Verdict,
    commits: Sequence[str],
    answer: Answer | None = None,
    about: tuple[str, str] | None = None,
) -> str:
    """A whole night as Markdown; with ``about``, what it says of an operator and a metric."""
    against = verdict.baseline or "no baseline"
    word = WORDS[_confirm.outcome(verdict, answer)]
    parts = [f"Commit {verdict.commit} on `{verdict.machine}`: **{word}** against {against}."]
    address = _issues.pages()
    parts += [f"Its history: {address}"] if address else []
    if answer:
        parts.append("\n".join(said(answer)))
        parts += [f"### The gate\n\n{answer.report.strip()}"] if answer.report else []
    elif verdict.regressed:
        parts.append("The gate was not asked yet: what follows is a suspicion.")
    parts += _screen(verdict, answer, about)
    if verdict.broken:
        lines = [f"    {line}" for line in verdict.broken[:SHOWN]]
        parts.append("### Broken\n\n" + "\n".join(lines))
    parts.append("Commits since the baseline: " + (", ".join(commits) or "none"))
    parts.append(
        f"On purpose? `python -m harness.nightly advance --commit {verdict.commit} --accept`"
    )
    return "\n\n".join(parts)[:MOST] + "\n"


def _screen(verdict: Verdict, answer: Answer | None, about: tuple[str, str] | None) -> list[str]:
    """What the sweep's two measurements say, a section for each direction."""
    parts = [f"The sweep: {verdict.compared} costs compared; median and quartiles below."]
    suspected = "Suspected" if answer else "Regressed"
    for title, changes in ((suspected, verdict.regressed), ("Improved", verdict.improved)):
        meant = [one for one in changes if about in (None, (one.key.operator, one.key.metric))]
        if not meant:
            continue
        worst = sorted(meant, key=lambda change: change.now[1] / (change.before[1] or 1))
        shown = (worst if title == "Improved" else worst[::-1])[:SHOWN]
        header, rows = HEADER, [_row(change) for change in shown]
        if answer and title == suspected:
            header = [*HEADER, "the gate"]
            rows = [
                [*row, _judged(answer, one)] for row, one in zip(rows, shown, strict=True)
            ]  # fmt: skip
        parts.append(f"### {title}: {len(meant)}\n\n{markdown(header, rows, left=3)}")
    return parts


def _judged(answer: Answer, change: Change) -> str:
    """The gate's verdict on a suspicion, in brackets where no exit code depends on that cost."""
    row = answer.row(change)
    if row is None:
        return NONE
    return str(row["verdict"] if row["gates"] else f"({row['verdict']})")


def issues(verdict: Verdict, commits: Sequence[str], answer: Answer | None) -> list[Issue]:
    """One for each operator and metric that regressed or was suspected to.

    New ones are opened for what the gate calls regressed; the others only say what came out where an
    issue is open from an earlier night.  What is broken or was not measured is no regression.
    """
    if answer is None or _confirm.outcome(verdict, answer) not in (OK, REGRESSED, INCONCLUSIVE):
        return []
    confirmed = {(row["operator"], row["metric"]) for row in answer.regressed()}
    suspected = {(one.key.operator, one.key.metric) for one in verdict.regressed}
    return [
        Issue(
            f"{operator}: {metric} regressed on {verdict.machine}",
            body(verdict, commits, answer, (operator, metric)),
            (operator, metric) in confirmed,
        )
        for operator, metric in sorted(confirmed | suspected)
    ]

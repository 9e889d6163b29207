"""What a command line says about operators, problems and the working tree, and what it cannot mean."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from benchmarks.cases import Case

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = re.compile(r"\d+(,\d+)+")
SHOWN = 8  # candidates and files that a sentence lists before it says how many more there are
MEASURED = ("kernels", "reference_impl", "benchmarks")  # of a commit
WIDTH = 150  # of a table that goes to a file, where nobody's window is 80 columns wide


class UsageError(ValueError):
    """The command line asks for what there is not; the message is a sentence."""


def operator(text: str) -> str:
    """The stem ``text``.  Raises UsageError, with the stems and the nearest of them."""
    stems = cases.names()
    if text in stems:
        return text
    near = difflib.get_close_matches(text, stems, n=1)
    guess = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"operator: expected one of {', '.join(stems)}, got {text!r}{guess}")


def find(stem: str, text: str) -> Case:
    """The one case of operator ``stem`` that ``text`` means: a label, ``M,N,K``, or a part of a label.

    A part is a list of ``field=value`` or values, in any order, or any piece of the label's text.
    Raises UsageError unless exactly one case fits.
    """
    if NUMBERS.fullmatch(text):
        return ad_hoc(stem, [int(number) for number in text.split(",")])
    found = matching(stem, text)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"case: {text!r} fits {len(found)} cases of {stem}: {_listed(_labels(found))}"
        )
    near = difflib.get_close_matches(text, _labels(cases.load(stem).CASES), n=3, cutoff=0.3)
    guess = f"; the nearest: {_listed(near)}" if near else ""
    raise UsageError(f"case: no case of {stem} has {text!r} in its label{guess}")


def matching(stem: str, text: str) -> list[Case]:
    """The cases whose label is ``text``, else those with its fields, else those with it as a piece."""
    everything: list[Case] = list(cases.load(stem).CASES)
    wanted = text.replace(" ", ",").split(",")
    exact = [case for case in everything if case.label == text]
    fields = [case for case in everything if all(part in _spellings(case) for part in wanted)]
    return exact or fields or [case for case in everything if text in case.label]


def _spellings(case: Case) -> set[str]:
    """``field=value`` and bare value of everything the label spells."""
    parts = case.label.split(",")
    return {*parts, *(part.split("=", 1)[1] for part in parts)}


def ad_hoc(stem: str, numbers: Sequence[int]) -> Case:
    """A case of the operator's dataclass with these whole-number fields, all else at its default.

    Raises UsageError when there are more or fewer of them, or when the operator refuses the shape.
    """
    kind: Any = type(cases.load(stem).CASES[0])
    names = axes(stem)
    if len(numbers) != len(names):
        wanted = ",".join(names).upper()
        raise UsageError(f"case: {stem} takes {wanted}, got {len(numbers)} numbers")
    case: Case = kind(**dict(zip(names, numbers, strict=True)))
    refusal = refused(stem, case)
    if refusal:
        raise UsageError(f"case: {stem} refuses {case.label}: {refusal}")
    return case


def spelled(stem: str, case: Case) -> str:
    """What :func:`find` in another process takes for this case."""
    if case in cases.load(stem).CASES:
        return case.label
    return ",".join(str(getattr(case, name)) for name in axes(stem))


def axes(stem: str) -> list[str]:
    """Names of the whole-number fields of the operator's cases, in order."""
    kind = type(cases.load(stem).CASES[0])
    return [field.name for field in dataclasses.fields(kind) if field.type in ("int", int)]


def refused(stem: str, case: Case) -> str | None:
    """What the kernel's own checks say against the shape of ``case``, or None.  Runs nothing."""
    from kernels._device import recording

    try:
        with recording():
            cases.call(cases.public("kernels", stem), case.inputs("meta"))
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def _labels(found: Iterable[Case]) -> list[str]:
    return [case.label for case in found]


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "; ".join(names[:SHOWN]) + rest


def shortened(labels: Sequence[str]) -> tuple[str, dict[str, str]]:
    """(what several labels share, what is left of each), for a table's title and its rows."""
    parts = {label: label.split(",") for label in labels}
    shared = set.intersection(*map(set, parts.values())) if len(parts) > 1 else set()
    common = [part for part in parts[labels[0]] if part in shared] if shared else []
    rest = {
        label: " ".join(part for part in spelled if part not in shared)
        for label, spelled in parts.items()
    }
    return " ".join(common), rest


def tree() -> str:
    """What the working tree is: its commit, and the files in which it is not that commit."""
    commit = _git("rev-parse", "--short=10", "HEAD")
    if commit is None:
        return "working tree, of no commit yet"
    entries = (_git("status", "--porcelain", "--untracked-files=all", "-z") or "").split("\0")
    # A renamed file's old name follows as an entry of its own, without the two letters.
    changed = sorted(entry[3:] for entry in entries if len(entry) > 3 and entry[2] == " ")
    counted = [path for path in changed if not path.startswith("results/")]
    said = f"modified: {_listed(counted)}" if counted else "nothing modified"
    return f"working tree at {commit}, {said}"


def commit(named: str | None = None) -> tuple[str, str]:
    """(40 digits, its date as ISO) of the commit that is measured: HEAD, or ``named`` where the tree is
    that commit without git knowing.

    Raises UsageError for no commit, and without ``named`` where what is measured is modified.
    """
    if named is None and _git("status", "--porcelain", "--", *MEASURED):
        raise UsageError(
            "commit: what is measured is modified; commit it, or name the commit it is"
        )
    found = _git("rev-parse", f"{named or 'HEAD'}^{{commit}}")
    if found is None:
        raise UsageError(f"commit: {named or 'HEAD'} is none here")
    return found, _git("show", "-s", "--format=%cI", found) or ""


def _git(*arguments: str) -> str | None:
    """Output of git in the tree this file lies in, None where git or the commit is missing."""
    try:
        run = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return run.stdout.rstrip("\n") if run.returncode == 0 else None


def machine() -> str:
    """GPU or CPU, driver, torch and Triton, in one line."""
    facts = fingerprint.fingerprint()
    device = facts["cpu"]
    if facts["gpu"] != "none":
        device = f"{facts['gpu']}, driver {facts['driver']}"
    return f"{device}, torch {facts['torch']}, Triton {facts['triton']}"


def without_interpreter() -> dict[str, str]:
    """The environment for a child process in which kernels are compiled, not interpreted."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def console() -> Console:
    """Where tables go."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(width=WIDTH, highlight=False)

"""Numbers of one commit on one machine that are kept as results/MACHINE/KIND/COMMIT.json, and their page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import fingerprint
from harness import _problem
from harness._markdown import markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

Row = dict[str, Any]


class Page(NamedTuple):
    """A page of ``docs/``, of the newest file of each machine.

    kind: the folder's name.  intro: what stands above the tables.  cells: a row's, under ``headings``, of
    which the first ``left`` are text.  fold: what the rows are made to before.  level: of a machine's
    heading.
    """

    path: str
    kind: str
    intro: str
    headings: Sequence[str]
    left: int
    cells: Callable[[Row], list[str]]
    fold: Callable[[Iterable[Row]], Iterable[Row]] = iter
    level: str = "##"

    def files(self) -> list[Path]:
        """Those that are there."""
        return sorted(_problem.ROOT.glob(f"results/*/{self.kind}/*.json"))

    def text(self, files: Iterable[Path]) -> str:
        """The whole page."""
        newest: dict[str, Row] = {}
        held = [read(path) | {"folder": path.parent.parent.name} for path in files]
        for one in sorted(held, key=lambda one: str(one["date"])):
            newest[one["folder"]] = one
        parts = [self.intro.strip()]
        for folder, one in newest.items():
            parts += ["", f"{self.level} {folder}, {one['commit'][:12]}", "", one["machine"], ""]
            parts.append(self.table(one["rows"]))
        return "\n".join(parts) + "\n"

    def table(self, rows: Iterable[Row]) -> str:
        """Markdown."""
        return markdown(self.headings, [self.cells(row) for row in self.fold(rows)], self.left)

    def write(self) -> None:
        """Into ``docs/``."""
        (_problem.ROOT / self.path).write_text(self.text(self.files()), encoding="utf-8")


def keep(out: Path, commit: tuple[str, str], rows: Sequence[Row]) -> None:
    """Write ``rows``, unless there are none.  commit: of :func:`harness._problem.commit`."""
    if rows:
        digits, date = commit
        held = {
            "commit": digits, "date": date, "machine": _problem.machine(),
            "fingerprint": fingerprint.fingerprint(), "rows": list(rows),
        }  # fmt: skip
        out.parent.mkdir(parents=True, exist_ok=True)
        whole = out.with_name(out.name + ".part")
        whole.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
        whole.replace(out)


def read(path: Path) -> Row:
    """What ``keep`` wrote."""
    found: Row = json.loads(path.read_text(encoding="utf-8"))
    return found

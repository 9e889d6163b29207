"""asv plugin: what ``asv publish`` does beyond asv's own pages.

- They open with the network unplugged (:mod:`harness._browser`).
- A series for which more is better (throughput) is kept out of the regressions page and its feed,
  which know only "smaller is better", and coloured the right way round (:mod:`harness._patches`).
- What was never measured is left out, of the grid and of the list.
- A commit's link leads to its message and the files it changed, kept beside the pages.
- Measured commits that the history no longer has are named: asv drops them without a word.
"""

from __future__ import annotations

import html as markup
import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from asv.publishing import OutputPublisher
from asv.results import iter_results

from benchmarks import rawlog
from harness import _browser, _patches
from harness.asv_guard import notice

if TYPE_CHECKING:
    from asv.config import Config
    from asv.graph import GraphSet
    from asv.repo import Repo

NPM = Path(".asv/npm")
COMMIT = "<!doctype html><meta charset=utf-8><title>{title}</title><pre>{text}</pre>\n"


class Throughput(OutputPublisher):
    """Keeps what is better when larger out of the regressions; runs before asv looks for them."""

    name = "throughput"
    order: ClassVar[float] = 2

    @classmethod
    def publish(
        cls,
        conf: Config,
        repo: Repo,
        benchmarks: dict[str, Any],
        graphs: GraphSet,
        revisions: dict[str, int],
    ) -> None:
        """Switch asv's detection off for those series, by asv's own setting for it."""
        for name, benchmark in benchmarks.items():
            if benchmark.get("less_is_better") is False:
                conf.regressions_first_commits[f"{re.escape(name)}(\\(|@|$)"] = None


class Pages(OutputPublisher):
    """Everything that works on the finished files; runs last, before asv writes its index."""

    name = "pages"
    order: ClassVar[float] = 100

    @classmethod
    def publish(
        cls,
        conf: Config,
        repo: Repo,
        benchmarks: dict[str, Any],
        graphs: GraphSet,
        revisions: dict[str, int],
    ) -> None:
        """Shorten, patch, bring the browser files, write the commits, check the history."""
        root, html = Path.cwd(), Path(conf.html_dir)
        for name in [name for name in benchmarks if not measured(graphs, name)]:
            del benchmarks[name]
        shorten(html)
        for problem in _patches.apply(html):
            notice(problem)
        bring(root, html)
        write_commits(root, html, revisions, conf.hash_length)
        conf.show_commit_url = "commits/"
        for problem in lost(Path(conf.results_dir), root):
            notice(problem)


def measured(graphs: GraphSet, benchmark: str) -> bool:
    """Whether any graph of ``benchmark`` has a point."""
    return any(graph.get_data() for graph in graphs.get_graph_group(benchmark))


def shorten(html: Path) -> None:
    """Drop the rows without a value from the lists: most combinations do not exist."""
    for path in html.glob("graphs/**/summary.json"):
        rows = json.loads(path.read_text(encoding="utf-8"))
        kept = [row for row in rows if row["last_value"] is not None]
        path.write_text(json.dumps(kept), encoding="utf-8")


def bring(root: Path, html: Path) -> None:
    """Make the pages independent of the network, or say why they are not."""
    reason = _browser.install(root, root / NPM)
    if reason:
        notice(f"the pages need a network when they are opened: {reason}")
        return
    for address in _browser.localise(html, root / NPM / "node_modules"):
        notice(f"the pages take {address} from the network when they are opened")


def write_commits(root: Path, html: Path, revisions: dict[str, int], length: int) -> None:
    """A page for each measured commit, in a folder named as asv shortens its hash."""
    for commit in revisions:
        shown = _git(root, "show", "--stat", "--format=fuller", commit)
        folder = html / "commits" / commit[:length]
        folder.mkdir(parents=True, exist_ok=True)
        page = COMMIT.format(title=commit[:length], text=markup.escape(shown))
        (folder / "index.html").write_text(page, encoding="utf-8")


def lost(results: Path, root: Path) -> list[str]:
    """What is wrong with the commits that ``results`` has values of: a sentence for each kind."""
    known = {result.commit_hash[:12] for result in iter_results(str(results))}
    known |= {path.name[:12] for path in rawlog.logs(results)}
    every = {line[:12] for line in _git(root, "rev-list", "--all", "HEAD").split()}
    # As asv walks the history: of a merged branch it sees the merge.
    shown = {line[:12] for line in _git(root, "rev-list", "--first-parent", "HEAD").split()}
    gone, elsewhere = sorted(known - every), sorted((known & every) - shown)
    sentences = []
    if gone:
        sentences.append(
            f"not in this repository, and so not in the pages, but measured: {', '.join(gone)}. "
            "A measured commit must not be amended, rebased or squashed; into a shallow clone, "
            "git fetch --unshallow brings it."
        )
    if elsewhere:
        sentences.append(
            "not in HEAD's first-parent history, and so not in the pages, but measured: "
            f"{', '.join(elsewhere)}"
        )
    return sentences


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, errors="replace", check=True
    )
    return done.stdout

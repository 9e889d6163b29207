"""``python -m gate inject``: is a slowdown that was really put there found, and called as large as it is?

On a Hopper GPU: blocks A B B A of fresh processes of one commit, as ``compare`` runs them, of which B does
more: behind each timed call a kernel spins for a given share of what the call takes, in the same CUDA
graph.  The verdict is that of ``compare``, by its statistics alone: the kernels are the same, and it must
not be told so.  Cases are long ones, since a kernel that spins is itself a launch.

``--write`` makes docs/injected.md of results/MACHINE/inject/, and needs no GPU.

Exit codes: 0, 1 a process failed or there is no log, 3 no Hopper GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import uuid
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases, rawlog, worker
from benchmarks.fingerprint import fingerprint, has_hopper
from gate import aa, plan, stats, times
from harness._markdown import markdown, micro

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.cases import Cost

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/injected.md"
SHARES = (0.02, 0.05)
BLOCKS = 3
OPERATORS = ("act_quant", "weight_quant", "weight_dequant", "fp8_gemm")
CASES = 4  # of each, at most
# Below some 80 us two per cent are less than a launch; the reference of a larger product takes too long.
LEAST_BYTES, LEAST_FLOPS, MOST_FLOPS = 3.2e8, 1e11, 3.2e11
HEADER = ("operator", "case", "put in", "verdict", "us", "found", "interval")
OK, BROKEN, NO_GPU = 0, 1, 3


class Worker(aa.Worker):
    """Times some cases, each with so many microseconds of spinning behind a call."""

    def __init__(self, stem: str, extra: dict[str, float], spin: Callable[[float], None]) -> None:
        super().__init__(stem, list(extra), 0)
        self.extra = extra
        self.spin = spin
        self.label = ""

    def device(self, task: Any) -> None:
        """As in a sweep."""
        self.label = task.case
        super().device(task)

    def implementation(self, name: str) -> Callable[[dict[str, Any]], Callable[[], Any]]:
        """The call, and then the work that was not asked for."""
        prepare, extra = super().implementation(name), self.extra[self.label]
        if not extra:
            return prepare

        def slowed(arguments: dict[str, Any]) -> Callable[[], Any]:
            call = prepare(arguments)

            def both() -> Any:
                result = call()
                self.spin(extra)
                return result

            return both

        return slowed


def spinner() -> Callable[[float], None]:
    """A launch that takes as many microseconds as it is told, in a graph and behind another kernel.

    Two lengths of spinning say what a cycle takes and what the launch itself does.
    """
    import torch

    from benchmarks import measure

    def took(cycles: int) -> float:
        def call() -> None:
            torch.cuda._sleep(cycles)  # noqa: SLF001

        return measure.device_us(lambda: call, bytes_per_call=1).median

    lengths = (20_000, 60_000)
    short, long = map(took, lengths)
    slope = (long - short) / (lengths[1] - lengths[0])
    launch = short - slope * lengths[0]

    def spin(us: float) -> None:
        torch.cuda._sleep(max(1, round((us - launch) / slope)))  # noqa: SLF001

    return spin


def child(arguments: list[str]) -> None:
    """log, commit, process, what to keep with it as JSON, extra us by operator and case as JSON, parent."""
    log, commit, process, about, given, parent = arguments
    worker.end_with(int(parent))
    spin = spinner()
    rows: list[dict[str, Any]] = []
    for stem, extra in json.loads(given).items():
        measured = Worker(stem, extra, spin)
        measured.run()
        rows += [row for row in measured.rows if row["metric"] == "device_us"]
    writer = rawlog.Writer(Path(log), commit=commit, process=process)
    writer.append("process", machine=fingerprint(), **json.loads(about))
    writer.append_all("sample", rows)


def choose(operators: Sequence[str], count: int) -> dict[str, list[str]]:
    """Some timed cases of each operator that take long enough, those with most bytes first."""
    chosen = {}
    for stem in operators:
        able = [case for case in cases.load(stem).CASES if case.bench and _fits(case.cost())]
        able.sort(key=lambda case: (-case.cost().bytes, case.label))
        chosen[stem] = [case.label for case in able[:count]]
    return {stem: labels for stem, labels in chosen.items() if labels}


def _fits(cost: Cost) -> bool:
    if cost.flops:
        return LEAST_FLOPS <= cost.flops <= MOST_FLOPS
    return cost.bytes >= LEAST_BYTES


def collect(
    path: Path, commit: str, chosen: dict[str, list[str]], shares: Sequence[float], blocks: int,
    tell: Callable[[str], None],
) -> int:  # fmt: skip
    """Run everything; returns the exit code."""
    none = {stem: dict.fromkeys(labels, 0.0) for stem, labels in chosen.items()}
    if not _run(path, commit, {"side": "probe"}, none, tell):
        return BROKEN
    took = {place: one.value for _, place, one in _numbers(rawlog.read(path, tell))}
    for share in shares:
        more = {
            stem: {label: share * took[stem, label] for label in labels}
            for stem, labels in chosen.items()
        }
        for block in range(blocks):
            for position, side in enumerate(plan.order(block)):
                pair = (plan.POSITIONS * block + position) // 2
                about = {"share": share, "side": side, "pair": pair}
                extra = more if side == plan.HEAD else none
                if not _run(path, commit, about, extra, tell):
                    return BROKEN
    return OK


def _run(
    path: Path, commit: str, about: dict[str, Any], extra: dict[str, dict[str, float]],
    tell: Callable[[str], None],
) -> bool:  # fmt: skip
    dated = json.dumps(about | {"date": aa.date(commit)})
    reason = aa.spawn("gate.inject.child", path, commit, dated, json.dumps(extra))
    tell(f"{about}: {reason or 'measured'}")
    return reason is None


def _numbers(rows: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], Any, times.Number]]:
    """(what was kept with the process, (operator, case), number) of each sample."""
    kept = list(rows)
    about = {row["process"]: row for row in kept if row["kind"] == "process"}
    return [
        (about[row["process"]], (row["operator"], row["case"]), times.number(row))
        for row in kept
        if row["kind"] == "sample"
    ]


def judged(rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Cells of the page's table: case, its time, what was put in, what was found, and the verdict."""
    held: dict[float, dict[Any, dict[tuple[int, str], times.Number]]] = defaultdict(dict)
    for about, place, one in _numbers(rows):
        if about["side"] != "probe":
            held[about["share"]].setdefault(place, {})[about["pair"], about["side"]] = one
    lines = []
    for share, found in sorted(held.items()):
        pairs = {
            place: [(got[n, plan.BASE], got[n, plan.HEAD]) for n in sorted({n for n, _ in got})]
            for place, got in sorted(found.items())
        }
        decisions = stats.decide_all([times.observation(pair) for pair in pairs.values()])
        for (stem, label), decision in zip(pairs, decisions, strict=True):
            took = statistics.median(base.value for base, _ in pairs[stem, label])
            low, high = decision.interval
            lines.append([
                stem, label, f"{share:.0%}", decision.verdict, micro(took), f"{decision.change:+.2%}",
                f"{low:+.2%} to {high:+.2%}",
            ])  # fmt: skip
    return lines


def page(files: Iterable[Path]) -> str:
    """docs/injected.md."""
    parts = [
        "# Slowdowns that were really put in",
        "",
        "Kernels with a spinning one behind them (`python -m gate inject`), judged as `compare` judges two",
        "commits, threshold 2 %. Found: the effect and its interval, by time. What is put in is calibrated",
        "in each process, to about a tenth of a microsecond. Generated; do not edit.",
    ]
    for path in sorted(files):
        rows = rawlog.read(path, lambda _: None)
        blocks = (
            len({about["pair"] for about, _, _ in _numbers(rows) if about["side"] != "probe"}) // 2
        )
        parts += ["", f"## {path.parent.parent.name}, {rows[0]['commit'][:12]}", ""]
        parts += [f"{blocks} blocks of 4 processes for each share.", ""]
        parts.append(markdown(HEADER, judged(rows), 4))
    return "\n".join(parts) + "\n"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gate inject", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, help="the raw log, a .jsonl")
    parser.add_argument("--operators", nargs="+", default=list(OPERATORS), metavar="OPERATOR")
    parser.add_argument("--cases", type=int, default=CASES, help=f"of each; default: {CASES}")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"default: {BLOCKS}")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--commit", help="40 digits, for a tree without git; default: HEAD")
    parser.add_argument("--write", action="store_true", help=f"only write {PAGE} from results/")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _options(arguments)
    if options.write:
        logs = sorted(ROOT.glob("results/*/inject/*.jsonl"))
        if not logs:
            print("no results/MACHINE/inject/*.jsonl: nothing to write", file=sys.stderr)
            return BROKEN
        (ROOT / PAGE).write_text(page(logs), encoding="utf-8")
        return OK
    if not has_hopper():
        print("inject needs a Hopper GPU. Nothing was measured.", file=sys.stderr)
        return NO_GPU
    commit = aa.head(options.commit)
    out = options.out or ROOT / ".gate" / f"inject-{commit[:12]}-{uuid.uuid4().hex[:6]}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    code = collect(
        out, commit, choose(options.operators, options.cases), options.shares, options.blocks,
        lambda said: print(said, flush=True),
    )  # fmt: skip
    print(markdown(HEADER, judged(rawlog.read(out, print)), 4))
    return code


if __name__ == "__main__":
    sys.exit(main())

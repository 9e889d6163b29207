"""gate.inject: what runs behind a call, what is kept of it, and the page; the numbers need a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rawlog
from benchmarks.tasks import OURS
from gate import aa, inject, plan

COMMIT = "c" * 40


def log(path: Path, share: float, factor: float, pairs: int = 6) -> Path:
    """Processes of two sides, head's ``factor`` times as slow, with little noise."""
    for number in range(2 * pairs):
        pair, side = divmod(number, 2)
        head = side == 1
        writer = rawlog.Writer(path, commit=COMMIT, process=f"{number:012x}")
        about = {"share": share, "side": plan.HEAD if head else plan.BASE, "pair": pair}
        writer.append("process", machine={}, date="", **about)
        us = 200 * (factor if head else 1) * (1 + 1e-4 * (number % 3))
        row = {
            "operator": "fp8_gemm", "case": "m=1", "implementation": OURS, "metric": "device_us", "unit": "us",
            "round": 0, "samples": [us] * 3,
            "clocks": {"before": {"sm_mhz": 1980}, "after": {"sm_mhz": 1980}},
        }  # fmt: skip
        writer.append_all("sample", [row])
    return path


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.05, "regressed"), (1.03, "regressed"), (1.0, "same")]
)
def test_the_verdict_is_by_what_was_measured(tmp_path: Path, factor: float, verdict: str) -> None:
    rows = rawlog.read(log(tmp_path / "a.jsonl", 0.02, factor), print)
    ((stem, case, put, word, us, found, _),) = inject.judged(rows)
    assert (stem, case, put, word) == ("fp8_gemm", "m=1", "2%", verdict)
    assert float(us) == pytest.approx(200, rel=1e-3)
    assert float(found.rstrip("%")) == pytest.approx(100 * (factor - 1), abs=0.05)


def test_probes_are_no_side(tmp_path: Path) -> None:
    path = log(tmp_path / "a.jsonl", 0.02, 1.05)
    writer = rawlog.Writer(path, commit=COMMIT, process="f" * 12)
    writer.append("process", machine={}, date="", side="probe")
    probe = {
        "operator": "fp8_gemm",
        "case": "m=1",
        "implementation": OURS,
        "metric": "device_us",
        "unit": "us",
    }
    writer.append_all("sample", [probe | {"round": 0, "samples": [9e9]}])
    (line,) = inject.judged(rawlog.read(path, print))
    assert float(line[4]) == pytest.approx(200, rel=1e-3)


def test_more_work_stands_behind_each_call_of_the_slowed_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[Any] = []

    def implementation(self: Any, name: str) -> Any:
        def prepare(arguments: dict[str, Any]) -> Any:
            def call() -> str:
                done.append(arguments["x"])
                return "result"

            return call

        return prepare

    monkeypatch.setattr(aa.Worker, "implementation", implementation)
    worker = inject.Worker.__new__(inject.Worker)
    worker.extra, worker.spin = {"slow": 3.5, "plain": 0.0}, done.append
    for label, want in (("slow", [7, 3.5]), ("plain", [7])):
        done.clear()
        worker.label = label
        assert worker.implementation(OURS)({"x": 7})() == "result"
        assert done == want


def test_each_block_has_both_sides_and_the_share_of_what_a_call_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    path = tmp_path / "a.jsonl"

    def run(out: Path, commit: str, about: Any, extra: Any, tell: Any) -> bool:
        runs.append((about, extra))
        if about["side"] == "probe":
            writer = rawlog.Writer(out, commit=commit, process="0" * 12)
            writer.append("process", machine={}, date="", **about)
            row = {"operator": "act_quant", "case": "a", "implementation": OURS}
            writer.append_all(
                "sample",
                [row | {"metric": "device_us", "unit": "us", "round": 0, "samples": [300.0]}],
            )
        return len(runs) < 99

    monkeypatch.setattr(inject, "_run", run)
    code = inject.collect(path, COMMIT, {"act_quant": ["a"]}, (0.02, 0.05), 2, print)
    assert code == inject.OK
    assert len(runs) == 1 + 2 * 2 * 4
    for about, extra in runs[1:]:
        want = 300.0 * about["share"] if about["side"] == plan.HEAD else 0.0
        assert extra == {"act_quant": {"a": pytest.approx(want)}}
    assert [about["side"] for about, _ in runs[1:5]] == list(plan.order(0))


def test_the_committed_page_is_of_the_committed_logs() -> None:
    logs = sorted(inject.ROOT.glob("results/*/inject/*.jsonl"))
    page = inject.ROOT / inject.PAGE
    assert page.exists() == bool(logs)
    assert not logs or page.read_text() == inject.page(logs)


def test_there_is_no_page_without_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inject, "ROOT", tmp_path)
    assert inject.main(["--write"]) == 1
    assert "nothing to write" in capsys.readouterr().err
    folder = tmp_path / "results" / "h200" / "inject"
    folder.mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    log(folder / "a.jsonl", 0.05, 1.05)
    assert inject.main(["--write"]) == 0
    assert "| fp8_gemm | m=1 | 5% | regressed |" in (tmp_path / inject.PAGE).read_text()


def test_cases_are_large_and_the_command_line_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = inject.choose(inject.OPERATORS, inject.CASES)
    assert sum(map(len, chosen.values())) >= 6
    assert json.loads(json.dumps(chosen)) == chosen
    monkeypatch.setattr(inject, "has_hopper", lambda: False)
    assert inject.main([]) == 3
    assert "needs a Hopper GPU" in capsys.readouterr().err

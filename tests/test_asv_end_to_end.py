"""asv over a small repository: killed, resumed, derived, published, and read in a browser."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("asv")

from benchmarks import fingerprint, rawlog
from tests._miniature import browser, build, story
from tests._miniature.story import Project, expected, log_path, numbers, results, rows

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("asv") / "project"
    yield story.tell(root)
    story.end_orphans(root)


# The sweep is killed.


def test_a_kill_in_the_sweep_loses_nothing_that_was_written(project: Project) -> None:
    assert sum(len(rows(text)) for text in project.before.values()) > 0
    for name, text in project.before.items():
        assert project.swept[name].startswith(text)


def test_the_rerun_measures_only_what_is_missing(project: Project) -> None:
    for text in project.swept.values():
        parts = ("operator", "case", "implementation", "metric", "round")
        times = Counter(tuple(row[part] for part in parts) for row in rows(text))
        assert set(times.values()) == {1}
    processes = {name: len(rows(text, "process")) for name, text in project.swept.items()}
    assert processes == {name: 1 + (name in project.before) for name in project.swept}


def test_every_commit_was_swept_to_its_end(project: Project) -> None:
    assert {name[:12] for name in project.swept} == {commit[:12] for commit in project.hashes}
    for commit in project.hashes:
        text = log_path(project, fingerprint.machine_name(), commit).read_bytes()
        for operator in ("drift", "gain"):
            rounds = {row["round"] for row in rows(text) if row["operator"] == operator}
            assert len(rounds) > 1


# asv is killed, and derives everything again.


def test_a_kill_in_asv_costs_no_measurement(project: Project) -> None:
    assert project.logs() == project.swept
    machine = fingerprint.machine_name()
    assert set(results(project, machine)) == set(project.hashes)


def test_every_number_is_kept_and_none_exchanged(project: Project) -> None:
    boxes: list[tuple[str, str | None]] = [(fingerprint.machine_name(), None)]
    boxes += [(build.GPU["machine"], triton) for triton in build.TRITONS]
    for machine, triton in boxes:
        for commit, result in results(project, machine, triton).items():
            wanted = expected(log_path(project, machine, commit, triton or ""))
            held = numbers(project, result)
            assert {
                key: value for key, value in held.items() if value is not None
            } == pytest.approx(wanted)
            assert wanted


def test_numbers_are_those_of_their_commit(project: Project) -> None:
    found = results(project, fingerprint.machine_name())
    for number, commit in enumerate(project.hashes):
        held = numbers(project, found[commit])
        for operator in ("drift", "gain"):
            slow = build.COMMITS[number][operator].seconds == build.SLOW
            times = [
                held[rawlog.Key(operator, case, "reference", "cpu_us")] for case in build.CASES
            ]
            middle = (build.FAST + build.SLOW) / 2 * 1e6
            assert [value is not None and value > middle for value in times] == [slow] * len(times)


def test_an_operator_that_was_not_there_is_not_available(project: Project) -> None:
    first = numbers(project, results(project, fingerprint.machine_name())[project.hashes[0]])
    assert {key.operator for key in first} == {"drift", "gain"}


@pytest.mark.parametrize(("number", "reason"), [(2, "WrongAnswer"), (3, "SIGSEGV")])
def test_a_failure_records_no_number_and_shows_its_reason(
    project: Project, number: int, reason: str
) -> None:
    commit = project.hashes[number]
    held = numbers(project, results(project, fingerprint.machine_name())[commit])
    broken = {
        key.case
        for key, value in held.items()
        if key[0::2] == ("late", "kernels") and value is None
    }
    assert broken == set(build.CASES)
    assert not any(
        key[0::2] == ("late", "kernels") for key, value in held.items() if value is not None
    )
    told = [line for line in project.published.stdout.splitlines() if line.startswith(commit[:12])]
    assert any("late n=4 kernels" in line and reason in line for line in told)
    assert project.published.returncode == 1


def test_the_wrong_kernel_leaves_its_reference_alone(project: Project) -> None:
    held = numbers(project, results(project, fingerprint.machine_name())[project.hashes[2]])
    assert held[rawlog.Key("late", "n=4", "reference", "cpu_us")] is not None


def test_two_tritons_of_one_machine_both_survive(project: Project) -> None:
    key = rawlog.Key("gain", "n=4", "kernels", "gbps")
    for triton in build.TRITONS:
        found = results(project, build.GPU["machine"], triton)
        assert set(found) == set(project.hashes)
        assert {result.params["triton"] for result in found.values()} == {triton}
    old, new = (results(project, build.GPU["machine"], triton) for triton in build.TRITONS)
    for commit in project.hashes:
        ratio = numbers(project, new[commit])[key] / numbers(project, old[commit])[key]  # type: ignore[operator]
        assert ratio == pytest.approx(1.1)


def test_samples_keep_their_spread(project: Project) -> None:
    result = results(project, build.GPU["machine"], build.TRITONS[0])[project.hashes[0]]
    name = "bench_operators.gain.track_gbps"
    suite = json.loads((project.root / "results/benchmarks.json").read_text(encoding="utf-8"))
    spread = result.get_result_stats(name, suite[name]["params"])[0]
    assert spread["q_25"] < 1000 < spread["q_75"]


# Damage, the user's own files, and the words at the end.


def test_damaged_files_are_named_and_nothing_else_is_lost(project: Project) -> None:
    for name in (*story.DAMAGED, "elsewhere/machine.json"):
        (line,) = [line for line in project.published.stdout.splitlines() if name in line]
        assert line.startswith("notice: skipped")
    assert "Traceback" not in project.published.stdout + project.published.stderr


def test_the_facts_of_a_machine_are_complete_beside_its_results(project: Project) -> None:
    path = project.root / "results" / build.GPU["machine"] / "machine.json"
    versions = ("python", "torch", "triton")
    facts = {name: value for name, value in build.GPU.items() if name not in versions}
    assert json.loads(path.read_text(encoding="utf-8")) == facts | {"version": 1}


def test_asv_by_hand_and_a_dirty_tree(project: Project, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    by_hand = build.run(project.root, "asv", "run", "HEAD^!", "--bench", "drift.*cpu_us", **home)
    assert by_hand.returncode == 0, by_hand.stdout + by_hand.stderr
    assert not list(tmp_path.iterdir())
    changed = project.root / "kernels/drift.py"
    text = changed.read_text(encoding="utf-8")
    try:
        changed.write_text(f"{text}\n# changed\n", encoding="utf-8")
        done = build.run(project.root, "harness.bench", "--operators", "drift")
    finally:
        changed.write_text(text, encoding="utf-8")
    lines = done.stdout.strip().splitlines()
    assert lines[0] == lines[-1]
    assert project.hashes[-1][:10] in lines[0]
    assert "not measured" in lines[0]
    assert "kernels/drift.py" in lines[0]
    assert ".asv/html/index.html" in done.stdout
    # The tables: a number where there is one, and why there is none where there is not.
    words = [re.findall(r"[\w.=+-]+", line) for line in lines]
    start = words.index(["late"])
    assert ["n=4", "0", "0.00e+00"] in [found[:3] for found in words[:start]]
    assert ["n=4", "died", "died", "died"] in words[start:]
    # Neither of the two measured anything: the log was complete.
    assert project.logs() == project.swept


# The pages, in a browser without a network.


@pytest.fixture(scope="module")
def address(project: Project) -> Iterator[str]:
    if browser.chromium() is None:
        pytest.skip("needs Chromium")
    for line in project.published.stdout.splitlines():
        if "need a network" in line:
            pytest.skip(line)
    with browser.served(project.root / ".asv/html") as found:
        yield found


def panel(markup: str, heading: str) -> str:
    """Text of the buttons under a selector's heading."""
    found = re.search(
        rf'<div class="panel-heading">{heading}</div><div class="panel-body">(.*?)</div></div>',
        markup,
    )
    assert found, f"no selector {heading}"
    return browser.text(found[1])


def test_the_graph_has_its_curves_and_selectors(address: str) -> None:
    markup = browser.dom(f"{address}/index.html#bench_operators.gain.track_gbps")
    legend = re.findall(r'<td class="legendLabel">(.*?)</td>', markup)
    assert sorted(legend) == sorted(
        f"case-{case}; driver-595.1; machine-test-gpu; torch-2.11.0; triton-{triton}"
        for case in build.CASES
        for triton in build.TRITONS
    )
    assert 'class="flot-base"' in markup
    assert "Test GPU" in panel(markup, "gpu")
    assert "595.1" in panel(markup, "driver")
    assert "2.11.0" in panel(markup, "torch")
    for triton in build.TRITONS:
        assert triton in panel(markup, "triton")


def test_the_facts_of_the_machine_are_shown_while_there_is_one_of_each(
    address: str, project: Project, tmp_path: Path
) -> None:
    pages = Path(shutil.copytree(project.root / ".asv/html", tmp_path / "html"))
    index = json.loads((pages / "index.json").read_text(encoding="utf-8"))
    for fact in ("gpu", "driver", "torch", "triton"):
        index["params"][fact] = [build.GPU[fact]]
    (pages / "index.json").write_text(json.dumps(index), encoding="utf-8")
    with browser.served(pages) as alone:
        for page in ("bench_operators.gain.track_gbps", "/summarylist?machine=test-gpu"):
            markup = browser.dom(f"{alone}/index.html#{page}")
            for fact in ("gpu", "driver", "torch", "triton"):
                assert panel(markup, fact) == build.GPU[fact]


def test_the_grid_shows_what_was_measured_and_nothing_empty(address: str) -> None:
    markup = browser.dom(f"{address}/index.html#/")
    assert re.findall(r'id="group-(\w+)"', markup) == list(build.OPERATORS)
    assert "drift device_us" in markup
    assert "drift tflops" not in markup


def test_regressions_list_the_slowdown_and_no_throughput(address: str, project: Project) -> None:
    listed = browser.text(browser.dom(f"{address}/index.html#/regressions"))
    assert "drift.track_cpu_us" in listed
    assert "drift.track_device_us" in listed
    assert f"triton {build.TRITONS[0]}" in listed
    assert "gbps" not in listed
    assert "gain." not in listed
    feed = (project.root / ".asv/html/regressions.xml").read_text(encoding="utf-8")
    assert "drift.track_device_us" in feed
    assert "gbps" not in feed


def test_a_gain_is_green_and_a_loss_red_whichever_way_is_better(
    address: str, project: Project
) -> None:
    markup = browser.dom(f"{address}/index.html#/summarylist?machine=test-gpu")
    style = (project.root / ".asv/html/summarylist.css").read_text(encoding="utf-8")
    assert re.search(r"negative-change \{\s*background-color: #dfd", style)
    colours = {
        browser.text(name).split(" ('")[0]: change.removeprefix("change ")
        for name, change in re.findall(
            r'<tr><td>(.*?)</td><td class="value".*?<td class="(change[^"]*)"', markup
        )
    }
    green, red = "negative-change", "positive-change"
    assert colours == {
        "drift device_us": red, "drift gbps": red, "gain device_us": green, "gain gbps": green,
    }  # fmt: skip


def test_a_commit_has_a_page(address: str, project: Project) -> None:
    page = browser.dom(f"{address}/commits/{project.hashes[1][:10]}/")
    assert "commit 1" in page
    assert "kernels/late.py" in page


def test_medians_are_in_the_graph_files(project: Project) -> None:
    (path,) = (project.root / ".asv/html/graphs").glob(
        "**/triton-3.6.0/bench_operators.gain.track_gbps.json"
    )
    points = json.loads(path.read_text(encoding="utf-8"))
    assert [point[1][0] for point in points] == pytest.approx(list(build.GBPS["gain"]))
    assert [point[1][1] / point[1][0] for point in points] == pytest.approx([1.01] * 4)

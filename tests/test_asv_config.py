"""asv ignores a misspelt key, an unknown plugin and a second setup_cache; here they fail."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("asv")

from asv import benchmark as asv_benchmark
from asv import environment, util
from asv.config import Config
from asv.publishing import OutputPublisher

from benchmarks import bench_operators, cases, metrics, rawlog

ROOT = Path(__file__).parents[1]
COMMIT = "c" * 40


def known_keys() -> set[str]:
    """Keys that asv's configuration has, its version, and the one that has no default."""
    return set(vars(Config())) | {"version", "build_cache_size"}


def configuration() -> dict[str, Any]:
    loaded: dict[str, Any] = util.load_json(str(ROOT / "asv.conf.json"), js_comments=True)
    return loaded


def test_every_key_is_one_that_asv_knows() -> None:
    assert set(configuration()) <= known_keys()


def test_a_misspelt_key_is_not_known() -> None:
    # Seen in a well-known project; asv publishes with its default threshold and says nothing.
    assert "regression_thresholds" not in known_keys()
    assert "regressions_thresholds" in known_keys()


def test_plugins_are_found_and_give_the_environment_and_the_publishers() -> None:
    conf = configuration()
    names = conf["plugins"]
    assert names
    assert all(name.startswith(".") for name in names)
    for name in names:
        __import__(name[1:])
    found = environment.get_environment_class_by_name(conf["environment_type"])
    assert found.__module__ == "harness.asv_checkout"
    publishers = {cls.__module__ for cls in util.iter_subclasses(OutputPublisher)}
    assert "harness.asv_pages" in publishers


def test_folders_of_the_configuration_exist() -> None:
    conf = configuration()
    assert (ROOT / conf["benchmark_dir"] / "bench_operators.py").is_file()
    assert conf["launch_method"] == "forkserver"


@pytest.fixture(scope="module")
def discovered(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What asv itself finds in benchmarks/, in a process of its own."""
    target = tmp_path_factory.mktemp("discovery") / "found.json"
    command = [
        sys.executable,
        asv_benchmark.__file__,
        "discover",
        str(ROOT / "benchmarks"),
        str(target),
    ]
    subprocess.run(command, check=True, cwd=target.parent, capture_output=True)
    found: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))
    return found


def test_asv_finds_each_metric_of_each_operator_and_nothing_else(
    discovered: list[dict[str, Any]],
) -> None:
    expected = {
        f"bench_operators.{operator}.track_{metric}"
        for operator in cases.names()
        for metric in metrics.COSTS + metrics.THROUGHPUTS
    }
    assert {item["name"] for item in discovered} == expected
    assert len(discovered) == len(expected)


def test_there_is_exactly_one_setup_cache(discovered: list[dict[str, Any]]) -> None:
    keys = {item.get("setup_cache_key") for item in discovered}
    assert len(keys) == 1
    assert re.fullmatch(r"bench_operators:\d+", keys.pop() or "")
    assert {item["setup_cache_timeout"] for item in discovered} == {bench_operators.SWEEP_TIMEOUT_S}


def test_version_timeout_unit_and_direction_are_explicit(discovered: list[dict[str, Any]]) -> None:
    for item in discovered:
        metric = item["name"].rsplit("track_", 1)[1]
        assert item["version"] == bench_operators.VERSION
        assert item["timeout"] == bench_operators.VALUE_TIMEOUT_S
        assert item["unit"] == (metrics.METRICS[metric].unit or "unit")
        assert item["less_is_better"] is (metric not in metrics.THROUGHPUTS)


def test_every_timed_case_has_its_place(discovered: list[dict[str, Any]]) -> None:
    for item in discovered:
        operator = item["name"].split(".")[1]
        labels = [repr(case.label) for case in cases.load(operator).CASES if case.bench]
        assert item["params"][0] == labels
        # A number behind a repeated label, "label (1)", is how asv spells two cases with one name.
        assert len(set(labels)) == len(labels)


def test_every_threshold_matches_a_benchmark(discovered: list[dict[str, Any]]) -> None:
    entries = [f"{item['name']}('case', 'kernels')@HEAD" for item in discovered]
    for pattern in configuration()["regressions_thresholds"]:
        assert any(re.match(pattern, entry) for entry in entries), pattern


def test_discovery_imports_neither_torch_nor_triton_nor_pandas() -> None:
    code = (
        "import pkgutil, importlib, sys, benchmarks\n"
        "for module in pkgutil.walk_packages(benchmarks.__path__, 'benchmarks.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(sorted({'torch', 'triton', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def sample(
    metric: str, *values: float, implementation: str = "kernels", case: str = "m=1"
) -> dict[str, Any]:
    return row(
        "sample", implementation, case, metric=metric, unit="u", round=0, samples=list(values)
    )


def row(kind: str, implementation: str, case: str, **fields: Any) -> dict[str, Any]:
    common = {
        "schema": 1,
        "kind": kind,
        "commit": COMMIT,
        "process": "p",
        "time": "t",
        "operator": "op",
    }
    return common | {"case": case, "implementation": implementation} | fields


def table(*rows: dict[str, Any]) -> dict[bench_operators.Key, dict[str, Any]]:
    held = list(rows)
    return bench_operators.tabulate(rawlog.collect(held), rawlog.statuses(held), COMMIT)


def test_a_value_is_its_samples() -> None:
    found = bench_operators.value(
        table(sample("device_us", 3.0, 1.0)), ("op", "m=1", "kernels", "device_us")
    )
    assert found == {"samples": [3.0, 1.0], "number": 1}


def test_what_was_not_measured_is_not_available() -> None:
    found = bench_operators.value(
        table(sample("device_us", 1.0)), ("op", "m=2", "kernels", "device_us")
    )
    assert isinstance(found, float)
    assert math.isnan(found)


def test_an_entry_under_a_wrong_key_is_refused() -> None:
    wrong = table(sample("device_us", 1.0))
    wrong["op", "m=2", "kernels", "device_us"] = wrong["op", "m=1", "kernels", "device_us"]
    with pytest.raises(bench_operators.MeasurementError, match="was given the entry of"):
        bench_operators.value(wrong, ("op", "m=2", "kernels", "device_us"))


def test_an_entry_of_another_commit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FP8_BENCH_COMMIT", "d" * 40)
    with pytest.raises(bench_operators.MeasurementError, match="asked for commit d"):
        bench_operators.value(
            table(sample("device_us", 1.0)), ("op", "m=1", "kernels", "device_us")
        )


def test_a_number_that_is_not_finite_is_a_failure() -> None:
    # asv would write Infinity into the page's JSON, which no browser reads.
    with pytest.raises(bench_operators.MeasurementError, match="not a finite number"):
        bench_operators.value(
            table(sample("max_error", math.inf)), ("op", "m=1", "kernels", "max_error")
        )


def test_a_failure_says_why_and_spares_the_other_phase_and_the_other_cases() -> None:
    found = table(
        sample("registers", 168),
        sample("device_us", 2.0, case="m=2"),
        row("status", "kernels", "m=1", phase="run", status="failed", reason="wrong answer"),
    )
    with pytest.raises(bench_operators.MeasurementError, match="wrong answer"):
        bench_operators.value(found, ("op", "m=1", "kernels", "device_us"))
    assert ("op", "m=1", "kernels", "registers") in found
    assert found["op", "m=1", "kernels", "registers"]["samples"] == [168]
    assert found["op", "m=2", "kernels", "device_us"]["samples"] == [2.0]


def test_a_death_leaves_what_was_finished() -> None:
    found = table(
        sample("device_us", 2.0),
        sample("launch_us", 3.0, case="m=2"),
        row("status", "kernels", "m=1", phase="run", status="died", reason="SIGSEGV"),
    )
    assert found["op", "m=1", "kernels", "device_us"]["samples"] == [2.0]
    assert "SIGSEGV" in found["op", "m=1", "kernels", "launch_us"]["reason"]


def test_not_available_is_no_failure() -> None:
    found = table(
        row("status", "kernels", "m=1", phase="run", status="n/a", reason="not at this commit")
    )
    assert found == {}

"""harness.layer: its problems, its page and its command line; the numbers themselves need a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fingerprint
from benchmarks.cases.moe_layer_backward import MoeLayerBackward
from benchmarks.roofline import Ceilings
from harness import _problem, doctor, layer


def row(**values: Any) -> dict[str, Any]:
    """A row as it is kept."""
    return {
        "entry": "decode", "tokens": 64, "experts": 256, "us": 2000.0, "tokens_per_s": 32000.0,
        "tflops": 25.0, "gbps": 2700.0, "roofline_fraction": 0.635, "kernels_us": 1600.0, "peak_gb": 12.34,
    } | values  # fmt: skip


def keep(folder: Path, machine: str, commit: str, date: str, **values: Any) -> Path:
    """A file as ``--out`` writes it."""
    path = folder / machine / "layer" / f"{commit}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {
        "commit": commit,
        "date": date,
        "machine": f"{machine}, a driver",
        "rows": [row(**values)],
    }
    path.write_text(json.dumps(held))
    return path


def test_the_page_has_the_newest_file_of_each_machine(tmp_path: Path) -> None:
    page = layer.PAGE.text([
        keep(tmp_path, "h200", "b" * 40, "2026-02-01"),
        keep(tmp_path, "h200", "a" * 40, "2026-01-01", us=7777.0),
        keep(tmp_path, "h100", "a" * 40, "2026-01-01", us=5555.0),
    ])  # fmt: skip
    assert "| decode | 64 | 256 | 2000 | 32,000 | 25 | 2,700 | 64 % | 1600 | 1.25 | 12.3 |" in page
    assert "## h200, bbbbbbbbbbbb" in page
    assert "5555" in page
    assert "7777" not in page


def test_the_committed_page_is_of_the_committed_numbers() -> None:
    found = layer.PAGE.text(layer.PAGE.files())
    assert (_problem.ROOT / layer.PAGE.path).read_text() == found


def test_every_entry_has_its_operator_and_fits_a_gpu() -> None:
    for entry, problems in layer.KINDS.items():
        for case in problems:
            assert type(case) in layer.STEMS, entry
            assert case.cost().bytes < 100e9, entry


def test_what_fills_a_gpu_is_measured_at_the_same_sizes() -> None:
    """A step of training is its forward and its backward: of one of them alone nothing follows."""
    filling = ("prefill", "training forward", "training backward")
    assert [[case.t for case in layer.KINDS[entry]] for entry in filling] == [[4096, 16384]] * 3
    assert all(case.cache for case in layer.KINDS["training forward"])


def test_a_backward_is_given_the_transposed_payloads(monkeypatch: pytest.MonkeyPatch) -> None:
    case = MoeLayerBackward(t=3, h=128, i=128, shared=128, e=2, k=1, groups=1, limit=1)
    inputs = case.inputs("cpu")
    monkeypatch.setattr(MoeLayerBackward, "inputs", lambda self, device: dict(inputs))
    found = layer.prepared(case)
    for name in ("gate_up", "down", "shared_gate_up", "shared_down"):
        turned = found[f"{name}_t"]
        assert turned.is_contiguous()
        assert turned.float().mT.equal(inputs[name].float())


def test_an_entry_that_fails_is_told_and_the_rest_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(entry: str, case: Any, limit: Ceilings) -> dict[str, Any]:
        del limit
        if case.t == 1:
            raise RuntimeError("out of something\nand more")
        return row(entry=entry, tokens=case.t)

    monkeypatch.setattr(layer, "ceilings", lambda: Ceilings(1.0, 1.0))
    monkeypatch.setattr(layer, "measured", measured)
    rows, failed = layer.examine(["decode"], small=True)
    assert failed == 1
    assert [one["tokens"] for one in rows] == [16, 64, 64, 64]
    assert "decode, 1 tokens, 256 experts: out of something\n" in capsys.readouterr().err


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert layer.main(["encode"]) == 2
    assert "got encode" in capsys.readouterr().err
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: False)
    assert layer.main([]) == 3
    assert "needs a Hopper GPU" in capsys.readouterr().err
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: True)
    monkeypatch.setattr(doctor, "require", lambda packages, of: None)
    monkeypatch.setattr(layer, "examine", lambda entries, small: ([row(entry=entries[0])], 1))
    out = tmp_path / "out.json"
    assert layer.main(["prefill", "--commit", "HEAD", "--out", str(out)]) == 1
    held = json.loads(out.read_text())
    assert held["rows"][0]["entry"] == "prefill"
    assert len(held["commit"]) == 40

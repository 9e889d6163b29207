"""The gate on a Hopper GPU: a kernel that was made slower between two commits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests._miniature.build import run
from tests._throwaway.build import build

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("scipy", reason="the gate needs scipy")
pytest.importorskip("rich", reason="the gate needs rich")
REFERENCE = '''"""A copy."""

import torch


def tiles(x: torch.Tensor) -> torch.Tensor:
    """x again."""
    return x.clone()
'''


@pytest.mark.gpu
@pytest.mark.long
def test_a_slower_kernel_is_a_regression(tmp_path: Path) -> None:
    """By its device time, in microseconds and in cycles; its exactness is what it was."""
    root = tmp_path / "project"
    commits = build(root, {"reference_impl/tiles.py": REFERENCE})
    found, text = tmp_path / "found.json", tmp_path / "found.md"
    done = run(
        root, "gate", "compare", commits["first"], commits["again"], "tiles", "n=4096", "--blocks", "2",
        "--json", str(found), "--markdown", str(text),
    )  # fmt: skip
    assert done.returncode == 10, done.stdout + done.stderr
    rows = {row["metric"]: row for row in json.loads(found.read_text())["rows"]}
    assert (rows["device_us"]["verdict"], rows["device_us"]["gates"]) == ("regressed", True)
    assert rows["device_us"]["change"] > 0.1
    exact = [rows[metric] for metric in ("differing_elements", "max_error") if metric in rows]
    assert all(row["verdict"] == "same" for row in exact)
    assert "regressed" in text.read_text()
    back = run(
        root, "gate", "compare", commits["again"], commits["first"], "tiles", "n=4096", "--blocks", "2",
    )  # fmt: skip
    assert back.returncode == 0, back.stdout + back.stderr

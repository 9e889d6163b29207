"""results/report.html says what the newest sweep lacks, and which commit a table is of instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests._miniature import browser
from tests._tree import H200, NEW, SMALL, Box, grow, put

pytest.importorskip("pandas", reason="the report needs pandas")

from harness import _page
from tests.test_report_page import load, rows

if TYPE_CHECKING:
    from pathlib import Path

LACKS = "Not measured at cccccccc, the newest sweep of this machine:"
OLDER = (
    "All figures of this table, codegen too, are of bbbbbbbb. "
    "cccccccc compiles 1 of 1 cases to other machine code."
)
ACT = "layer=o,m=4096,k=16384,x=bf16,pow2=False,floor=None,data=normal"


def said(root: Path, operator: str) -> list[str]:
    """What stands between the heading of an operator on the GPU and its curves, and its row above."""
    page = _page.html(load(root), [], {})
    section = page.split(f'id="nvidia-h200/{operator}"')[1].partition('<div class="history">')[0]
    row = page.split(f'<a href="#nvidia-h200/{operator}">')[1].partition("</tr>")[0]
    found = [browser.text(part) for part in re.findall(r"<p.*?</p>", section)]
    return [*found, browser.text(re.findall(r"<td.*?</td>", row)[-1])]


def test_what_the_newest_sweep_lacks_is_said(tmp_path: Path) -> None:
    """A table of an older log names it, and what became of the code; a case that is gone is missed."""
    root = grow(tmp_path)
    logs = [log for log in load(root) if log.machine == "nvidia-h200"]
    assert len(logs) == 2
    assert said(root, "act_quant") == ["bbbbbbbb of 2026-08-22, Triton 3.6.0", "bbbbbbbb"]
    kernel = {"sass_code": "1", "grid": [1], "warps": 4, "shared": 8}
    box = Box(root, "nvidia-h200", H200)
    old, writer = box.log(NEW), box.log("c" * 40, "2026-08-23T12:00:00Z")
    put(writer, "device_us", [33.0], case=SMALL)
    for one, code in ((old, "1"), (writer, "2")):
        more = {
            "operator": "act_quant",
            "case": ACT,
            "detail": {"kernels": [kernel | {"sass_code": code}]},
        }
        put(one, "registers", [30 + int(code)], **more)
    assert said(root, "act_quant") == [
        "bbbbbbbb of 2026-08-22, Triton 3.6.0",
        f"{LACKS} act_quant (1 case, last at bbbbbbbbbbbb). {OLDER}",
        "bbbbbbbb, older",
    ]
    held = rows(_page.html(load(root), [], {}), "nvidia-h200", "act_quant")
    assert (held["device, µs"], held["registers"]) == (["56.10"], ["31"]), "of one commit"
    assert said(root, "fp8_gemm")[1:] == [
        f"{LACKS} fp8_gemm (1 case, last at bbbbbbbbbbbb).",
        "cccccccc",
    ]
    put(writer, "device_us", [50.0], operator="act_quant", case=ACT)
    put(writer, "device_us", [700.0])
    for operator in ("act_quant", "fp8_gemm"):
        assert len(said(root, operator)) == 2


def test_a_log_that_only_compiled_is_no_sweep(tmp_path: Path) -> None:
    root = grow(tmp_path)
    put(Box(root, "nvidia-h200", H200).log("c" * 40, "2026-08-23T12:00:00Z"), "registers", [1])
    assert len(said(root, "act_quant")) == 2

"""README's tables of the layer and of the experts' products; tokens a second, which no log holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests._tree import H200, Box, grow, put, rows, table

pytest.importorskip("pandas", reason="the report needs pandas")

from benchmarks import cases
from harness import _logs, _page, report

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.rawlog import Writer

TABLES = ("layers", "grouped", "experts", "quantisers")
LAYER = "layer=moe,t={t},h=7168,i=2048,shared=2048,e=256,k=8"
PRODUCT = "layer=expert_down,e=8,t=32768,n=7168,k=2048,topk=1,routing=even,out=bf16,data=normal"
MASKED = (
    "layer=expert_down,e=6,c=1536,t=6144,n=7168,k=2048,topk=1,routing=about,over=0,out=bf16,"
    "data=normal"
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "draw", lambda *_: "not drawn")
    return grow(tmp_path)


def writer(root: Path) -> Writer:
    return Box(root, "nvidia-h200", H200).log("c" * 40, "2026-08-23T12:00:00+02:00")


def made(root: Path, name: str) -> list[list[str]]:
    report.main(["--root", str(root)])
    return table(root, name)


def test_tokens_a_second_of_the_layer(root: Path) -> None:
    """In README, in summary.csv with its quartiles, and on the page; of layers, and of t tokens."""
    log = writer(root)
    more = {"operator": "moe_layer", "case": LAYER.format(t=4096)}
    put(log, "device_us", [4000.0, 5000.0, 8000.0], throttled=True, **more)
    put(log, "tflops", [600.0], **more)
    put(log, "device_us", [100.0], operator="moe_layer_decode", case=LAYER.format(t=1))
    put(log, "device_us", [1.0], operator="moe_layer_decode", case=LAYER.format(t=0))
    put(log, "device_us", [9.0], operator="permute", case=LAYER.format(t=128))
    assert made(root, "layers") == [
        [
            "`moe_layer`",
            "layer=moe,t=4096,k=8",
            "256",
            "5000.0 †",
            "819,200 †",
            "600",
            "-",
            "-",
            "-",
        ],
        ["`moe_layer_decode`", "layer=moe,t=0,k=8", "256", "1.00", "-", "-", "-", "-", "-"],
        ["`moe_layer_decode`", "layer=moe,t=1,k=8", "256", "100.0", "10,000", "-", "-", "-", "-"],
    ]
    summed = rows(root, metric="tokens_per_s")
    assert [row["operator"] for row in summed] == ["moe_layer", "moe_layer_decode"]
    found = {
        name: summed[0][name] for name in ("value", "q25", "q75", "unit", "samples", "throttled")
    }
    assert found == {
        "value": "819200", "q25": "665600", "q75": "921600", "unit": "tokens/s", "samples": "3",
        "throttled": "True",
    }  # fmt: skip
    page = _page.html(_logs.load(root / "results", lambda _: None), [], {})
    sections = {name: page.split(f"nvidia-h200/{name}\" data-")[1].partition("</section>")[0]
                for name in ("moe_layer", "moe_layer_decode", "permute")}  # fmt: skip
    assert ">819,200 †</td>" in sections["moe_layer"]
    assert ">10,000</td>" in sections["moe_layer_decode"]
    assert "tokens/s" not in sections["permute"]


def test_the_experts_products_beside_a_peer(root: Path) -> None:
    log = writer(root)
    for case, ours, theirs in ((PRODUCT, 1000.0, 750.0), (MASKED, 200.0, None)):
        more = {
            "operator": f"grouped_gemm_{'masked' if 'c=' in case else 'contiguous'}",
            "case": case,
        }
        put(log, "device_us", [ours], **more)
        put(log, "tflops", [900.0], **more)
        put(log, "differing_elements", [0], **more)
        if theirs:
            put(log, "device_us", [theirs], implementation="deep_gemm", **more)
            put(log, "differing_elements", [1500], implementation="deep_gemm", **more)
    put(log, "device_us", [5.0], operator="grouped_gemm_wgrad", case="e=2,t=512,n=128,k=256")
    contiguous, masked = made(root, "grouped")
    assert contiguous == [
        "`grouped_gemm_contiguous`", "expert_down", "7168 x 2048", "8", "32,768 even", "1000.0", "900",
        "-", "-", "750.0", "0.75", "0 / 1,500",
    ]  # fmt: skip
    problem: Any = cases.find("grouped_gemm_masked", MASKED)
    rows_there = sum(problem.counts)
    assert 6 * 700 < rows_there < 6 * 1300, "six experts of 0.7 to 1.3 times 1024"
    assert masked[3:6] == ["6", f"{rows_there:,} about, up to 1536 each", "200.0"]
    assert masked[-3:] == ["-", "-", "0 / -"]
    text = (root / "README.md").read_text()
    assert "DeepGEMM, us | DeepGEMM / ours | differing elements, ours / DeepGEMM |" in text


def test_without_a_peer_there_is_no_column_for_one(root: Path) -> None:
    gone = PRODUCT.replace("t=32768", "t=12345")
    put(writer(root), "device_us", [1.0], operator="grouped_gemm_contiguous", case=gone)
    (row,) = made(root, "grouped")
    assert row[4:] == ["- even", "1.00", "-", "-", "-", "-"], "a case that is gone has no rows"
    assert "| of roofline | differing elements |" in (root / "README.md").read_text()


def test_no_table_has_what_another_one_has(root: Path) -> None:
    log = writer(root)
    for stem in cases.names():
        for case in cases.load(stem).CASES:
            if case.bench and "layer" in case.label:
                put(log, "device_us", [1.0], operator=stem, case=case.label)
    report.main(["--root", str(root)])
    shown = {name: {row[0].strip("`") for row in table(root, name)} for name in TABLES}
    for name, operators in shown.items():
        assert operators, name
        assert not any(operators & other for one, other in shown.items() if one != name)
    assert set().union(*shown.values()) == set(cases.names()) - {"fp8_gemm", "wgmma"}

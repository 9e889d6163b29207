"""The tables and the picture show the right commit's numbers, and what failed or is missing."""

from __future__ import annotations

import pytest

from tests._tree import (
    CASE,
    H200,
    LAPTOP,
    NEW,
    README,
    SMALL,
    Box,
    grow,
    put,
    table,
)

pytest.importorskip("pandas", reason="the report needs pandas")

from typing import TYPE_CHECKING

from harness import _logs, _markdown, _table_parts, report

if TYPE_CHECKING:
    from pathlib import Path

draw = report.draw


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn, which takes a second, but by the tests of the picture."""
    monkeypatch.setattr(report, "draw", lambda *_: "not drawn")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return grow(tmp_path)


def run(root: Path) -> int:
    """The command on this tree."""
    return report.main(["--root", str(root)])


def test_the_gemm_table(root: Path) -> None:
    run(root)
    small, big = table(root, "fp8_gemm")
    assert big == [
        "o", "4096", "7168 x 16384", "710.0", "1359", "88 %", "1420.0", "2.00", "0 / 1,234,567",
    ]  # fmt: skip
    assert small == ["o", "1", "7168 x 16384", "died", "died", "died", "40.00 †", "-", "- / -"]
    text = (root / "README.md").read_text()
    assert "† The GPU throttled" in text
    assert f"commit {NEW[:12]} of 2026-08-22" in text
    assert "over 1 to 2 rounds" in text
    assert "stale words" not in text
    assert all(f"before {name}\n" in text for name in ("codegen", "launch"))


def test_the_experts_table(root: Path) -> None:
    """Problems of the model, in the order of their case tables; what is of other tables is not here."""
    assert table_of(root) == []
    writer = Box(root, "h200", H200).log("c" * 40, "2026-08-23T12:00:00+02:00")
    layer = "layer=moe,t=1,h=7168,e=256,k=8,x=e4m3,weights=True,routing=uniform"
    for case, us in (
        (layer.replace("t=1", "t=128"), 8.0),
        (layer, 2.0),
        ("t=16,h=1024,e=32,k=4", 1.0),
    ):
        put(writer, "device_us", [us] * 3, operator="permute", case=case)
    put(writer, "copy_fraction", [0.5], operator="permute", case=layer)
    put(writer, "device_us", [9.0], operator="wgmma", case="m=64,n=64,k=128")
    assert table_of(root) == [
        ["`permute`", "layer=moe,t=1,k=8", "2.00", "-", "50 %", "-"],
        ["`permute`", "layer=moe,t=128,k=8", "8.00", "-", "-", "-"],
    ]


def table_of(root: Path) -> list[list[str]]:
    run(root)
    return table(root, "experts")


def test_the_other_tables(root: Path) -> None:
    run(root)
    assert table(root, "quantisers") == [
        ["`act_quant`", "o", "4096 x 16384", "56.10", "3613", "86 %"]
    ]
    (code,) = table(root, "codegen")
    assert code == [
        "`fp8_gemm`",
        "layer=o,m=4096,n=7168,k=16384",
        "168",
        "-",
        "-",
        "4",
        "-",
        "m64n128k32",
        "-",
    ]
    (launch,) = table(root, "launch")
    assert launch == ["`fp8_gemm`", "kernels", "1", "9.50", "9.50", "9.50"]
    laptop, gpu = table(root, "machines")
    assert laptop[:4] == ["`laptop`", "none (Xeon)", "none", "1980 / 3201"]
    assert gpu[:5] == ["`nvidia-h200`", "NVIDIA H200", "580.159", "1980 / 3201", "700.0"]
    assert gpu[-1] == "2"
    assert "`nvidia-h200`" in (root / "results" / "README.md").read_text()


def test_what_a_table_lacks_is_named_below_it(root: Path) -> None:
    """Of the commit's other logs, of this machine's older ones; not what is no case, or failed."""
    lost, older, compiled = (
        f"layer=moe,t={t},h=7168,e=256,k=8,x=e4m3,weights=True,routing=uniform" for t in (128, 1, 16384)
    )  # fmt: skip
    gpu, laptop = Box(root, "h200", H200), Box(root, "laptop", LAPTOP)
    other = Box(root, "h100", H200 | {"gpu": "NVIDIA H100"}).log("9" * 40, "2026-08-20")
    put(other, "device_us", [2.0], operator="permute", case=compiled)
    for case in (older, "layer=none,t=2"):
        put(gpu.log("c" * 40, "2026-08-23"), "device_us", [2.0], operator="permute", case=case)
    writer = gpu.log("d" * 40, "2026-08-24")
    put(writer, "device_us", [2.0], operator="unpermute", case="layer=moe,t=1")
    status = {"operator": "permute", "case": lost, "implementation": "kernels", "phase": "run"}
    writer.append("status", **status, status="failed", reason="why")
    run(root)
    said = "Not measured at this commit: `permute` (1 case, last at cccccccccccc).\n"
    assert said in (root / "README.md").read_text()
    for case in (compiled, lost, "t=16,h=1024,e=32,k=4"):
        put(laptop.log("d" * 40, "2026-08-24"), "spills", [0], operator="permute", case=case)
    run(root)
    text = (root / "README.md").read_text()
    assert said not in text
    assert (
        "Not measured at this commit: `permute` (1 case, last at cccccccccccc), "
        "`permute` (1 case, never on this machine).\n"
    ) in text
    put(writer, "device_us", [2.0], operator="permute", case=older)
    put(writer, "device_us", [2.0], operator="permute", case=compiled)
    run(root)
    before, _, _ = (root / "README.md").read_text().partition("before launch")
    assert "`permute` (" not in before.partition("before codegen")[0]


def test_rows_that_tokens_were_sent_to_have_a_label_for_a_shape(root: Path) -> None:
    """Their k is how many experts a token has, and no side of a matrix."""
    writer = Box(root, "nvidia-h200", H200).log(NEW)
    label = "layer=moe,t=4096,c=4096,e=256,k=8,routing=uniform,pow2=True"
    put(writer, "device_us", [184.1], operator="act_quant", case=label)
    run(root)
    assert ["`act_quant`", "moe"] in [row[:2] for row in table(root, "quantisers")]
    (shape,) = [row[2] for row in table(root, "quantisers") if row[1] == "moe"]
    assert {"t=4096", "k=8", "c=4096"} <= set(shape.split(","))


def test_cases_that_compile_alike_share_a_row(root: Path) -> None:
    writer = Box(root, "nvidia-h200", H200).log("c" * 40, "2026-09-01")
    for case, registers in ((CASE, 168), (SMALL, 168), ("m=7,n=1,k=128,out=fp32,data=normal", 90)):
        put(writer, "registers", [registers], case=case)
    run(root)
    shared, single = table(root, "codegen")
    assert shared[1:3] == ["2 cases, such as layer=o,m=1,n=7168,k=16384", "168"]
    assert single[1:3] == ["m=7,n=1,k=128,out=fp32", "90"]


@pytest.mark.parametrize(("word", "shown"), [("failed", "failed"), ("died", "710.0, then died")])
def test_a_later_failure_is_shown(root: Path, word: str, shown: str) -> None:
    """Numbers of a wrong answer are gone; those from before a crash stay, with the crash."""
    status = {"operator": "fp8_gemm", "case": CASE, "implementation": "kernels", "phase": "run"}
    writer = Box(root, "nvidia-h200", H200).log(NEW)
    writer.append("status", **status, status=word, reason="why")
    run(root)
    assert table(root, "fp8_gemm")[1][3] == shown


def test_a_newer_commit_that_fails_is_not_hidden_by_an_older_one(root: Path) -> None:
    status = {"operator": "fp8_gemm", "case": CASE, "implementation": "kernels", "phase": "run"}
    for name, facts in (("nvidia-h200", H200), ("laptop", LAPTOP)):
        writer = Box(root, name, facts).log("e" * 40, "2026-09-01")
        writer.append("status", **status, status="failed", reason="wrong answer")
    run(root)
    assert [row[3] for row in table(root, "fp8_gemm")] == ["failed"]
    text = (root / "README.md").read_text()
    assert "Machine `nvidia-h200`" in text
    assert "No device time could be taken." in text


def test_a_failure_without_a_gpu_is_not_a_gpus(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(README)
    status = {"operator": "fp8_gemm", "case": CASE, "implementation": "kernels", "phase": "run"}
    writer = Box(tmp_path, "laptop", LAPTOP).log(NEW)
    writer.append("status", **status, status="failed", reason="wrong answer")
    run(tmp_path)
    assert table(tmp_path, "fp8_gemm") == []


def test_tables_without_data_say_so(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(README)
    assert run(tmp_path) == 0
    text = (tmp_path / "README.md").read_text()
    assert "|" not in text
    assert text.count("No log of a Hopper GPU holds") == 7
    assert "No log holds codegen yet" in text
    assert "Nothing has been measured yet" in text
    assert (tmp_path / "results" / "summary.csv").read_text().splitlines() == [
        ",".join(report.COLUMNS)
    ]


def test_the_h200_is_shown_before_a_newer_h100(root: Path) -> None:
    other = Box(root, "nvidia-h100", H200 | {"gpu": "NVIDIA H100"}).log("d" * 40, "2026-10-01")
    put(other, "device_us", [1.0])
    logs = _logs.load(root / "results", lambda _: None)
    shown = _logs.newest(logs, ("fp8_gemm",))
    assert shown is not None
    assert shown.commit == NEW[:12]
    only = _logs.newest([log for log in logs if log.machine == "nvidia-h100"], ("fp8_gemm",))
    assert only is not None


def test_numbers_are_spelled_one_way() -> None:
    assert [report.number(value) for value in (2**40 + 1, 3.0, 0.1 + 0.2)] == [
        str(2**40 + 1),
        "3",
        "0.3",
    ]
    assert [_markdown.micro(value) for value in (7.256, 738.14)] == ["7.26", "738.1"]


def test_the_case_order_is_the_tables_not_the_alphabets(root: Path) -> None:
    run(root)
    assert [row[1] for row in table(root, "fp8_gemm")] == ["1", "4096"]
    logs = _logs.load(root / "results", lambda _: None)
    assert _table_parts.peers(logs[-1], "fp8_gemm") == ["cublaslt"]


def test_the_picture_is_the_same_bytes_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    monkeypatch.setattr(report, "draw", draw)
    run(root)
    picture = root / "docs" / "roofline.svg"
    first = picture.read_bytes()
    picture.unlink()
    run(root)
    assert picture.read_bytes() == first
    for words in (
        b"NVIDIA H200",
        NEW[:12].encode(),
        b"fp8, measured: 1520",
        b"4.00 TB/s",
        b"act_quant",
    ):
        assert words in first, words


def test_points_of_the_picture(root: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    from harness import _plots

    point = _plots.Point
    log = _logs.newest(_logs.load(root / "results", lambda _: None), ("fp8_gemm",))
    assert log is not None
    m, n, k = 4096, 7168, 16384
    nbytes = (m + n) * k + 4 * (m + n // 128) * (k // 128) + 2 * m * n
    assert _plots.gemm_points(log, "kernels") == {m: [point(2 * m * n * k / nbytes, 1359.0)]}
    moved = m * k * 3 + m * k // 128 * 4
    assert _plots.copy_points(log, "act_quant") == [point(moved, 3613.0)]
    limits = _plots.ceilings(log)
    assert limits.gbps == 4001.0
    assert limits.tflops == {"fp8": 1520.0, "bf16": 730.0}

"""A small tree of raw logs, as a repository would hold them, and readers of what is made of it."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from benchmarks import rawlog
from benchmarks.metrics import METRICS

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "a" * 40, "b" * 40
H200 = {
    "gpu": "NVIDIA H200", "driver": "580.159", "capability": "9.0", "cpu": "Xeon",
    "torch": "2.11.0", "triton": "3.6.0",
    "sm_clock_max_mhz": "1980", "memory_clock_max_mhz": "3201", "power_limit_w": "700.0",
}  # fmt: skip
LAPTOP = H200 | {
    "gpu": "none",
    "driver": "none",
    "capability": "none",
    "torch": "2.13.0",
    "triton": "3.7.1",
}
CASE = "layer=o,m=4096,n=7168,k=16384,out=bf16,data=normal"
SMALL = "layer=o,m=1,n=7168,k=16384,out=bf16,data=normal"
TIMES = [[700.0, 720.0, 710.0, 705.0], [730.0, 715.0, 701.0]]
README = "".join(
    f"before {name}\n<!-- table: {name} -->\nstale words\n<!-- end table -->\nafter {name}\n"
    for name in (
        "fp8_gemm",
        "quantisers",
        "layers",
        "grouped",
        "experts",
        "codegen",
        "launch",
        "roofline",
        "machines",
    )
)


class Box:
    """A machine that writes raw logs."""

    def __init__(self, root: Path, name: str, facts: dict[str, str]) -> None:
        self.root, self.name, self.facts = root, name, facts

    def log(self, commit: str, date: str = "2026-08-22T12:00:00+02:00") -> rawlog.Writer:
        """A new log with its process row."""
        name = rawlog.file_name(commit, "3.12", self.facts["torch"], self.facts["triton"])
        path = self.root / "results" / self.name / "raw" / name
        writer = rawlog.Writer(path, commit=commit, process="p")
        writer.append("process", machine=self.facts, date=date)
        return writer


def put(writer: rawlog.Writer, metric: str, values: list[float], **more: Any) -> None:
    """Append samples of fp8_gemm's big case by our kernel, unless ``more`` says otherwise."""
    row = {
        "operator": "fp8_gemm", "case": CASE, "implementation": "kernels", "metric": metric,
        "unit": METRICS[metric].unit if metric in METRICS else "", "round": 0, "samples": values,
    }  # fmt: skip
    writer.append("sample", **(row | more))


def grow(tmp_path: Path) -> Path:
    """A repository: two machines; a line cut short and a foreign file among their logs."""
    gpu = Box(tmp_path, "nvidia-h200", H200)
    fill_gpu(gpu.log(NEW))
    put(gpu.log(OLD, "2026-08-01T00:00:00Z"), "device_us", [800.0])
    laptop = Box(tmp_path, "laptop", LAPTOP).log(OLD, "2026-08-01T00:00:00Z")
    put(laptop, "spills", [16], case=SMALL)
    raw = tmp_path / "results" / "nvidia-h200" / "raw"
    newest = next(path for path in raw.iterdir() if path.name.startswith("b"))
    with newest.open("ab") as file:
        file.write(b'{"schema":1,"kind":"sample","commit":"bbbb')
    (raw / "notes.jsonl").write_text("not ours\n")
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "results" / "README.md").write_text(
        "<!-- table: machines -->\n<!-- end table -->\n"
    )
    return tmp_path


def fill_gpu(writer: rawlog.Writer) -> None:
    """Our kernel and a peer on two cases, one throttled, one failed; and the ceilings."""
    for index, values in enumerate(TIMES):
        put(writer, "device_us", values, round=index)
        put(
            writer,
            "device_us",
            [2 * value for value in values],
            round=index,
            implementation="cublaslt",
        )
    put(writer, "tflops", [1359.0])
    put(writer, "roofline_fraction", [0.875])
    put(writer, "differing_elements", [0])
    put(writer, "differing_elements", [1234567], implementation="cublaslt")
    put(writer, "launch_us", [9.5, 9.25, 30.0])
    put(
        writer,
        "registers",
        [168],
        detail={"kernels": [{"shapes": {"m64n128k32.f32.e4m3.e4m3": 4}}]},
    )
    put(writer, "wgmma", [4], detail={"kernels": [{"shapes": {"m64n128k32.f32.e4m3.e4m3": 4}}]})
    put(writer, "device_us", [40.0], implementation="cublaslt", case=SMALL, throttled=True)
    status = {"operator": "fp8_gemm", "case": SMALL, "implementation": "kernels", "phase": "run"}
    writer.append("status", **status, status="died", reason="signal 11")
    shape = {
        "operator": "act_quant",
        "case": "layer=o,m=4096,k=16384,x=bf16,pow2=False,floor=None,data=normal",
    }
    put(writer, "device_us", [56.1], **shape)
    put(writer, "gbps", [3613.0], **shape)
    put(writer, "copy_fraction", [0.86], **shape)
    for size in (1 << 20, 1 << 30):
        copy = {"operator": "machine", "case": f"copy,bytes={size}", "implementation": "copy"}
        put(writer, "gbps", [4000.0 + size / (1 << 30)], **copy)
    for case, rate in (("fp8 8192", 1520.0), ("bf16 8192", 730.0)):
        put(writer, "tflops", [rate], operator="machine", case=case, implementation="cublas")


def rows(root: Path, **wanted: str) -> list[dict[str, str]]:
    """Rows of summary.csv whose columns have these values."""
    with (root / "results" / "summary.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if wanted.items() <= row.items()]


def table(root: Path, name: str) -> list[list[str]]:
    """Cells of a table of README.md, without its header."""
    text = (root / "README.md").read_text()
    body = text.split(f"<!-- table: {name} -->")[1].split("<!-- end table -->")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]

"""Several backends beside each other: which fails what, who is absent, and the files that say so."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from benchmarks import tasks
from harness import _backends, _probes, adapter
from harness._adapter_report import Result
from harness._probes import Column, Row

WHOLE = "m=1,n=256,k=256,out=bf16,data=normal"
MINE = """
from kernels.fp8_gemm import fp8_gemm

NAME, OPERATOR, EXACT = "mine", "fp8_gemm", True
"""
THEIRS = """
from reference_impl.fp8_gemm import fp8_gemm as right

NAME, OPERATOR = "mine", "fp8_gemm"

def fp8_gemm(x_scale, **more):
    out = right(x_scale=x_scale, **more)
    x_scale[0, 0] += 1
    return out
"""
ABSENT = "import a_package_that_nobody_has"


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


@pytest.mark.long
@pytest.mark.cpu
def test_a_failing_hazard_is_a_cell_and_an_absent_package_a_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    texts = {"mine.py": MINE, "theirs.py": THEIRS, "needy.py": ABSENT}
    mine, theirs, needy = (write(tmp_path, name, text) for name, text in texts.items())
    page, held = tmp_path / "page.md", tmp_path / "held.json"
    given = [needy, "cublaslt", mine, "ours", theirs]
    options = ["--case", WHOLE, "--time", "--markdown", str(page), "--json", str(held)]
    assert adapter.main([*given, *options]) == 1
    out = capsys.readouterr().out
    columns = {one["given"]: one for one in json.loads(held.read_text())["backends"]}
    assert list(columns) == given
    found = {name: (one["contract"], one["absent"]) for name, one in columns.items()}
    assert found == {
        needy: ("", "needs what is not installed: No module named 'a_package_that_nobody_has'"),
        "cublaslt": ("", "needs a GPU"),
        mine: ("exact, as declared", ""),
        "ours": ("exact, as declared", ""),
        theirs: ("derived bound", ""),
    }
    verdicts = {name: [row["status"] for row in one["rows"]] for name, one in columns.items()}
    assert (verdicts[mine], verdicts["ours"]) == (["right"], ["right"])
    assert (verdicts[theirs], verdicts["cublaslt"]) == (["writes inputs"], [])
    text = page.read_text()
    titles = f"| needy | cublaslt | mine ({mine}) | ours | mine ({theirs}) |"
    assert f"| verdict {titles}" in text
    assert "| writes inputs | - | - | 0 | 0 | 1 |" in text
    assert "| absent | absent | right | right | writes inputs |" in text
    for said in ("cublaslt: absent: needs a GPU", "no device time without a Hopper GPU"):
        assert said in text
        assert said in out


def test_cublaslt_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert _backends.find("cublaslt", "fp8_gemm").absent == "needs a GPU"
    # A GPU that is no Hopper: nothing of ours runs there.
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("benchmarks.fingerprint.has_hopper", lambda: False)
    assert _backends.find("cublaslt", "fp8_gemm").absent == "needs a Hopper GPU"
    monkeypatch.setattr("benchmarks.fingerprint.has_hopper", lambda: True)
    assert not _backends.find("cublaslt", "fp8_gemm").absent


def test_ours_and_peers_have_the_operator_of_the_adapter(tmp_path: Path) -> None:
    assert _backends.find("cublaslt", "act_quant").absent == "has no act_quant"
    with pytest.raises(_backends.AdapterError, match="ours: expected --operator, one of act_quant"):
        _backends.find("ours")
    mine = write(tmp_path, "mine.py", MINE)
    with pytest.raises(_backends.AdapterError, match="expected an adapter of permute, got fp8_g"):
        _backends.find(mine, "permute")
    assert _backends.find(mine, "fp8_gemm").exact


def test_a_file_named_as_a_peer_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "vllm", MINE)
    assert _backends.shipped("vllm")
    monkeypatch.chdir(tmp_path)
    assert not _backends.shipped("vllm")


def probed(monkeypatch: pytest.MonkeyPatch, columns: dict[str, Column | str]) -> list[str]:
    """Puts columns, or errors, in the place of processes; gives the names as they are probed."""
    order = []

    def probe(name: str, operator: str | None, part: str | None, seconds: float) -> Column:
        order.append(f"{name} {operator}")
        found = columns[name]
        if isinstance(found, str):
            raise _backends.AdapterError(found)
        return found

    monkeypatch.setattr(_probes, "probe", probe)
    return order


def column(name: str, *statuses: str, **more: str) -> Column:
    rows = [Row(f"case {index}", status) for index, status in enumerate(statuses)]
    return Column(name, name, "act_quant", more.get("contract", "exact"), rows=rows)


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"a": column("a", "right", "not supported")}, 0),
        ({"a": column("a", "right", "wrong")}, 1),
        ({"a": column("a", "not supported")}, 1),
        ({"a": column("a", "right"), "b": column("b", "hangs")}, 1),
        ({"a": column("a", "right"), "b": Column("b", "b", "", absent="needs b")}, 0),
        ({"a": column("a", "right"), "b": "b: expected a file"}, 1),
        ({"a": Column("a", "a", "", absent="needs a")}, 2),
        ({"a": "a: expected a file"}, 2),
        ({"a": column("a")}, 2),
    ],
)
def test_exit_codes(
    columns: dict[str, Column | str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    probed(monkeypatch, columns)
    assert adapter.main(list(columns)) == code


def test_adapters_say_the_operator_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order = probed(monkeypatch, {name: column(name, "right") for name in ("ours", "a", "torchao")})
    found = adapter.judged(["ours", "a", "torchao", "a"], None, None, 1.0)
    assert order == ["a None", "ours act_quant", "torchao act_quant"]
    assert [one.name for one in found] == ["ours", "a", "torchao"]


@pytest.mark.parametrize("name", ["ours", tasks.OURS, "vllm"])
def test_an_adapter_does_not_pass_for_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probed(monkeypatch, {"a.py": Column("a.py", name, "act_quant", rows=[Row("x", "right")])})
    assert adapter.judged(["a.py"], None, None, 1.0)[0].name == f"{name} (a.py)"


def test_a_case_that_one_backend_lacks_has_a_row() -> None:
    pytest.importorskip("rich")
    result = Result("act_quant", [column("a", "right"), column("b", "right", "raises")], [])
    rows = {tuple(row) for row in result.verdicts().rows}
    assert {row[1:] for row in rows} == {("right", "right"), ("absent", "raises")}
    counts = {row[0]: row[1:] for row in result.faults().rows}
    assert (counts["right"], counts["raises"]) == (["1", "1"], ["0", "1"])
    assert not any(table.title.startswith("act_quant: device time") for table in result.tables())

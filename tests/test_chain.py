"""Kernels in a chain wait before they touch memory: read in their PTX, since no interpreter runs one kernel
before the other has ended."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from triton import knobs

from benchmarks.cases.moe_layer_decode import SMALL, MoeLayerDecode
from harness import _problem
from kernels import _chain
from kernels._device import Plans, chained, recording
from kernels.act_quant import act_quant
from kernels.moe_layer_decode import moe_layer_decode

if TYPE_CHECKING:
    from pathlib import Path

# Global and generic memory, whatever moves it; parameters and shared memory are a block's own.
MEMORY = re.compile(
    r"\b(?:ld|st|red|atom|prefetch|cp\.async|cp\.reduce)(?:\.(?!param|shared)[\w:]+)*[ .](?!param|shared)"
)
WAIT, START = "griddepcontrol.wait", "griddepcontrol.launch_dependents"
PROGRAM = """
import json, torch
from benchmarks import codegen
from benchmarks.cases.moe_layer_decode import SMALL, MoeLayerDecode
from kernels import _chain
from kernels._device import chained, recording
from kernels.expert_slots import expert_slots
from kernels.moe_layer_decode import moe_layer_decode

found = []
early = ("_topk_gate_kernel", "_grouped_gemm_kernel", "_swiglu_quant_kernel")
for mode, tokens in ((_chain.OPEN, (1, 17)), (_chain.READS, (17,))):
    _chain.MODES = dict.fromkeys(_chain.MODES, mode)
    with recording() as launches, chained():
        for t in tokens:
            moe_layer_decode(**MoeLayerDecode(t=t, **SMALL).inputs("meta"))
        expert_slots(torch.empty(600, 8, dtype=torch.int64, device="meta"), 16, 600)
    with codegen.offline():
        for one in launches:
            name = one.kernel.__name__
            if mode == _chain.OPEN or name in early:
                made = one.kernel.warmup(*one.args, grid=one.grid, **one.options)
                chain = one.options.get("CHAIN", 0)
                found.append((name, chain, made.metadata.launch_pdl, made.asm["ptx"]))
    from kernels import act_quant, grouped_gemm_masked, permute, swiglu_quant, topk_gate, unpermute
    for module in (act_quant, grouped_gemm_masked, permute, swiglu_quant, topk_gate, unpermute):
        module._plans.clear()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, bool, list[str]]]:
    """(kernel, its CHAIN, whether launched early, lines of its PTX without comments) of decode's launches."""
    cache: Path = tmp_path_factory.mktemp("triton")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=_problem.ROOT, capture_output=True, text=True, check=False,
        env=_problem.without_interpreter() | {"TRITON_CACHE_DIR": str(cache)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [
        (name, chain, early, [line.split("//")[0] for line in ptx.splitlines()])
        for name, chain, early, ptx in json.loads(done.stdout.splitlines()[-1])
    ]


def first(lines: list[str], what: str | re.Pattern[str]) -> int:
    """Number of the first line that has it; past the last where none has."""
    pattern = re.compile(re.escape(what)) if isinstance(what, str) else what
    return next((at for at, line in enumerate(lines) if pattern.search(line)), len(lines))


def test_nothing_is_touched_before_a_kernel_has_waited(compiled: Any) -> None:
    """Nor can a branch lead around it, nor the next kernel start before."""
    names = set()
    for name, chain, early, lines in compiled:
        if chain != _chain.OPEN:
            continue
        names.add(name)
        wait = first(lines, WAIT)
        assert early, name
        assert first(lines, re.compile(r"\b(?:bra|ret)\b")) > wait, name
        assert wait < first(lines, MEMORY) < len(lines), name
        assert wait < first(lines, START) < len(lines), name
    assert names == {
        "_act_quant_kernel", "_topk_gate_kernel", "_count_kernel", "_place_kernel", "_permute_kernel",
        "_grouped_gemm_kernel", "_swiglu_quant_kernel", "_unpermute_kernel",
    }  # fmt: skip


def test_what_reads_earlier_writes_no_earlier(compiled: Any) -> None:
    """And reads nothing but what no kernel right before it in the layer has written: the logits and the
    bias, the counts."""
    reads = re.compile(r"\bld\.(?!param|shared)")
    writes = re.compile(r"\b(?:st|atom|red)(?:\.\w+)*\.global")
    early = {}
    for name, chain, launched_early, lines in compiled:
        if chain == _chain.READS:
            assert launched_early, name
            waits = first(lines, WAIT)
            assert waits < first(lines, writes) < len(lines), name
            early[name] = sum(bool(reads.search(line)) for line in lines[:waits])
    assert early["_swiglu_quant_kernel"] == early["_grouped_gemm_kernel"] == 1
    assert early["_topk_gate_kernel"] > 1


def test_no_kernel_starts_early_that_does_not_wait(compiled: Any) -> None:
    for name, chain, early, lines in compiled:
        waits = first(lines, WAIT) < len(lines)
        assert waits == early, name
        assert early == bool(chain) or name == "_promote_kernel", name


def test_only_the_layer_is_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """And there the kernels that have a mode, but for the shared expert's."""
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    # Plans made here are none of the interpreter's.
    for name, module in [*sys.modules.items()]:
        if name.startswith("kernels.") and hasattr(module, "_plans"):
            monkeypatch.setattr(module, "_plans", Plans())
    x = torch.empty(4, 256, dtype=torch.bfloat16, device="meta")
    with recording() as launches:
        act_quant(x)
        moe_layer_decode(**MoeLayerDecode(t=17, **SMALL).inputs("meta"))
        act_quant(x)
    found = [launch.options.get("launch_pdl", False) for launch in launches]
    modes = [
        _chain.MODES[name] if name else _chain.OFF
        for name in (
            None, "act_quant", None, None, None, "topk_gate", "expert_slots", "permute",
            "grouped_gemm", "swiglu_quant", "grouped_gemm", "unpermute", None,
        )
    ]  # fmt: skip
    assert found == [mode > 0 for mode in modes]
    assert [launch.options.get("CHAIN", 0) for launch in launches] == modes


def test_modes_are_known() -> None:
    assert set(_chain.MODES.values()) <= {_chain.OFF, _chain.WAITS, _chain.OPEN, _chain.READS}
    with chained():
        assert _chain.mode("weight_quant") == _chain.OFF

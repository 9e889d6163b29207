"""Kernels in a chain wait before they touch memory: read in their PTX, since no interpreter runs one kernel
before the other has ended."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from triton import knobs

from benchmarks.cases.moe_layer_decode import SMALL, MoeLayerDecode
from harness import _problem
from kernels import _chain
from kernels._device import Plans, chained, recording
from kernels.act_quant import act_quant
from kernels.moe_layer_decode import moe_layer_decode

# Of this file's tree: a planted fault is in a copy, and what is imported of the harness may be another's.
ROOT = Path(__file__).resolve().parents[1]
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

found, apart = [], []
real = dict(_chain.MODES)
early = ("_topk_gate_kernel", "_grouped_gemm_kernel", "_swiglu_quant_kernel")
for mode, tokens in ((_chain.OPEN, (1, 17)), (_chain.READS, (17,)), (None, (1, 17))):
    _chain.MODES = real if mode is None else dict.fromkeys(real, mode)
    with recording() as launches, chained():
        for t in tokens:
            moe_layer_decode(**MoeLayerDecode(t=t, **SMALL).inputs("meta"))
        expert_slots(torch.empty(600, 8, dtype=torch.int64, device="meta"), 16, 600)
    with codegen.offline():
        for one in launches:
            name = one.kernel.__name__
            if mode != _chain.READS or name in early:
                made = one.kernel.warmup(*one.args, grid=one.grid, **one.options)
                chain = one.options.get("CHAIN", 0)
                ptx = made.asm["ptx"]
                (apart if mode is None else found).append((name, chain, made.metadata.launch_pdl, ptx))
    from kernels import act_quant, grouped_gemm_masked, permute, swiglu_quant, topk_gate, unpermute
    for module in (act_quant, grouped_gemm_masked, permute, swiglu_quant, topk_gate, unpermute):
        module._plans.clear()
with recording() as launches:
    x = torch.empty(1024, 384, dtype=torch.float8_e4m3fn, device="meta")
    slot = torch.empty(1024, 2, dtype=torch.int32, device="meta")
    permute.permute(x, torch.empty(1024, 3, device="meta"), slot, 2560)
with codegen.offline():
    moves = [one.kernel.warmup(*one.args, grid=one.grid, **one.options) for one in launches]
moves = [(one.metadata.name, 0, one.metadata.launch_pdl, one.asm["ptx"]) for one in moves]
print(json.dumps({"each": found, "real": apart, "permute": moves}))
"""


Compiled = list[tuple[str, int, bool, list[str]]]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Compiled]:
    """(kernel, its CHAIN, whether launched early, lines of its PTX without comments): of decode's launches in
    each mode and in the real ones, and of permute for many tokens."""
    cache: Path = tmp_path_factory.mktemp("triton")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False,
        env=_problem.without_interpreter() | {"TRITON_CACHE_DIR": str(cache)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return {
        what: [
            (name, chain, early, [line.split("//")[0] for line in ptx.splitlines()])
            for name, chain, early, ptx in found
        ]
        for what, found in json.loads(done.stdout.splitlines()[-1]).items()
    }


@pytest.fixture(scope="module")
def compiled(every: dict[str, Compiled]) -> Compiled:
    return every["each"]


def first(lines: list[str], what: str | re.Pattern[str]) -> int:
    """Number of the first line that has it; past the last where none has."""
    pattern = re.compile(re.escape(what)) if isinstance(what, str) else what
    return next((at for at, line in enumerate(lines) if pattern.search(line)), len(lines))


@pytest.mark.long  # they compile
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


@pytest.mark.long  # they compile
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


@pytest.mark.long  # they compile
def test_no_kernel_starts_early_that_does_not_wait(every: dict[str, Compiled]) -> None:
    for name, chain, early, lines in every["each"] + every["real"]:
        waits = first(lines, WAIT) < len(lines)
        assert waits == early, name
        assert early == bool(chain) or name == "_promote_kernel", name


@pytest.mark.long  # they compile
def test_permute_waits_for_its_own_kernels(every: dict[str, Compiled]) -> None:
    """The first is launched as always, so that all before it is complete; the second waits before it
    stores tokens where the first stored -1, whatever branch it took; the third before anything."""
    assert [early for _, _, early, _ in every["permute"]] == [False, True, True]
    clear, lines, scales = [ptx for _, _, _, ptx in every["permute"]]
    assert first(clear, WAIT) == len(clear)
    assert first(scales, WAIT) < first(scales, MEMORY) < len(scales)
    wait = first(lines, WAIT)
    stores = [at for at, line in enumerate(lines) if re.search(r"\bst\.global", line)]
    assert stores[0] < wait < stores[-1]
    targets = [
        found[1]
        for line in lines[:wait]
        if (found := re.search(r"\bbra(?:\.uni)?\s+(\$\w+)", line))
    ]
    assert targets
    assert all(first(lines, f"{label}:") < wait for label in targets)


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
    off, opens, reads = _chain.OFF, _chain.OPEN, _chain.READS
    # act_quant, then the shared expert's three, the router, slots and rows, the experts, the sum.
    modes = [off, opens, off, off, off, reads, opens, opens, reads, reads, reads, off, off]
    assert found == [mode > 0 for mode in modes]
    assert [launch.options.get("CHAIN", 0) for launch in launches] == modes


def test_modes_are_known() -> None:
    assert set(_chain.MODES.values()) <= {_chain.OFF, _chain.OPEN, _chain.READS}
    with chained():
        assert _chain.mode("weight_quant") == _chain.OFF

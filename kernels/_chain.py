"""Kernels in a chain: the next one's programs are there before the last one has ended.

Programmatic dependent launch, of Hopper and later: a kernel launched with ``launch_pdl`` starts once all
programs of the kernel before have called ``gdc_launch_dependents`` or ended, and ``gdc_wait`` holds its
programs until that kernel is complete and its writes can be read.  So a launch and its latency lie beside
the kernel before instead of behind it.

It is for a layer that launches one short kernel after the other (kernels._device.chained); elsewhere
an operator's first kernel is launched as always.  Three rules make it safe:

- a program lets the next kernel start only after it has waited itself.  So when a kernel starts, all
  before the last one are complete, and chains of early starts do not take the multiprocessors from what
  runs beside.
- a program touches no memory before it has waited, not even to write: the allocator gives out what the
  kernel before may still read.  tests/test_chain.py looks for it in the PTX.  What no kernel of the chain
  but one before the last has written may be read earlier (READS).
- one program at least waits, or the kernel could be complete before those it stands on.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton import knobs
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels._device import in_chain

# What a kernel does in a chain.  OPEN: waits first; as soon as its last programs run, those of the next
# kernel take what room is left.  READS: the same, but waits behind its first reads, in a place of its own.
OFF, OPEN, READS = 0, 1, 2
MODES = {
    "act_quant": OPEN,
    "topk_gate": READS,  # of the caller's logits: it is never the first
    "expert_slots": OPEN,
    "permute": OPEN,
    "grouped_gemm": READS,
    "swiglu_quant": READS,
    "unpermute": OFF,  # it gained nothing: it waits for the shared expert as well
}


@triton.jit
def begin(CHAIN: tl.constexpr):
    """To be called before anything else that a kernel does.  CHAIN: of :func:`mode`."""
    if CHAIN == 1:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def later(CHAIN: tl.constexpr):
    """To be called where a kernel can be READS: before it writes, or reads what the last kernel wrote."""
    if CHAIN == 2:
        gdc_wait()
        gdc_launch_dependents()


def mode(kernel: str) -> int:
    """OFF outside a chain, and in Triton's interpreter, which knows no PTX."""
    return MODES.get(kernel, OFF) if in_chain() and not knobs.runtime.interpret else OFF


def options(chain: int) -> dict[str, Any]:
    """Of a plan whose kernel begins with ``begin(chain)``."""
    return {"launch_pdl": True} if chain else {}

"""``python -m harness.layer``: DeepSeek-V3's layer at its true size, entry by entry, on a Hopper GPU.

For each entry and number of tokens: the time of one call in a CUDA graph, tokens a second, the part of
the roofline that this is, the most device memory held, weights included, and what the kernels of the
call add up to by torch's profiler.  Slices are the layer of an expert-parallel rank: its local experts,
and as many tokens as other ranks send it.

``--out FILE`` keeps the numbers, as results/MACHINE/layer/COMMIT.json; ``--write`` makes docs/layer.md of
the files that are there, and needs no GPU.  Nothing is compared here: parity at this size is the
sweep's, and that of weight gradients harness.exact_backward's.

Exit codes: 0; 1 an entry failed; 2 the command line asks for what there is not; 3 no Hopper GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases, fingerprint, measure, roofline
from benchmarks.cases.moe_layer import MoeLayer
from benchmarks.cases.moe_layer_backward import MoeLayerBackward
from benchmarks.cases.moe_layer_decode import MoeLayerDecode
from harness import _kept, _problem, doctor
from harness._markdown import count, percent
from kernels._moe import Weights, transpose

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.roofline import Ceilings

SLICE: dict[str, Any] = {"t": 16384, "k": 1, "groups": 1, "limit": 1}
KINDS: dict[str, Any] = {
    "prefill": [MoeLayer(t=t) for t in (4096, 16384)],
    "training forward": [MoeLayer(t=t, cache=True) for t in (4096, 16384)],
    "training backward": [MoeLayerBackward(t=t) for t in (4096, 16384)],
    "decode": [MoeLayerDecode(t=t) for t in (1, 16, 64, 128, 256)],
    "slice, prefill": [MoeLayer(e=e, **SLICE) for e in (8, 9, 16)],
    "slice, backward": [MoeLayerBackward(e=e, **SLICE) for e in (8, 9, 16)],
}
STEMS = {
    MoeLayer: "moe_layer",
    MoeLayerBackward: "moe_layer_backward",
    MoeLayerDecode: "moe_layer_decode",
}
HEADINGS = (
    "entry", "tokens", "experts", "us", "tokens/s", "TFLOP/s", "GB/s", "of the roofline",
    "kernels' sum, us", "over it", "peak GB",
)  # fmt: skip


def prepared(case: Any) -> dict[str, Any]:
    """Operands on the GPU; for a backward with the payloads transposed, which training keeps."""
    arguments: dict[str, Any] = case.inputs("cuda")
    if isinstance(case, MoeLayerBackward):
        turned = transpose(Weights(*(arguments[name] for name in Weights._fields)))
        arguments |= {f"{name}_t": part for name, part in turned._asdict().items()}
    return arguments


def kernels_us(call: Callable[[], Any]) -> float:
    """What the kernels of one call take, added up."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    calls = 3
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    total: float = sum(event.self_device_time_total for event in seen.key_averages())
    return total / calls


def measured(entry: str, case: Any, ceilings: Ceilings) -> dict[str, Any]:
    """A row.  Raises what the call raises."""
    import torch

    torch.cuda.empty_cache()
    arguments = prepared(case)
    function = cases.public("kernels", STEMS[type(case)])

    def call() -> Any:
        return cases.call(function, arguments)

    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 1e9
    del result
    cost = case.cost()
    # Sets of their own would not fit; the weights alone pass the L2 several times.
    us = measure.device_us(lambda: call, bytes_per_call=cost.bytes).median
    total = kernels_us(call)
    return {
        "entry": entry, "tokens": case.t, "experts": case.e, "us": us, "tokens_per_s": case.t / us * 1e6,
        "tflops": cost.flops / us / 1e6, "gbps": cost.bytes / us / 1e3,
        "roofline_fraction": ceilings.limit_us(cost) / us, "kernels_us": total, "peak_gb": peak,
    }  # fmt: skip


def ceilings() -> Ceilings:
    """Of this machine, now."""
    copy = max(size / min(roofline.copy_us(size)) / 1e3 for size in (1 << 28, 1 << 29, 1 << 30))
    fp8 = 2 * roofline.GEMM_SIDE**3 / statistics.median(roofline.gemm_us("fp8")) / 1e6
    return roofline.Ceilings(copy, fp8)


def examine(entries: Sequence[str], small: bool) -> tuple[list[dict[str, Any]], int]:
    """(rows, how many entries failed).  small: problems of a few MB, to see that everything runs."""
    import torch

    found: list[dict[str, Any]] = []
    failed = 0
    limit = ceilings()
    for entry in entries:
        for full in KINDS[entry]:
            case = replace(full, t=min(full.t, 64), h=256, i=128, shared=128) if small else full
            try:
                found.append(measured(entry, case, limit))
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                failed += 1
                said = str(error).splitlines()[0]
                print(f"{entry}, {case.t} tokens, {case.e} experts: {said}", file=sys.stderr)
    return found, failed


def line(row: dict[str, Any]) -> list[str]:
    """The cells of a row."""
    return [
        row["entry"], count(row["tokens"]), str(row["experts"]), f"{row['us']:.0f}",
        count(row["tokens_per_s"]), f"{row['tflops']:.0f}", count(row["gbps"]),
        percent(row["roofline_fraction"]), f"{row['kernels_us']:.0f}",
        f"{row['us'] / row['kernels_us']:.2f}", f"{row['peak_gb']:.1f}",
    ]  # fmt: skip


PAGE = _kept.Page(
    "docs/layer.md", "layer", """
# The layer at its true size

DeepSeek-V3's mixture of experts: 7168 channels, 8 of 256 experts of 2048 and a shared one. One call
in a CUDA graph, after the router's product (`python -m harness.layer`). TFLOP/s and GB/s: of the
products, and of operands, weights of the experts that have tokens, and results, each once. The
roofline is that of a copy and of an FP8 product, measured in the same run. Kernels' sum: by torch's
profiler; decode's start while the one before ends, and that wait counts as theirs. A slice: the local
experts of an expert-parallel rank, each token sent to one. Backward: with the payloads' transposed
copies kept, and the gate and up product computed again. Peak: of all device
memory, weights, operands and results included. Generated; do not edit.
""", HEADINGS, 1, line,
)  # fmt: skip


def known(entries: Sequence[str]) -> Sequence[str]:
    """``entries``, all of KINDS, or all where none is named.  Raises UsageError."""
    unknown = sorted(set(entries) - set(KINDS))
    if unknown:
        raise _problem.UsageError(f"entry: expected some of {', '.join(KINDS)}, got {unknown[0]}")
    return entries or list(KINDS)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.layer", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "entries", nargs="*", metavar="ENTRY", help=f"default all: {', '.join(KINDS)}"
    )
    parser.add_argument("--small", action="store_true", help="small problems, to see that all run")
    parser.add_argument("--commit", help="40 digits of the commit that this tree is; default: HEAD")
    parser.add_argument("--out", type=Path, help="keep the numbers in this file, JSON")
    parser.add_argument(
        "--write", action="store_true", help=f"only write {PAGE.path} from results/"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _options(arguments)
    if options.write:
        PAGE.write()
        return 0
    try:
        entries = known(options.entries)
        commit = _problem.commit(options.commit) if options.out else None
    except _problem.UsageError as error:
        print(error, file=sys.stderr)
        return 2
    if not fingerprint.has_hopper():
        print("layer needs a Hopper GPU. Nothing was measured.", file=sys.stderr)
        return 3
    doctor.require(["torch", "triton"], "layer")
    rows, failed = examine(entries, options.small)
    print(PAGE.table(rows))
    if commit is not None:
        _kept.keep(options.out, commit, rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

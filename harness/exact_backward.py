"""``python -m harness.exact_backward``: the layer's backward with all 256 experts against the reference.

``harness.exact`` compares the backward of the 32 experts that one of 8 GPUs has, without gradients of
weights.  Here the problem is whole, 4096 tokens and 256 experts of 7168 x 2048, and the reference
streams through it: of some 64 tokens grad_x and grad_logits, which are of all experts; and expert by
expert the gradients of weights, which are of one expert's tokens alone.  ``--weights`` says of how many
experts, from the one with the fewest tokens to the one with most (256: of all); of the shared expert
its first and last 128 channels of h, of all tokens; experts without tokens must have +0.

A call with 256 experts holds 71 GB of device memory (docs/layer.md), and what the reference takes comes
on top: it is for an H200.  On a smaller GPU take fewer, with ``--experts``, a multiple of 8.

``--out FILE`` keeps what was found, as results/MACHINE/exact_backward/COMMIT.json, part by part: a file that
is there already is added to.  ``--write`` makes docs/exact.md of the files that are there, and needs no GPU.

Exit codes: 0 nothing differs, 1 something does, 2 ``--out`` is of another commit or of a modified tree, 3
there is no Hopper GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import cases, compare
from benchmarks.cases import moe_layer_backward as module
from harness import _evidence, _problem, exact
from harness.exact import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from benchmarks.cases.moe_layer_backward import MoeLayerBackward
    from reference_impl._moe import Gradients

STEM = "moe_layer_backward"
BLOCK = 128  # channels of h that share scales: the least that is a problem of its own


class Routing(NamedTuple):
    """Of all tokens, by the reference: [T, K] each."""

    idx: torch.Tensor
    weights: torch.Tensor

    def of(self, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(its tokens in order, their weights)."""
        tokens, place = (self.idx == expert).nonzero().T
        return tokens, self.weights[tokens, place]


def route(arguments: dict[str, Any]) -> Routing:
    """The router of the reference."""
    names = ("logits", "bias", "topk", "num_groups", "num_limited_groups", "route_scale")
    gate = cases.public("reference_impl", "topk_gate")
    return Routing(*gate(*(arguments[name] for name in names))[:2])


def operands(case: MoeLayerBackward, device: str) -> dict[str, Any]:
    """With the payloads transposed, so that neither side copies 11 GB of them."""
    from kernels._moe import Weights, transpose

    arguments = case.inputs(device)
    turned = transpose(Weights(*(arguments[name] for name in Weights._fields)))
    return arguments | {f"{name}_t": part for name, part in turned._asdict().items()}


def _cut(
    arguments: dict[str, Any], kind: str, which: Any, channels: slice
) -> tuple[torch.Tensor, ...]:
    """gate_up, down and the scales of each, of some channels of h of one expert.

    kind: "" for a routed expert, whose number is ``which``, or "shared_", and ``...``.
    """
    import torch

    blocks = slice(channels.start // BLOCK, channels.stop // BLOCK)
    names = ("gate_up", "gate_up_scale", "down", "down_scale")
    gate_up, gate_up_scale, down, down_scale = (arguments[f"{kind}{name}"][which] for name in names)
    fp8 = gate_up.dtype
    return (
        halves(gate_up.view(torch.uint8), channels).view(fp8), halves(gate_up_scale, blocks),
        down.view(torch.uint8)[:, channels].contiguous().view(fp8), down_scale[:, blocks],
    )  # fmt: skip


def halves(gate_up: torch.Tensor, channels: slice) -> torch.Tensor:
    """The rows of gate and those of up that belong to some channels of h."""
    both: torch.Tensor = gate_up.unflatten(0, (2, -1))
    return both[:, channels].flatten(0, 1)


def streamed(
    arguments: dict[str, Any], tokens: torch.Tensor, weight: torch.Tensor, expert: int,
    own: slice, shared: slice,
) -> Gradients:  # fmt: skip
    """The reference's backward of ``tokens``, of which each goes to one expert, with a weight that is
    given, and to the shared one; of both only some channels of h.

    All that the weights' gradients of these channels are made of: tiles and blocks are of 128 channels,
    and no product but those that end in grad_x sums over channels of h.
    """
    import torch

    from reference_impl import _moe
    from reference_impl._grouped import ALIGNMENT
    from reference_impl.act_quant import act_quant
    from reference_impl.fp8_gemm import fp8_gemm
    from reference_impl.grouped_gemm_contiguous import grouped_gemm_contiguous
    from reference_impl.permute import permute

    routed = (part[None] for part in _cut(arguments, "", expert, own))
    w = _moe.Weights(*routed, *_cut(arguments, "shared_", ..., shared))
    x, scale = act_quant(arguments["x"][tokens], pow2_scale=True)
    count = len(tokens)
    slot = torch.arange(count, device=tokens.device, dtype=torch.int32)[:, None]
    counts = slot.new_full((1,), count)
    num_rows = -(-count // ALIGNMENT) * ALIGNMENT
    rows, rows_scale, row_weight = permute(x, scale, slot, num_rows, weight[:, None])
    assert rows_scale is not None
    assert row_weight is not None
    gate_up = grouped_gemm_contiguous(rows, rows_scale, w.gate_up, w.gate_up_scale, counts)
    beside = fp8_gemm(x, scale, w.shared_gate_up, w.shared_gate_up_scale)
    none = torch.zeros_like(slot, dtype=torch.int64)
    held = _moe.Activations(
        x, scale, none, slot, counts, row_weight, gate_up, None, beside, None
    )  # fmt: skip
    # The router has one expert to choose from; its gradient is not looked at.
    return _moe.backward(
        arguments["grad"][tokens], none.float(), _moe.cached(held), w, _moe.transpose(w),
        _moe.Options(1, 1, 1, arguments["route_scale"]),
    )  # fmt: skip


def by_load(counts: torch.Tensor, wanted: int) -> list[int]:
    """So many of the experts that have tokens, evenly from the one with the fewest to the one with most."""
    ordered = [e for e in counts.argsort(stable=True).tolist() if counts[e]]
    most = max(1, min(wanted, len(ordered)) - 1)
    places = [(len(ordered) - 1) * step // most for step in range(most + 1)] if ordered else []
    return [ordered[place] for place in sorted(set(places))]


def pairs(arguments: dict[str, Any], got: Any, weights: int) -> Iterator[tuple[str, Any, Any]]:
    """(what it is, of the result, of the reference)."""
    import torch

    _, part, take = module.sample(arguments)
    reference = cases.public("reference_impl", STEM)
    yield "sampled tokens", take(got)[:2], cases.call(reference, part)[:2]
    del part
    found = route(arguments)
    experts, channels = arguments["gate_up"].shape[0], arguments["down"].shape[2]
    counts = found.idx.flatten().bincount(minlength=experts)
    least = slice(0, BLOCK)
    for expert in by_load(counts, weights):
        grads = streamed(arguments, *found.of(expert), expert, slice(0, channels), least)
        assert grads.gate_up is not None
        assert grads.down is not None
        name = f"expert {expert}, {counts[expert]} tokens"
        yield name, (got[2][expert], got[3][expert]), (grads.gate_up[0], grads.down[0])
    for expert in (counts == 0).nonzero()[:, 0].tolist():
        mine = (got[2][expert], got[3][expert])
        yield f"expert {expert}, no tokens", mine, tuple(map(torch.zeros_like, mine))
    every = torch.arange(len(found.idx), device=counts.device)
    wide = arguments["shared_down"].shape[1]
    for start in sorted({0, wide - BLOCK}) if len(every) else ():
        some = slice(start, start + BLOCK)
        grads = streamed(arguments, every, found.weights[:, 0], 0, least, some)
        mine = (halves(got[4], some), got[5][:, some])
        yield f"shared expert from {start}", mine, (grads.shared_gate_up, grads.shared_down)


def compare_all(
    case: MoeLayerBackward, arguments: dict[str, Any], got: Any, weights: int
) -> Iterator[Found]:
    """One for each part that the reference streams.  got: what ``moe_layer_backward`` returned."""
    whole = {name: tuple(arguments[name].shape) for name in ("x", "logits")}
    shapes = tuple(tuple(part.shape) for part in got[:2])
    if shapes != tuple(whole.values()):
        yield Found(
            STEM, case.label, "shapes", 0, 0, f"expected {tuple(whole.values())}, got {shapes}"
        )
        return
    for name, *both in pairs(arguments, got, weights):
        # A part of a result need not have the strides of a whole one.
        mine, expected = (tuple(part.contiguous() for part in one) for one in both)
        names = module.OUTPUTS[:2] if name == "sampled tokens" else ("gate_up", "down")
        found = compare.compare(mine, expected, module.TOLERANCE, names=names)
        elements = sum(part.numel() for part in expected)
        message = "" if found.ok else found.message
        yield Found(STEM, case.label, name, elements, found.differing, message)


def check(case: MoeLayerBackward, device: str = "cuda", weights: int = 4) -> Iterator[Found]:
    """Run the kernels into memory filled with NaN, and compare."""
    arguments = operands(case, device)
    with exact.poisoned():
        got = cases.call(cases.public("kernels", STEM), arguments)
    return compare_all(case, arguments, got, weights)


def examine(
    found: Iterator[Found], keep: Callable[[dict[str, Any]], None] = _evidence.forget
) -> int:
    """Print each and their sum; the number of parts that are wrong.

    keep: called with the row of each part that is to be kept (harness/_evidence.py).
    """
    wrong = differing = elements = 0
    start = begun = time.monotonic()
    for one in found:
        now = time.monotonic()
        print(f"{one.variant}: {one.differing} of {one.elements} elements differ", flush=True)
        if one.message:
            print(f"  {one.message}", flush=True)
        keep(_evidence.part_row(one, now - begun))
        begun = now
        wrong += bool(one.message)
        differing += one.differing
        elements += one.elements
    seconds = time.monotonic() - start
    print(f"{differing} of {elements} elements differ; {wrong} parts are wrong; {seconds:.1f} s")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.exact_backward", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--experts", type=int, default=256, help="of the layer (256)")
    parser.add_argument("--tokens", type=int, default=4096, help="(4096)")
    parser.add_argument(
        "--weights", type=int, default=4, help="experts whose gradients are compared (4)"
    )
    _evidence.options(parser)
    options = parser.parse_args(arguments)
    if options.write:
        _evidence.write()
        return 0
    try:
        keep = _evidence.keeper(options, ("operator", "case", "part"))
    except _problem.UsageError as error:
        print(error, file=sys.stderr)
        return 2
    if not exact.ready("exact_backward"):
        return 3
    case = module.MoeLayerBackward(t=options.tokens, e=options.experts, layer="moe")
    return 1 if examine(check(case, weights=options.weights), keep) else 0


if __name__ == "__main__":
    sys.exit(main())

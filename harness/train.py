"""``python -m harness.train``: a small mixture of experts trained by the reference, and by the kernels.

Prints the loss of each step: by the reference on the CPU and, with a Hopper GPU, by the kernels from the
same start, and how much losses, weights and biases differ: nothing, in any bit, or the exit code is 1.
Without such a GPU the reference trains alone; --interpret adds the kernels in Triton's interpreter.

The reference sums products as the other side does: by the model of the tensor core beside a GPU (a few
seconds a step), else exactly (half a second).  Why nothing may differ: docs/numerics.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from benchmarks import fingerprint
from harness import doctor
from harness._markdown import NONE, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from harness._training import Size

HEADINGS = ("step", "loss, reference", "loss, kernels", "difference")
Trained = tuple[list[float], "dict[str, torch.Tensor]"]  # the curve, and all that was trained


def trained(package: str, size: Size, device: str) -> Trained:
    """By ``reference_impl`` or ``kernels``, from the same start."""
    import importlib

    from harness import _training

    layers = _training.model(importlib.import_module(f"{package}.moe_layer"), size, device)
    curve = _training.train(layers, size, device)
    return curve, _training.state(layers)


def table(curve: Sequence[float], other: Sequence[float] | None) -> str:
    """A row a step; the last is after the last step."""
    rows = []
    for step, loss in enumerate(curve):
        beside = [f"{other[step]:.9g}", f"{abs(loss - other[step]):.2g}"] if other else [NONE, NONE]
        rows.append([str(step), f"{loss:.9g}", *beside])
    return markdown(HEADINGS, rows, left=0)


def verdict(one: Trained, other: Trained) -> tuple[str, bool]:
    """(a sentence, whether nothing differs): of the curves and of everything that was trained."""
    import torch

    curves = max(abs(a - b) for a, b in zip(one[0], other[0], strict=True))
    pairs = [(part, other[1][name]) for name, part in one[1].items()]
    weights = max(float((a - b).abs().max()) for a, b in pairs)
    differing = sum(int((a.view(torch.int32) != b.view(torch.int32)).sum()) for a, b in pairs)
    said = (
        f"Largest difference: of the losses {curves:.3g}, of weights and biases {weights:.3g}; "
        f"{differing:,} of {sum(part.numel() for part, _ in pairs):,} of these differ in a bit."
    )
    return said, one[0] == other[0] and not differing


def compared(size: Size, device: str | None) -> bool:
    """Train, print, and say whether nothing differs.  device: of the kernels, None for none."""
    from reference_impl.wgmma import partials

    with partials("hopper" if device == "cuda" else "exact"):
        one = trained("reference_impl", size, "cpu")
    if device is None:
        print(table(one[0], None))
        print("\nNo Hopper GPU: the reference alone; --interpret trains the kernels as well.")
        return True
    other = trained("kernels", size, device)
    said, same = verdict(one, other)
    print(f"{table(one[0], other[0])}\n\n{said}")
    return same


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.train", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    for name, default, least in (
        ("steps", 10, 1),
        ("layers", 1, 1),
        ("tokens", 24, 1),
        ("experts", 4, 2),
    ):
        parser.add_argument(
            f"--{name}",
            type=_at_least(least),
            default=default,
            metavar="N",
            help=f"default: {default}",
        )
    parser.add_argument(
        "--interpret",
        action="store_true",
        help="without a GPU: the kernels in Triton's interpreter, slowly",
    )
    options = parser.parse_args(arguments)
    if options.experts > 3 and options.experts % 2:
        parser.error(f"--experts: expected 2, 3 or an even number, got {options.experts}")
    return options


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {value}")
        return value

    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _options(arguments)
    hopper = fingerprint.has_hopper()
    # Before any kernel is defined: Triton decides at that moment whether it is interpreted.
    if hopper:
        os.environ.pop("TRITON_INTERPRET", None)
    elif options.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    kernels = hopper or options.interpret
    doctor.require(["torch", "triton"] if kernels else ["torch"], "train")
    if kernels and not hopper:
        from harness import interpreter

        interpreter.install()
    from harness._training import Size

    size = Size(options.steps, options.layers, options.tokens, options.experts)
    device = ("cuda" if hopper else "cpu") if kernels else None
    return 0 if compared(size, device) else 1


if __name__ == "__main__":
    sys.exit(main())

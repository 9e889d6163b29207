"""What the router's operators refuse, and in which words."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from benchmarks import cases
from tests._operands import on
from tests.test_inputs import refuse

INF, NAN = math.inf, math.nan
BF16 = torch.bfloat16
LISTS = torch.arange(8).reshape(4, 2)
GOOD: dict[str, dict[str, Any]] = {
    "topk_gate": {"logits": torch.zeros(4, 64), "bias": torch.zeros(64)},
    "topk_gate_backward": {
        "grad_weights": torch.zeros(4, 2), "logits": torch.zeros(4, 64), "topk_idx": LISTS,
    },
    "bias_update": {"bias": torch.zeros(64), "counts": torch.zeros(64, dtype=torch.int32)},
    "sequence_balance_loss": {"logits": torch.zeros(4, 64), "topk_idx": LISTS},
}  # fmt: skip
WHOLE, DENSE = "a whole number", "a contiguous tensor, got strides"
POSITIVE, NOT_NEGATIVE = "a positive finite number", "a finite number, 0 or more"
STRIDE = r"stride 1 along its last dimension, got \(1, 4\)"
GATES = ("topk_gate", "topk_gate_backward")
LISTED = ("topk_gate_backward", "sequence_balance_loss")
# Operator, argument, its bad value, the error, what was expected and what came.
REFUSED: list[tuple[str, str, Any, type[Exception], str]] = [
    *(
        (stem, "logits", value, error, said)
        for stem in (*GATES, "sequence_balance_loss")
        for value, error, said in (
            (torch.zeros(4, 64).half(), TypeError, "dtype float32 or bfloat16, got float16"),
            (torch.zeros(64, 4).T, ValueError, STRIDE),
        )
    ),
    *(
        (stem, "topk_idx", value, error, said)
        for stem in LISTED
        for value, error, said in (
            (LISTS.int(), TypeError, "dtype int64, got int32"),
            (LISTS[:3], ValueError, r"shape \[4, any\], got \[3, 2\]"),
            (LISTS.reshape(2, 4).T, ValueError, rf"{DENSE} \(1, 4\)"),
        )
    ),
    ("topk_gate", "bias", torch.zeros(64).bfloat16(), TypeError, "dtype float32, got bfloat16"),
    ("topk_gate", "bias", torch.zeros(63), ValueError, r"shape \[64\], got \[63\]"),
    ("topk_gate", "bias", torch.zeros(128)[::2], ValueError, rf"{DENSE} \(2,\)"),
    ("topk_gate", "topk", 0, ValueError, "1 to 32, got 0"),
    ("topk_gate", "topk", 33, ValueError, "1 to 32, got 33"),
    ("topk_gate", "topk", True, TypeError, f"{WHOLE}, got bool"),
    ("topk_gate", "num_groups", 7, ValueError, "E to be a multiple of 7, got 64"),
    ("topk_gate", "num_groups", 65, ValueError, "1 to 64, got 65"),
    ("topk_gate", "num_groups", 0, ValueError, "1 to 64, got 0"),
    ("topk_gate", "num_limited_groups", 9, ValueError, "1 to 8, got 9"),
    ("topk_gate", "num_limited_groups", 0, ValueError, "1 to 8, got 0"),
    ("topk_gate", "num_limited_groups", 4.0, TypeError, f"{WHOLE}, got float"),
    *(
        (stem, name, value, error, said)
        for stem in GATES
        for name, value, error, said in (
            *(("route_scale", x, ValueError, f"{POSITIVE}, got {x}") for x in (0.0, -1.0, INF, NAN)),
            ("route_scale", 1e-50, ValueError, f"{POSITIVE}, got 1e-50"),
            *(
                ("route_scale", x, TypeError, f"a number, got {type(x).__name__}")
                for x in ("1", None, True)
            ),
            ("scoring", "tanh", ValueError, "sigmoid or softmax, got tanh"),
            ("scoring", None, TypeError, "sigmoid or softmax, got None"),
            ("normalise", 1, TypeError, "True or False, got int"),
        )
    ),
    (
        "topk_gate_backward", "grad_weights", torch.zeros(4, 3), ValueError,
        r"shape \[4, 2\], got \[4, 3\]",
    ),
    ("topk_gate_backward", "grad_weights", torch.zeros(2, 4).T, ValueError, rf"{DENSE} \(1, 4\)"),
    ("topk_gate_backward", "grad_weights", torch.zeros(4, 2, dtype=BF16), TypeError, "dtype float32, .*"),
    ("bias_update", "bias", torch.zeros(64, dtype=BF16), TypeError, "dtype float32, got bfloat16"),
    ("bias_update", "bias", torch.zeros(128)[::2], ValueError, rf"{DENSE} \(2,\)"),
    ("bias_update", "counts", torch.zeros(64), TypeError, "dtype int32, got float32"),
    ("bias_update", "counts", torch.zeros(65).int(), ValueError, r"shape \[64\], got \[65\]"),
    *(
        (stem, name, value, error, said)
        for stem, name in (("bias_update", "gamma"), ("sequence_balance_loss", "alpha"))
        for value, error, said in (
            *((x, ValueError, f"{NOT_NEGATIVE}, got {x}") for x in (-1e-3, INF, NAN)),
            (1e39, ValueError, rf"{NOT_NEGATIVE}, got 1e\+39"),
            *((x, TypeError, f"a number, got {type(x).__name__}") for x in ("1", None, True)),
        )
    ),
    ("sequence_balance_loss", "sequence_length", 3, ValueError, "T to be a multiple of 3, got 4"),
    ("sequence_balance_loss", "sequence_length", 0, ValueError, "1 to 4194304, got 0"),
    ("sequence_balance_loss", "sequence_length", 2.0, TypeError, f"{WHOLE}, got float"),
]  # fmt: skip


@pytest.mark.parametrize(("stem", "name", "value", "error", "said"), REFUSED)
def test_refused(
    stem: str, name: str, value: Any, error: type[Exception], said: str, device: str
) -> None:
    arguments = on(device, GOOD[stem] | {name: value})
    refuse(stem, arguments, error, f"{name}: expected {said}")


@pytest.mark.parametrize("stem", GOOD)
def test_the_good_arguments_are_good(stem: str, device: str) -> None:
    cases.public("kernels", stem)(**on(device, GOOD[stem]))


@pytest.mark.parametrize(
    ("stem", "name"),
    [("topk_gate", "route_scale"), ("bias_update", "gamma"), ("sequence_balance_loss", "alpha")],
)
def test_a_number_may_be_whole(stem: str, name: str, device: str) -> None:
    """Triton would make a constant of the integer 1, which is no fp32 number."""
    cases.public("kernels", stem)(**on(device, GOOD[stem] | {name: 1}))


@pytest.mark.parametrize("stem", [*GATES, "sequence_balance_loss"])
def test_too_many_experts(stem: str, device: str) -> None:
    arguments = GOOD[stem] | {"logits": torch.zeros(4, 1025)}
    message = "logits: E: expected 1 to 1024, got 1025"
    refuse(stem, on(device, arguments), ValueError, message)


@pytest.mark.parametrize("stem", LISTED)
@pytest.mark.parametrize("topk", [0, 33])
def test_too_many_in_a_list(stem: str, topk: int, device: str) -> None:
    lists = torch.zeros(4, topk, dtype=torch.int64)
    arguments = on(device, GOOD[stem] | {"topk_idx": lists})
    refuse(stem, arguments, ValueError, f"topk_idx: K: expected 1 to 32, got {topk}")


def test_too_few_in_the_kept_groups(device: str) -> None:
    few = GOOD["topk_gate"] | {"topk": 9, "num_groups": 16, "num_limited_groups": 2}
    refuse("topk_gate", on(device, few), ValueError, "topk: expected 1 to 8, got 9")
    cases.public("kernels", "topk_gate")(**on(device, few | {"topk": 8}))


@pytest.mark.parametrize("stem", ["topk_gate", "bias_update"])
def test_no_expert(stem: str, device: str) -> None:
    arguments = {name: part[..., :0] for name, part in GOOD[stem].items()}
    name = "logits" if stem == "topk_gate" else "bias"
    message = f"{name}: E: expected 1 to 1024, got 0"
    refuse(stem, on(device, arguments), ValueError, message)

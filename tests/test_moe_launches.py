"""No loop over experts on the host: how often the layer launches does not depend on how many there are.

Calls are recorded on tensors without data, on which the host cannot read a count or an index either.
Torch's own operations are counted beside the launches, since a loop may slice or copy before it launches.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import cases
from benchmarks.cases.moe_layer import MoeLayer
from benchmarks.cases.moe_layer_backward import MoeLayerBackward
from benchmarks.cases.moe_layer_decode import MoeLayerDecode
from kernels._device import recording
from kernels.grouped_gemm_masked import grouped_gemm_masked

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases._moe import Layer

FEW, MANY = 8, 64
PROBLEMS: dict[str, Callable[..., Layer]] = {
    "moe_layer": MoeLayer,
    "moe_layer_backward": MoeLayerBackward,
    "moe_layer_decode": MoeLayerDecode,
}
# Of one expert, few tokens and many have kernels of their own in several operators.
TOKENS = (1, 48, 4096)


class Operations(TorchDispatchMode):
    """Counts what torch is asked for, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        del types
        self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))


def calls(stem: str, experts: int, tokens: int, **more: Any) -> tuple[Counter[str], Counter[str]]:
    """(kernels launched by one call, torch's operations), by name."""
    case = PROBLEMS[stem](
        t=tokens, h=256, i=128, shared=128, e=experts, k=4, groups=4, limit=2, **more
    )
    arguments = case.inputs("meta")
    with recording() as launches, Operations() as operations:
        cases.call(cases.public("kernels", stem), arguments)
    return Counter(launch.kernel.__name__ for launch in launches), operations.names


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("stem", PROBLEMS)
def test_launches_do_not_depend_on_the_number_of_experts(stem: str, tokens: int) -> None:
    few, many = (calls(stem, experts, tokens) for experts in (FEW, MANY))
    assert few[0].total() >= 10, "nothing was recorded"
    assert many[0] == few[0], "kernels"
    assert many[1] == few[1], "operations of torch"


def test_nor_do_they_where_training_caches() -> None:
    few, many = (calls("moe_layer", experts, 48, cache=True) for experts in (FEW, MANY))
    assert many == few


def test_a_loop_would_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One product an expert, or one slice an expert and no launch: both are seen."""
    from kernels import _moe

    product = grouped_gemm_masked

    def one_by_one(x: Any, x_scale: Any, w: Any, w_scale: Any, counts: Any) -> torch.Tensor:
        parts = zip(*(part.split(1) for part in (x, x_scale, w, w_scale, counts)), strict=True)
        return torch.cat([product(*part) for part in parts])

    def sliced(x: Any, *rest: Any) -> torch.Tensor:
        return product(torch.cat([x[expert, None] for expert in range(len(x))]), *rest)

    for looped in (one_by_one, sliced):
        monkeypatch.setattr(_moe, "grouped_gemm_masked", looped)
        few, many = (calls("moe_layer_decode", experts, 48) for experts in (FEW, MANY))
        assert many[1] != few[1]
        assert (many[0].total() - few[0].total() == 2 * (MANY - FEW)) == (looped is one_by_one)

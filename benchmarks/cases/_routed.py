"""The layer as it runs in a model: experts of unlike popularity, activations with loud channels.

The classes of benchmarks/cases/_moe.py with one more field, so that the labels of theirs stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.cases._data import dtype
from benchmarks.cases._moe import Layer
from benchmarks.cases._router import bias
from benchmarks.cases._routing import preference

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Routed(Layer):
    """routing: ``zipf`` or ``correlated`` of benchmarks/cases/_routing.py, as logits: sigmoid keeps their
    order, so without groups the lists are that routing's; a limit of groups takes its part.

    bias: or "zero", of a router that nothing has balanced yet.
    """

    routing: str = "zipf"
    bias: str = "zero"
    data: str = "loud"

    def _routing(self) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        generator = self.generator("cpu")
        drawn = preference(self.routing, self.t, self.e, generator).to(dtype(self.logits))
        if self.bias == "zero":
            return drawn, torch.zeros(self.e)
        shift = bias(self.e, self.bias, generator)
        assert shift is not None
        return drawn, shift

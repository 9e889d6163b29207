"""Problems of the mixture of experts layer: operands, bytes, and the layer in float64.

Shapes: T tokens, H channels, E experts of which each token takes K, I and Is channels of h.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Case, Cost
from benchmarks.cases._data import dtype, payload, scales, values
from benchmarks.cases._deepseek_v3 import EXPERT_INTERMEDIATE, HIDDEN
from benchmarks.cases._router import CHOSEN, EXPERTS, GROUPS, LIMITED_GROUPS, bias, logits
from benchmarks.cases._routing import buffer_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

ROUTE_SCALE = 2.5
FAVOURED = 10.0  # added to a score, which is below 1: that expert is always the first


@dataclass(frozen=True)
class Layer(Case):
    """``t`` tokens of ``h`` channels to ``k`` of ``e`` experts and to the shared one.

    i, shared: channels of h.  groups, limit: of the router.  bias: a kind of benchmarks/cases/_router.py,
    or "one" for all tokens to one expert.  data: of x, or "spoiled": normal, with a token all of NaN
    and one that holds Inf.
    """

    t: int
    h: int = HIDDEN
    i: int = EXPERT_INTERMEDIATE
    shared: int = EXPERT_INTERMEDIATE
    e: int = EXPERTS
    k: int = CHOSEN
    groups: int = GROUPS
    limit: int = LIMITED_GROUPS
    logits: str = "fp32"
    bias: str = "normal"
    data: str = "normal"

    def inputs(self, device: str) -> dict[str, Any]:
        import torch

        drawn, shift = self._routing()
        if device == "meta":
            x = torch.empty(self.t, self.h, dtype=torch.bfloat16, device=device)
        else:
            x = self._x(device)
        found: dict[str, Any] = {
            "x": x, "logits": drawn.to(device), "bias": shift.to(device),
        }  # fmt: skip
        generator = None if device == "meta" else self.generator(device)
        for name, (experts, n, k) in self._weights().items():
            found[name], found[f"{name}_scale"] = _weight(experts, n, k, device, generator)
        return found | {
            "topk": self.k, "num_groups": self.groups, "num_limited_groups": self.limit,
            "route_scale": ROUTE_SCALE,
        }  # fmt: skip

    def _x(self, device: str) -> torch.Tensor:
        import torch

        kind = "normal" if self.data == "spoiled" else self.data
        x = values((self.t, self.h), kind, self.generator(device)).to(torch.bfloat16)
        if self.data == "spoiled":
            x[self.t // 2] = float("nan")
            x[self.t - 1, self.h // 2] = float("inf")
        return x

    def _routing(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits, bias), drawn on the CPU: what is read depends on them."""
        generator = self.generator("cpu")
        drawn = logits(self.t, self.e, "normal", generator).to(dtype(self.logits))
        shift = bias(self.e, "normal" if self.bias == "one" else self.bias, generator)
        assert shift is not None
        if self.bias == "one":
            shift[self.e // 3] = FAVOURED
        return drawn, shift

    def _weights(self) -> dict[str, tuple[int, int, int]]:
        """Name -> experts (0: of no expert), output and input channels."""
        return {
            "gate_up": (self.e, 2 * self.i, self.h),
            "down": (self.e, self.h, self.i),
            "shared_gate_up": (0, 2 * self.shared, self.h),
            "shared_down": (0, self.h, self.shared),
        }

    def _weight_bytes(self) -> tuple[int, int]:
        """(of one expert, of the shared one) with scales."""
        each = {n: a * b + a * b // 128**2 * 4 for n, (_, a, b) in self._weights().items()}
        return each["gate_up"] + each["down"], each["shared_gate_up"] + each["shared_down"]

    def _operand_bytes(self) -> int:
        """Bytes of x, logits and bias."""
        size = 2 if self.logits == "bf16" else 4
        return 2 * self.t * self.h + size * self.t * self.e + 4 * self.e

    def products(self) -> int:
        """Multiplications and additions of the three products."""
        return 6 * self.t * self.h * (self.k * self.i + self.shared)

    def taken(self) -> int:
        """Experts that have a token."""
        return _taken(self)

    def cost(self) -> Cost:
        expert, shared = self._weight_bytes()
        read = self._operand_bytes() + self.taken() * expert + shared
        return Cost(flops=self.products(), read=read, written=2 * self.t * self.h)

    def untouched(self) -> Cost:
        expert, _ = self._weight_bytes()
        return Cost(flops=0, read=(self.e - self.taken()) * expert, written=0)

    # Steps of the interpreter, of which each is about 3 ms: by operator, as measured.

    def _rows(self) -> int:
        return buffer_rows(self.t, self.k, self.e)

    def _product_steps(self) -> int:
        """Gate and up, and down, or the other way round."""
        if not self.t:
            return 0
        columns, k = (2 * self.i + self.h) // 64, max(self.h, 2 * self.i) // 128
        programs = (self._rows() // 64 + 1 + self.e) * columns
        tiles = (self.taken() + self.t * self.k // 64) * columns * k
        columns = (2 * self.shared + self.h) // 64
        # Few tokens have a kernel of their own, which takes them one by one.
        shared = 3 * self.t if self.t <= 16 else 2 * -(-self.t // 64)
        return programs + tiles + shared * columns * max(self.h, self.shared) // 128

    def _swiglu_steps(self) -> int:
        return (self._rows() + self.t) // 16 * (self.i // 128) + 1

    def forward_steps(self) -> int:
        """Without the cache."""
        return 8 + self.t * (27 + 2 * self.k) // 8 + self._product_steps() + self._swiglu_steps()

    def cache_steps(self) -> int:
        """Gate and up quantised."""
        return 2 * ((self._rows() + self.t) // 16) * (2 * self.i // 128)

    def backward_steps(self) -> int:
        """Everything after the cache."""
        if not self.t:
            return 12
        each = self.h * self.i * 4 // 128**2
        busy = self.taken() + self.t * self.k // 128
        shared = self.h * self.shared * 4 // 128**2 * (4 + 6 * -(-self.t // 128))
        wgrad = each * (4 * self.e + 6 * busy) + shared
        copies = (self._rows() // 128 + -(-self.t // 128)) * (2 * self.h + 3 * self.i) // 128
        return self._product_steps() + 3 * self._swiglu_steps() + wgrad + 5 * copies


def _weight(
    experts: int, n: int, k: int, device: str, generator: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Payload and scales of a projection whose results are about as large as what goes in."""
    import torch

    rows = max(1, experts) * n
    blocks = (rows // 128, k // 128)
    if device == "meta":
        w = torch.empty(rows, k, dtype=torch.float8_e4m3fn, device=device)
        scale = torch.empty(blocks, device=device)
    else:
        w = payload((rows, k), "normal", generator)
        scale = scales(blocks, generator) * (2 / k**0.5)
    if not experts:
        return w, scale
    return w.view(experts, n, k), scale.view(experts, n // 128, k // 128)


@lru_cache(maxsize=64)
def _taken(case: Layer) -> int:
    drawn, shift = case._routing()  # noqa: SLF001 (of this file)
    if not case.t:
        return 0
    idx, _ = route(drawn, shift, case.k, case.groups, case.limit, ROUTE_SCALE)
    return len(idx.unique())


def route(
    drawn: torch.Tensor, shift: torch.Tensor, k: int, groups: int, limit: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(topk_idx, topk_weights) in float64 from fp32 or bf16 logits."""
    import torch

    scores = drawn.double().sigmoid()
    ranked = scores + shift.double()
    grouped = ranked.unflatten(1, (groups, -1))
    best = grouped.topk(min(2, grouped.shape[2]), dim=2).values.sum(dim=2)
    kept = torch.zeros_like(best, dtype=torch.bool).scatter(1, best.topk(limit).indices, True)
    ranked = ranked.where(kept.repeat_interleave(grouped.shape[2], dim=1), -torch.inf)
    idx = ranked.sort(dim=1, descending=True, stable=True).indices[:, :k]
    found = scores.gather(1, idx)
    return idx, found / found.sum(dim=1, keepdim=True) * scale


def options(arguments: dict[str, Any]) -> Iterator[Any]:
    """Those of :func:`route`, in its order."""
    names = ("topk", "num_groups", "num_limited_groups", "route_scale")
    return (arguments[name] for name in names)


def experts(arguments: dict[str, Any]) -> Iterator[tuple[torch.Tensor, ...]]:
    """(tokens, weights [N, 1], gate_up, down), in float64, of each expert with tokens; at last the
    shared one, of all tokens with weight 1."""
    import torch

    idx, weights = route(arguments["logits"], arguments["bias"], *options(arguments))
    for expert in range(arguments["gate_up"].shape[0]):
        # Of a full expert its first tokens.
        tokens, place = (idx == expert).nonzero()[: arguments.get("capacity")].T
        if len(tokens):
            pair = (dequantised(arguments, name, expert) for name in ("gate_up", "down"))
            yield tokens, weights[tokens, place, None], *pair
    pair = (dequantised(arguments, name, ...) for name in ("shared_gate_up", "shared_down"))
    every = torch.arange(len(idx), device=idx.device)
    yield every, weights.new_ones(len(idx), 1), *pair


def dequantised(arguments: dict[str, Any], name: str, which: Any) -> torch.Tensor:
    """[N, K] float64 of one weight."""
    w, scale = arguments[name][which].double(), arguments[f"{name}_scale"][which].double()
    wide: torch.Tensor = w * scale.repeat_interleave(128, dim=0).repeat_interleave(128, dim=1)
    return wide


def exact(arguments: dict[str, Any]) -> torch.Tensor:
    """The layer in float64 without any quantisation of activations, [T, H]."""
    x: torch.Tensor = arguments["x"].double()
    out = x.new_zeros(x.shape)
    for tokens, weight, gate_up, down in experts(arguments):
        gate, up = (x[tokens] @ gate_up.T).chunk(2, dim=1)
        out.index_add_(0, tokens, (gate * gate.sigmoid() * up * weight) @ down.T)
    return out


def exact_grad_x(arguments: dict[str, Any]) -> torch.Tensor:
    """The gradient of x in float64, [T, H]; the router's part is not x's."""
    import torch

    x: torch.Tensor = arguments["x"].double()
    grad = arguments["grad"].double()
    out = x.new_zeros(x.shape)
    for tokens, weight, gate_up, down in experts(arguments):
        gate, up = (x[tokens] @ gate_up.T).chunk(2, dim=1)
        d = grad[tokens] @ down * weight
        p = gate.sigmoid()
        inner = torch.cat([d * up * (p + gate * p * (1 - p)), d * gate * p], dim=1)
        out.index_add_(0, tokens, inner @ gate_up)
    return out

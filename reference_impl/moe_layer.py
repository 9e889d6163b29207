"""The mixture of experts layer (DeepSeek-V3 report, sections 2.1.2 and 3.3), after its router.

    q = act_quant(x)                                     pow2_scale, as all quantisers here
    topk_idx, topk_weights = topk_gate(logits, bias)
    slot, counts = expert_slots(topk_idx)
    rows, row_weight = permute(q, slot, topk_weights)    into expert_rows(T, K, E) rows
    gate_up = grouped_gemm_contiguous(rows, gate_up)     bf16
    h = swiglu_quant(gate_up, row_weight)
    routed = unpermute(grouped_gemm_contiguous(h, down), slot)
    shared = fp8_gemm(swiglu_quant(fp8_gemm(q, shared_gate_up)), shared_down)
    out = bf16(routed + shared)                          both bf16, one sum in fp32, rounded once

so its bits are those of its operators, and a token's result depends on that token alone: on no other
token, not on how many there are, nor on where its rows lie.  Nothing is dropped.

``from_cache`` says what SwiGLU reads (docs/decisions/0009): gate and up in bf16, or as e4m3 with
power-of-two scales, which is what training caches.  Then the h that the backward recomputes is the
one that this went on with, in every bit.

Shapes: T tokens, H channels, E experts, K = topk, I and Is channels of h, of an expert and of the
shared one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from reference_impl._moe import (
    Activations,
    Options,
    Transposed,
    Weights,
    backward,
    cached,
    into_experts,
    out_of_experts,
    transpose,
)
from reference_impl.bias_update import bias_update
from reference_impl.weight_quant import weight_quant


def moe_layer(  # noqa: PLR0913, PLR0917 (a layer's operands)
    x: torch.Tensor, logits: torch.Tensor, bias: torch.Tensor,
    gate_up: torch.Tensor, gate_up_scale: torch.Tensor, down: torch.Tensor, down_scale: torch.Tensor,
    shared_gate_up: torch.Tensor, shared_gate_up_scale: torch.Tensor, shared_down: torch.Tensor,
    shared_down_scale: torch.Tensor, topk: int = 8, num_groups: int = 8, num_limited_groups: int = 4,
    route_scale: float = 2.5,
    from_cache: bool = False,
) -> torch.Tensor:  # fmt: skip
    """x's tokens through their experts and the shared one, summed.

    x: [T, H] bf16, stride 1 along H; H a multiple of 128.
    logits: [T, E] fp32 or bf16, stride 1 along E: of the router, whose product is not part of this.
    bias: [E] fp32; it moves the choice and never a weight.
    gate_up: [E, 2I, H] e4m3, gate first; I a multiple of 128.  down: [E, H, I] e4m3.
    shared_gate_up: [2Is, H] e4m3.  shared_down: [H, Is] e4m3.
    ..._scale: fp32, one per 128x128 block of the payload, any strides.
    topk, num_groups, num_limited_groups, route_scale: of ``topk_gate``.
    from_cache: whether SwiGLU reads gate and up as training caches them.

    Returns out [T, H] bf16.
    """
    w = Weights(
        gate_up, gate_up_scale, down, down_scale,
        shared_gate_up, shared_gate_up_scale, shared_down, shared_down_scale,
    )  # fmt: skip
    options = Options(topk, num_groups, num_limited_groups, route_scale)
    a = into_experts(x, logits, bias, w, options)
    return out_of_experts(cached(a) if from_cache else a, w)


class MoELayer(torch.nn.Module):
    """A mixture of experts that can be trained: fp32 parameters, FP8 products, fp32 gradients.

    Parameters: router [E, H], gate_up [E, 2I, H], down [E, H, I], shared_gate_up [2Is, H], shared_down
    [H, Is].  Buffers: bias [E] fp32, which ``update_bias`` moves, and counts [E] int32, the rows that
    each expert got in training since then.  A state dict holds the parameters and the bias, all fp32, and
    no payload: these are made from it.  Where one of another dtype is loaded, numbers are converted and
    dtypes stay; a parameter or bias that was given another dtype is a TypeError at the next call.

    The weights are quantised in 128x128 blocks, and again once a parameter has another version or
    place.  ``parameter.data.add_()`` leaves no trace of itself: after it call ``forget``.

    In training SwiGLU reads its inputs from the FP8 cache, else in bf16 (docs/decisions/0009).  For the
    backward x, gate and up are kept in FP8, the slots and weights of the routing, and nothing in bf16.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (a geometry)
        self, hidden: int, intermediate: int, experts: int, shared_intermediate: int | None = None,
        topk: int = 8, num_groups: int = 8, num_limited_groups: int = 4, route_scale: float = 2.5,
    ) -> None:  # fmt: skip
        """hidden: H.  intermediate: I.  shared_intermediate: Is, or None for I."""
        super().__init__()
        shared = intermediate if shared_intermediate is None else shared_intermediate
        self.options = Options(topk, num_groups, num_limited_groups, route_scale)

        def normal(*shape: int) -> torch.nn.Parameter:
            # The deviation of DeepSeek-V3 (report, section 4.2).
            return torch.nn.Parameter(torch.randn(shape) * 0.006)

        self.router = normal(experts, hidden)
        self.gate_up = normal(experts, 2 * intermediate, hidden)
        self.down = normal(experts, hidden, intermediate)
        self.shared_gate_up = normal(2 * shared, hidden)
        self.shared_down = normal(hidden, shared)
        self.bias: torch.Tensor
        self.counts: torch.Tensor
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("counts", torch.zeros(experts, dtype=torch.int32), persistent=False)
        self._held: _Held | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., H] bf16 to the same."""
        self._refuse_other_dtypes()
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.logits(tokens)
        w, t = self.quantised(transposed=torch.is_grad_enabled())
        out: torch.Tensor
        out, counts = _Layer.apply(  # type: ignore[no-untyped-call]
            tokens, logits, self.gate_up, self.down, self.shared_gate_up, self.shared_down,
            self.bias, w, t, self.options, self.training,
        )  # fmt: skip
        if self.training:
            self.counts += counts
        return out.reshape(x.shape)

    def _refuse_other_dtypes(self) -> None:
        """In bf16 a step of the optimiser or of ``update_bias`` may be lost to rounding."""
        names = ("router", "gate_up", "down", "shared_gate_up", "shared_down", "bias")
        for name in names:
            dtype = getattr(self, name).dtype
            if dtype != torch.float32:
                got = str(dtype).removeprefix("torch.")
                raise TypeError(f"{name}: expected dtype float32, got {got}")

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """[T, E] fp32 from [T, H] bf16: the router's product, torch's.  To be replaced by who wants one
        in a stated order."""
        # fp32 and outside: a choice between experts hangs on the last bits of the logits.
        return tokens.float() @ self.router.T

    def update_bias(self, counts: torch.Tensor | None = None, gamma: float = 1e-3) -> None:
        """One step against the load.  counts: [E] int32, of the whole step and all GPUs; None for
        those that this layer has seen since the last update."""
        self.bias.copy_(bias_update(self.bias, self.counts if counts is None else counts, gamma))
        self.counts.zero_()

    def forget(self) -> None:
        """Quantise the weights again at the next call."""
        self._held = None

    @torch.no_grad()
    def quantised(self, transposed: bool = True) -> tuple[Weights, Transposed | None]:
        """The payloads and, unless they are not wanted, these transposed for the backward; kept until a
        parameter changes."""
        parts = (self.gate_up, self.down, self.shared_gate_up, self.shared_down)
        key = tuple((part._version, part.data_ptr(), part.device) for part in parts)  # noqa: SLF001
        if self._held is None or self._held.key != key:
            found: list[torch.Tensor] = []
            for part in parts:
                # Experts one after the other: their rows are multiples of a block.
                q, scale = weight_quant(part.detach().flatten(0, -2))
                found += (q.view(part.shape), scale.view(*part.shape[:-2], -1, scale.shape[1]))
            of = tuple(part.detach() for part in parts)
            self._held = _Held(key, of, Weights(*found), None)
        if transposed and self._held.transposed is None:
            self._held = self._held._replace(transposed=transpose(self._held.weights))
        return self._held.weights, self._held.transposed


class _Held(NamedTuple):
    """What was quantised last.  of: the parameters' memory, which none else may have while this is
    held, so that its address tells one from another."""

    key: tuple[object, ...]
    of: tuple[torch.Tensor, ...]
    weights: Weights
    transposed: Transposed | None


class _Layer(torch.autograd.Function):
    """The gradient goes to the fp32 parameters as if quantising were the identity."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 (autograd passes positions)
        ctx: Any, x: torch.Tensor, logits: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor,
        shared_gate_up: torch.Tensor, shared_down: torch.Tensor, bias: torch.Tensor, w: Weights,
        t: Transposed | None, options: Options, from_cache: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        del gate_up, down, shared_gate_up, shared_down  # w is what they are quantised
        a = into_experts(x, logits, bias, w, options)
        if from_cache:
            a = cached(a)
        out = out_of_experts(a, w)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(logits, *(a if from_cache else cached(a)))
            ctx.held = (w, transpose(w) if t is None else t, options)
        ctx.mark_non_differentiable(a.counts)
        return out, a.counts

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _counts: Any) -> tuple[torch.Tensor | None, ...]:
        logits, *saved = ctx.saved_tensors
        wanted = any(ctx.needs_input_grad[2:6])
        found = backward(
            grad.contiguous(), logits, Activations(*saved), *ctx.held, weight_gradients=wanted
        )
        return (*found, None, None, None, None, None)

"""The data of benchmarks/cases that is as in a model is what it says: loud channels, unlike experts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.cases import _data, _moe
from benchmarks.cases._data import values
from benchmarks.cases._routing import routing
from benchmarks.cases.moe_layer import CASES, MoeLayerRouted
from reference_impl.topk_gate import topk_gate

LARGE = MoeLayerRouted(t=4096, h=128)


def test_loud_channels_are_the_same_in_every_row() -> None:
    x = values((512, 7168), "loud", torch.Generator().manual_seed(1))
    deviation = x.std(dim=0)
    loud = (deviation > 4).nonzero()[:, 0].tolist()
    assert loud == [77, 1077, 2077, 3077, 4077, 5077, 6077, 7077]
    assert deviation[loud] / _data.LOUD == pytest.approx(torch.ones(8).numpy(), abs=0.2)
    halves = (values((256, 7168), "loud", torch.Generator().manual_seed(seed)) for seed in (2, 3))
    assert all((half.std(dim=0) > 4).nonzero()[:, 0].tolist() == loud for half in halves)
    assert (values((9, 128), "loud", torch.Generator().manual_seed(4))[:, 77].abs() > 4).any()


def loads(case: MoeLayerRouted) -> list[int]:
    """Tokens of each expert, most first."""
    drawn, shift = case._routing()
    idx, _ = _moe.route(drawn, shift, case.k, case.groups, case.limit, _moe.ROUTE_SCALE)
    return sorted(idx.flatten().bincount(minlength=case.e).tolist(), reverse=True)


def test_some_experts_are_more_popular_than_others() -> None:
    """128 tokens each on average.  A limit of groups spares the most popular expert nothing."""
    zipf, correlated = (loads(replace(LARGE, routing=kind)) for kind in ("zipf", "correlated"))
    assert zipf[0] > 0.6 * 4096
    assert zipf[-1] < 40
    assert correlated[0] < 5 * 128  # topics have experts of their own, and are many
    topic = loads(replace(LARGE, routing="correlated", t=64))
    assert sum(topic[:16]) > 4 * 64 * 8 / 16  # one topic's first sixteenth of the experts


@pytest.mark.parametrize("kind", ["zipf", "correlated"])
def test_without_groups_the_router_makes_that_routing(kind: str) -> None:
    case = MoeLayerRouted(t=200, h=128, e=64, k=4, groups=1, limit=1, routing=kind)
    drawn, shift = case._routing()
    want = routing(kind, 200, 64, 4, case.generator("cpu"))
    assert torch.equal(topk_gate(drawn, shift, 4, 1, 1)[0], want)


def test_a_balanced_router_may_have_such_logits() -> None:
    """Other biases than none, drawn after the logits, which stay."""
    plain, moved = (replace(LARGE, t=8, bias=kind) for kind in ("zero", "normal"))
    assert not plain._routing()[1].any()
    drawn, shift = moved._routing()
    assert shift.any()
    assert drawn.shape == (8, 256)


def test_the_layer_is_timed_with_both() -> None:
    (timed,) = (case for case in CASES if isinstance(case, MoeLayerRouted) and case.bench)
    assert (timed.t, timed.e, timed.data, timed.routing) == (4096, 256, "loud", "zipf")
    assert timed.taken() == 256

"""The routing that cases are drawn with is what it says, and the slots made from it are right."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from benchmarks.cases import _routing
from benchmarks.cases._routing import KINDS, buffer_rows, place, routed, routing
from kernels._grouped import expert_rows

E, K, T = 32, 4, 192


def draw(kind: str, tokens: int = T, experts: int = E, topk: int = K) -> torch.Tensor:
    return routing(kind, tokens, experts, topk, torch.Generator().manual_seed(7))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_routing(kind: str) -> None:
    found = draw(kind)
    assert found.dtype == torch.int64
    assert found.shape == (T, K)
    assert found.is_contiguous()
    assert torch.equal(found, draw(kind))
    assert routed(kind, T, E, K, 7) == (
        int(((found >= 0) & (found < E)).sum()),
        int(((found >= 0) & (found < E)).any(dim=1).sum()),
    )


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"duplicate", "sizes"}))
def test_a_token_has_each_expert_once(kind: str) -> None:
    for line in draw(kind).tolist():
        here = [expert for expert in line if 0 <= expert < E]
        assert len(set(here)) == len(here)


def shares(kind: str) -> list[int]:
    """Tokens of each expert, most first, of 4096 tokens with 8 of 256."""
    counts = draw(kind, 4096, 256, 8).flatten().bincount(minlength=256)
    return sorted(counts.tolist(), reverse=True)


def test_popularity() -> None:
    """128 tokens each on average; zipf's most popular expert is in nearly every list."""
    uniform, zipf = shares("uniform"), shares("zipf")
    # Binomial with deviation 11.1: the largest of 256 lies 2 to 5 of them above the mean.
    assert 128 + 2 * 11 < uniform[0] < 128 + 5 * 11
    assert 128 - 5 * 11 < uniform[-1] < 128 - 2 * 11
    assert 0.6 * 4096 < zipf[0] <= 4096
    assert zipf[-1] < 40


def test_neighbours_share_a_topic() -> None:
    """Two tokens of a topic have more experts in common than two of different topics."""
    lists = [set(line) for line in draw("correlated", 512, 256, 8).tolist()]
    pairs = range(512 - _routing.TOPIC)
    near = sum(len(lists[t] & lists[t + 1]) for t in pairs if (t + 1) % _routing.TOPIC)
    far = sum(len(lists[t] & lists[t + _routing.TOPIC]) for t in pairs)
    assert near > 4 * far
    assert near > len(pairs)


def test_special_experts() -> None:
    for kind, spared in (("no_first", 0), ("no_middle", E // 2), ("no_last", E - 1)):
        seen = set(draw(kind).flatten().tolist())
        assert seen == set(range(E)) - {spared}
    single = draw("single")
    assert single[:, 0].unique().numel() == 1
    assert (single[:, 1:] == -1).all()
    assert (draw("same") == draw("same")[:1]).all()
    assert (draw("none") == -1).all()
    assert (draw("duplicate")[:, 0] == draw("duplicate")[:, -1]).all()


def test_what_is_not_routed() -> None:
    dropped, stray = draw("dropped"), draw("stray")
    assert (dropped[5::8] == -1).all()
    assert 0.2 < (dropped == -1).float().mean() < 0.5
    assert (dropped >= 0).any(dim=1).sum() > T // 2
    assert set(stray[(stray < 0) | (stray >= E)].tolist()) == {E, *_routing.STRAYS}
    local = draw("local", 4096, 8, 8)
    # 8 of 256 at a time, of which 8 are here: one in 32, deviation 31.
    assert abs(int((local >= 0).sum()) - 1024) < 5 * 31
    assert local.max() == 7


def test_sizes() -> None:
    counts = Counter(draw("sizes").flatten().tolist())
    assert counts == {0: 1, 1: 127, 2: 128, 3: 129, 4: T * K - 385}


@pytest.mark.parametrize(
    ("kind", "tokens", "experts", "topk", "said"),
    [
        ("unifrom", 4, 8, 2, "kind: expected one of uniform, zipf, .*, got 'unifrom'"),
        ("uniform", 4, 8, 9, "experts: expected at least 9 for 'uniform', got 8"),
        ("no_last", 4, 8, 8, "experts: expected at least 8 for 'no_last', got 7"),
        ("sizes", 4, 8, 2, "tokens, experts: expected 385 entries and more than 4 experts, got 8 "),
    ],
)
def test_refused(kind: str, tokens: int, experts: int, topk: int, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        draw(kind, tokens, experts, topk)


@pytest.mark.parametrize("kind", KINDS)
def test_place(kind: str) -> None:
    """Against a plain loop over the experts and the tokens."""
    drawn = draw(kind)
    slot, counts = place(drawn, E)
    row, want = 0, [[-1] * K for _ in range(T)]
    for expert in range(E):
        start = row
        for token, line in enumerate(drawn.tolist()):
            for k, chosen in enumerate(line):
                if chosen == expert:
                    want[token][k] = row
                    row += 1
        assert counts[expert] == row - start
        row = start + -(-(row - start) // 128) * 128
    assert slot.tolist() == want
    assert slot.dtype == counts.dtype == torch.int32
    assert row <= buffer_rows(T, K, E)


def test_buffer_rows_are_the_operators() -> None:
    for shape in ((0, 8, 256), (1, 8, 256), (4096, 8, 256), (7, 1, 3), (129, 8, 9)):
        assert buffer_rows(*shape) == expert_rows(*shape)

"""Which experts the tokens go to: routing as it is in production and as it is at its worst.

Lists are drawn by seed alone.  Cases draw them with a generator of the CPU, whatever device the
operator runs on: what a call costs depends on how many rows are routed.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from benchmarks.cases._data import values

if TYPE_CHECKING:
    import torch

ROUTED_EXPERTS = 256  # n_routed_experts of DeepSeek-V3, over all GPUs
TOPIC = 64  # tokens that share a topic in ``correlated``
GROUPS = (1, 127, 128, 129)  # rows of the first experts in ``sizes``: around the alignment
STRAYS = (-2, -(2**63), 2**32 + 1, 2**63 - 1)  # numbers that are no expert, beside E itself

# What ``routing`` knows, and what each models.  Where nothing else is said a token's experts differ.
KINDS = {
    "uniform": "every expert is as likely: a router in balance, as its bias makes it",
    "zipf": "the r-th expert is 1/r as popular as the first: a router without balancing",
    "correlated": "64 neighbouring tokens share a topic, which has experts of its own: documents",
    "local": "this GPU holds E of 256 experts; what went to others is -1: expert parallelism",
    "dropped": "one entry in four is -1, and one token in eight has none",
    "none": "all are -1: a GPU to which no token came",
    "single": "each token's first expert is the same one, the rest is -1: the worst imbalance",
    "same": "all tokens have the same K experts",
    "no_first": "uniform, and the first expert has no token",
    "no_middle": "uniform, and the middle expert has no token",
    "no_last": "uniform, and the last expert has no token",
    "duplicate": "uniform, but the last of the list is the first once more",
    "stray": "one entry in four is a number that is no expert: E, -2, 2^32 + 1, ...",
    "sizes": "1, 127, 128, 129 entries for the first experts, the rest for the fifth; repeats",
}


def routing(
    kind: str, tokens: int, experts: int, topk: int, generator: torch.Generator
) -> torch.Tensor:
    """[tokens, topk] int64 ``topk_idx`` of a kind of ``KINDS``, on the generator's device.

    Raises ValueError for a kind it does not know, and where experts or entries are too few for it.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if kind in ("sizes", "single", "local"):
        return _few(kind, tokens, experts, topk, generator)
    spared = {"no_first": 0, "no_middle": experts // 2, "no_last": experts - 1}.get(kind)
    allowed = experts - (spared is not None)
    if topk > allowed:
        raise ValueError(f"experts: expected at least {topk} for {kind!r}, got {allowed}")
    if kind in ("zipf", "correlated"):
        return _preferred(kind, tokens, experts, topk, generator)
    found = _uniform(1 if kind == "same" else tokens, allowed, topk, generator)
    if kind == "same":
        found = found.repeat(tokens, 1)
    if spared is not None:
        found += (found >= spared).long()
    return _spoiled(kind, found, experts, generator)


def _uniform(tokens: int, experts: int, topk: int, generator: torch.Generator) -> torch.Tensor:
    """Different experts for each token, every set and order of them as likely."""
    import torch

    scores = torch.rand(tokens, experts, generator=generator, device=generator.device)
    return scores.topk(topk, dim=1).indices


def _preferred(
    kind: str, tokens: int, experts: int, topk: int, generator: torch.Generator
) -> torch.Tensor:
    """Drawn without replacement in proportion to popularity: the highest scores are taken."""
    return preference(kind, tokens, experts, generator).topk(topk, dim=1).indices


def preference(kind: str, tokens: int, experts: int, generator: torch.Generator) -> torch.Tensor:
    """[T, E] fp32: log popularity plus Gumbel's noise.  kind: ``zipf`` or ``correlated``."""
    import torch

    device = generator.device
    noise = torch.rand(tokens, experts, generator=generator, device=device)
    noise = -torch.log(-torch.log(noise.clamp_(1e-7, 1 - 1e-7)))
    if kind == "zipf":
        rank = torch.randperm(experts, generator=generator, device=device) + 1
        return noise - rank.log()
    topics = torch.randn(-(-tokens // TOPIC), experts, generator=generator, device=device)
    # Normal with deviation 2: a topic's best expert is some 200 times as likely as a middling one.
    return noise + 2 * topics.repeat_interleave(TOPIC, 0)[:tokens]


def _spoiled(
    kind: str, found: torch.Tensor, experts: int, generator: torch.Generator
) -> torch.Tensor:
    import torch

    if kind == "none":
        return found.fill_(-1)
    if kind == "duplicate":
        found[:, -1] = found[:, 0]
    if kind in ("dropped", "stray"):
        draw = torch.randint(4, found.shape, generator=generator, device=generator.device)
        numbers = (-1,) if kind == "dropped" else (experts, *STRAYS)
        which = torch.randint(
            len(numbers), found.shape, generator=generator, device=generator.device
        )
        found = torch.where(draw == 0, found.new_tensor(numbers)[which], found)
    if kind == "dropped":
        found[5::8] = -1
    return found


def _few(
    kind: str, tokens: int, experts: int, topk: int, generator: torch.Generator
) -> torch.Tensor:
    """The kinds that may have fewer experts than a token's list has places."""
    import torch

    if kind == "single":
        found = torch.full((tokens, topk), -1, device=generator.device)
        found[:, 0] = experts // 3
        return found
    if kind == "local":
        found = _uniform(tokens, max(ROUTED_EXPERTS, experts), topk, generator)
        return found.where(found < experts, -1)
    # Shuffled entries, with as many for each of the first experts as GROUPS says.
    entries = tokens * topk
    if entries < sum(GROUPS) or experts <= len(GROUPS):
        raise ValueError(
            f"tokens, experts: expected {sum(GROUPS)} entries and more than {len(GROUPS)} experts, "
            f"got {entries} and {experts}"
        )
    order = torch.randperm(entries, generator=generator, device=generator.device)
    ends = order.new_tensor(GROUPS).cumsum(0)
    return torch.bucketize(order, ends, right=True).reshape(tokens, topk)


def place(topk_idx: torch.Tensor, experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(slot [T, K] int32, counts [E] int32) in the layout of docs/decisions/0004.

    By a stable sort: the operands of other operators are made without ``expert_slots``.
    """
    import torch

    flat = topk_idx.flatten()
    flat = flat.where((flat >= 0) & (flat < experts), experts)
    counts = flat.bincount(minlength=experts + 1)
    padded = (counts + 127) // 128 * 128
    order = flat.argsort(stable=True)
    expert = flat[order]
    # Behind the rows of the experts before, instead of behind their padded segments.
    rank = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[expert]
    row = (padded.cumsum(0) - padded)[expert] + rank
    slot = torch.empty_like(flat)
    slot[order] = row.where(expert < experts, -1)
    return slot.reshape(topk_idx.shape).int(), counts[:experts].int()


def buffer_rows(tokens: int, topk: int, experts: int) -> int:
    """R of docs/decisions/0004: rows that suffice however the tokens are routed."""
    routed = tokens * topk
    return (routed + min(experts, routed) * 127) // 128 * 128


def expert_rows_of(
    slot: torch.Tensor, shape: tuple[int, int], kind: str, generator: torch.Generator
) -> torch.Tensor:
    """bf16 rows of a distribution where a slot stands, and NaN in the padding, which nobody reads.

    slot: [T, K] int32.  shape: of the buffer.  kind: as in benchmarks/cases/_data.py.
    """
    import torch

    rows = torch.full(shape, float("nan"), dtype=torch.bfloat16, device=generator.device)
    taken = slot[slot >= 0].long()
    step = max(1, (1 << 24) // max(1, shape[1]))
    for start in range(0, len(taken), step):
        part = taken[start : start + step]
        rows[part] = values((len(part), shape[1]), kind, generator).to(rows.dtype)
    return rows


@cache
def routed(kind: str, tokens: int, experts: int, topk: int, seed: int) -> tuple[int, int]:
    """(entries that are an expert's, tokens that have one) of the routing of this seed."""
    if kind in ("uniform", "zipf", "correlated", "same", "duplicate") or kind.startswith("no_"):
        return tokens * topk, tokens
    import torch

    drawn = routing(kind, tokens, experts, topk, torch.Generator().manual_seed(seed))
    here = (drawn >= 0) & (drawn < experts)
    return int(here.sum()), int(here.any(dim=1).sum())

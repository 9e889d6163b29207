"""Fresh memory with guards around it, so that a write beside a result shows on a CPU."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

GUARD = 1 << 20  # bytes on either side
PATTERN = 0x5A


@contextmanager
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, what ``torch.empty`` returns lies between guards; afterwards these must be untouched.

    Results themselves are filled with the same pattern, of which no operand consists.
    """
    fresh, held = torch.empty, []

    def empty(*args: Any, **options: Any) -> torch.Tensor:
        out: torch.Tensor = fresh(*args, **options)
        size = out.numel() * out.element_size()
        memory = fresh(size + 2 * GUARD, dtype=torch.uint8, device=out.device).fill_(PATTERN)
        held.append((memory, size))
        return memory[GUARD : GUARD + size].view(out.dtype).view(out.shape)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        yield
    assert held
    for memory, size in held:
        assert (memory[:GUARD] == PATTERN).all()
        assert (memory[GUARD + size :] == PATTERN).all()

"""Memory that torch hands out uninitialised, filled with a pattern that no result consists of."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

# In two calls that are compared; as e4m3, bf16 and fp32 far from a result.
PATTERNS = (0x5A, 0xC3)


class Memory:
    """While installed, what torch hands out uninitialised holds ``pattern`` in every byte."""

    FUNCTIONS = ("empty", "empty_like", "empty_strided")

    def __init__(self) -> None:
        self.pattern: int | None = None
        self.undo: list[tuple[Any, str, Any]] = []

    def install(self) -> None:
        """Before an adapter is loaded: it may keep ``torch.empty`` under a name of its own."""
        import torch

        places = [(torch, name) for name in self.FUNCTIONS] + [(torch.Tensor, "new_empty")]
        for owner, name in places:
            real = getattr(owner, name)
            self.undo.append((owner, name, real))
            setattr(owner, name, functools.wraps(real)(self._filling(real)))

    def remove(self) -> None:
        """Put torch's own functions back."""
        while self.undo:
            setattr(*self.undo.pop())

    def _filling(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def empty(*args: Any, **options: Any) -> Any:
            out = real(*args, **options)
            if self.pattern is not None and out.device.type != "meta":
                _fill(out, self.pattern)
            return out

        return empty


def _fill(out: torch.Tensor, pattern: int) -> None:
    import torch

    if out.dtype == torch.bool:
        out.fill_(bool(pattern & 1))  # a bool of any other byte is undefined
    elif out.numel():
        storage = out.untyped_storage()
        torch.tensor([], dtype=torch.uint8, device=out.device).set_(storage).fill_(pattern)

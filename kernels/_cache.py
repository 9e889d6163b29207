"""Hints to the caches.  They change no result; Triton's interpreter knows no inline PTX."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def warm_l2(pointers):
    """Ask for the cache lines that ``pointers`` lie in, and go on without waiting."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [pointers],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip

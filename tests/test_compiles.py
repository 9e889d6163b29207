"""Every kernel that any case reaches compiles for the GPU, the edges included.

Triton's interpreter runs what its compiler refuses, such as a name whose type changes in a loop.
tests/test_codegen.py compiles what the timed cases reach; here is the rest.
"""

from __future__ import annotations

import pytest

from harness import codegen
from tests.test_inputs import LAUNCHING


@pytest.mark.long
def test_what_only_untimed_cases_reach_compiles() -> None:
    built = codegen.collect(codegen.elsewhere([(stem, codegen.EDGES) for stem in LAUNCHING]))
    assert len(built) > len(LAUNCHING)
    assert not [f"{one.operator} {one.case}: {one.error}" for one in built if one.error]
    for kernel in (kernel for one in built for kernel in one.kernels):
        assert kernel.shared <= 227 * 1024
        assert not kernel.misled

"""Every kernel that any case reaches compiles for the GPU, the edges included.

Triton's interpreter runs what its compiler refuses, such as a name whose type changes in a loop.
tests/test_codegen.py compiles what the timed cases reach; here is the rest.
"""

from __future__ import annotations

from benchmarks import cases
from harness import codegen


def test_what_only_untimed_cases_reach_compiles() -> None:
    # A layer launches what its operators do, which are compiled as theirs.
    stems = [stem for stem in cases.names() if not stem.startswith("moe_layer")]
    built = codegen.collect(codegen.elsewhere([(stem, codegen.EDGES) for stem in stems]))
    assert len(built) > len(stems)
    assert not [f"{one.operator} {one.case}: {one.error}" for one in built if one.error]

"""What a command line's words mean: an operator, a case, a problem of one's own."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import cases
from harness import _problem

OPERATORS = cases.names()


def test_an_operator_is_a_stem() -> None:
    assert [_problem.operator(stem) for stem in OPERATORS] == OPERATORS
    with pytest.raises(_problem.UsageError) as caught:
        _problem.operator("fp8gemm")
    assert str(caught.value).endswith("got 'fp8gemm'; did you mean fp8_gemm?")
    assert ", ".join(OPERATORS) in str(caught.value)


@pytest.mark.parametrize("stem", OPERATORS)
def test_every_label_finds_its_case(stem: str) -> None:
    for case in cases.load(stem).CASES:
        assert _problem.find(stem, case.label) is case
        assert _problem.spelled(stem, case) == case.label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("layer=kv_a,m=128", "layer=kv_a,m=128,n=576,k=7168,out=bf16,data=normal"),
        ("m=128,layer=kv_a", "layer=kv_a,m=128,n=576,k=7168,out=bf16,data=normal"),
        ("m=128 kv_a", "layer=kv_a,m=128,n=576,k=7168,out=bf16,data=normal"),
        ("kv_b,1", "layer=kv_b,m=1,n=32768,k=512,out=bf16,data=normal"),
        ("k=131072", "m=128,n=256,k=131072,out=bf16,data=normal"),
        ("=66000", "layer=kv_b,m=66000,n=32768,k=512,out=bf16,data=normal"),
    ],
)
def test_a_part_of_a_label(text: str, label: str) -> None:
    assert _problem.find("fp8_gemm", text).label == label


@pytest.mark.parametrize(
    ("stem", "text", "said"),
    [
        ("fp8_gemm", "layer=kv_a", "fits 5 cases of fp8_gemm: layer=kv_a,m=1,n=576"),
        ("fp8_gemm", "layer=kv_c", "no case of fp8_gemm has 'layer=kv_c' in its label"),
        ("fp8_gemm", "4096,7168", "fp8_gemm takes M,N,K, got 2 numbers"),
        ("act_quant", "1,2,3", "act_quant takes M,K, got 3 numbers"),
        ("weight_quant", "1,2,3", "weight_quant takes N,K, got 3 numbers"),
        (
            "fp8_gemm",
            "64,64,100",
            "refuses m=64,n=64,k=100,out=bf16,data=normal: x: expected K to be",
        ),
    ],
)
def test_what_no_case_fits(stem: str, text: str, said: str) -> None:
    with pytest.raises(_problem.UsageError, match=r"^case: ") as caught:
        _problem.find(stem, text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("stem", "text", "fields"),
    [
        ("fp8_gemm", "100,200,384", {"m": 100, "n": 200, "k": 384, "out": "bf16"}),
        ("act_quant", "100,256", {"m": 100, "k": 256, "x": "bf16", "pow2": False}),
        ("weight_dequant", "100,70", {"n": 100, "k": 70, "out": "bf16"}),
        ("wgmma", "64,64,32", {"m": 64, "n": 64, "k": 32, "w": "e4m3"}),
    ],
)
def test_a_problem_of_ones_own(stem: str, text: str, fields: dict[str, Any]) -> None:
    case = _problem.find(stem, text)
    assert type(case) is type(cases.load(stem).CASES[0])
    assert {name: getattr(case, name) for name in fields} == fields
    assert _problem.find(stem, _problem.spelled(stem, case)) == case


def test_what_labels_share_goes_to_the_title() -> None:
    shared, names = _problem.shortened(["m=1,k=2,x=bf16", "m=3,k=2,x=bf16"])
    assert (shared, names) == ("k=2 x=bf16", {"m=1,k=2,x=bf16": "m=1", "m=3,k=2,x=bf16": "m=3"})
    assert _problem.shortened(["m=1,k=2"]) == ("", {"m=1,k=2": "m=1 k=2"})


def test_the_commit_of_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are never filed under a commit that the tree is not."""
    asked: list[tuple[str, ...]] = []
    answers = {"status": " M kernels/topk_gate.py", "rev-parse": "a" * 40, "show": "2026-01-01"}

    def git(*arguments: str) -> str | None:
        asked.append(arguments)
        return answers[arguments[0]]

    monkeypatch.setattr(_problem, "_git", git)
    with pytest.raises(_problem.UsageError, match="what is measured is modified"):
        _problem.commit()
    assert asked == [("status", "--porcelain", "--", *_problem.MEASURED)]
    assert _problem.commit("a1b5ed6") == ("a" * 40, "2026-01-01")
    answers["status"] = ""
    assert _problem.commit() == ("a" * 40, "2026-01-01")

"""Which process runs when, and which cases a command line means."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import cases, tasks
from gate import plan
from gate.plan import BASE, HEAD
from harness._problem import UsageError


def test_the_order_is_abba_and_then_the_other_way_round() -> None:
    assert plan.order(0) == (BASE, HEAD, HEAD, BASE)
    assert plan.order(1) == (HEAD, BASE, BASE, HEAD)
    assert plan.order(2) == plan.order(0)


def test_a_drift_falls_on_both_sides_alike() -> None:
    """Linear within each block, quadratic within two."""
    signs = np.array(
        [1 if side == HEAD else -1 for block in range(2) for side in plan.order(block)]
    )
    place = np.arange(signs.size)
    assert signs[:4] @ place[:4] == 0
    assert signs @ place == 0
    assert signs @ place**2 == 0


def test_neighbours_are_pairs_of_one_of_each() -> None:
    turns = [turn for turn in plan.turns(["fp8_gemm"], 4, hopper=True) if turn.step == plan.TIME]
    for first, second in zip(turns[::2], turns[1::2], strict=True):
        assert first.pair == second.pair
        assert {first.side, second.side} == {BASE, HEAD}
    assert [turn.pair for turn in turns[::2]] == list(range(8))


def test_every_operator_has_its_block_before_any_has_two() -> None:
    turns = list(plan.turns(["act_quant", "fp8_gemm"], 2, hopper=False))
    assert len(turns) == len(set(turns)) == 2 * (2 + 2 + 2 * 4)
    steps = [turn.step for turn in turns]
    assert steps == sorted(steps, key=[plan.CODEGEN, plan.CHECK, plan.TIME].index)
    timed = [(turn.block, turn.operator) for turn in turns if turn.step == plan.TIME]
    assert timed == sorted(timed)
    assert not [
        turn for turn in plan.turns(["act_quant"], 1, hopper=True) if turn.step == plan.CHECK
    ]
    assert {turn.step for turn in plan.turns(["act_quant"], 0, hopper=True)} == {plan.CODEGEN}


def test_a_process_takes_each_case_once_and_no_peer() -> None:
    timed = [case.label for case in cases.load("fp8_gemm").CASES if case.bench]
    turn = plan.Turn(plan.TIME, "fp8_gemm", 3, 1, HEAD)
    steps = plan.steps(turn, [], hopper=True)
    assert [step.case for step in steps] == timed
    assert {(step.kind, step.implementation, step.round) for step in steps} == {
        ("device", tasks.OURS, 3)
    }
    assert [step.case for step in plan.steps(turn, timed[2:4], hopper=True)] == timed[2:4]
    small = plan.steps(turn, [], hopper=False)
    assert {(step.kind, step.implementation) for step in small} == {("cpu", tasks.REFERENCE)}
    check = plan.steps(turn._replace(step=plan.CHECK), [], hopper=False)
    assert {step.kind for step in check} == {"accuracy"}
    compiled = plan.steps(turn._replace(step=plan.CODEGEN), [], hopper=False)
    assert [step.case for step in compiled] == timed


def test_filters_name_operators_and_parts_of_labels() -> None:
    everything = plan.select([])
    assert set(everything) == set(cases.names())
    assert plan.select(["fp8_gemm"]) == {"fp8_gemm": everything["fp8_gemm"]}
    some = plan.select(["fp8_gemm", "m=64", "m=128", "act_quant", "m=1"])
    assert list(some) == ["fp8_gemm", "act_quant"]
    for label in some["fp8_gemm"]:
        assert {"m=64", "m=128"} & set(label.split(","))
    assert all("m=1" in label.split(",") for label in some["act_quant"])
    assert 0 < len(some["act_quant"]) < len(everything["act_quant"])


@pytest.mark.parametrize("words", [["fp9_gemm"], ["m=64"], ["fp8_gemm", "m=nothing"]])
def test_a_filter_that_means_nothing_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match=r"expected one of|no timed case"):
        plan.select(words)

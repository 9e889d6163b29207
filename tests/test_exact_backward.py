"""harness.exact_backward: what the reference streams expert by expert is what it gives as a whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import fingerprint
from benchmarks.cases.moe_layer_backward import MoeLayerBackward
from harness import _evidence, _problem, exact, exact_backward
from reference_impl.moe_layer_backward import moe_layer_backward as reference
from reference_impl.wgmma import partials

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("products")
# Two blocks of the shared expert's channels, rows of more than a block, and one expert without any.
CASE = MoeLayerBackward(t=150, h=128, i=128, shared=256, e=4, k=2, groups=1, limit=1)
EMPTY = 2
ONE = MoeLayerBackward(t=3, h=128, i=128, shared=128, e=1, k=1, groups=1, limit=1)


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, Any], tuple[torch.Tensor, ...]]:
    """Arguments, and the reference's result."""
    arguments = exact_backward.operands(CASE, "cpu") | {"route_scale": 1.3}
    arguments["bias"][EMPTY] = -10
    with partials("exact"):
        found = reference(**arguments)
    return arguments, tuple(part for part in found if part is not None)


def found(arguments: dict[str, Any], got: Any, weights: int) -> dict[str, tuple[int, int]]:
    """Part -> elements that differ, and of how many."""
    parts = list(exact_backward.compare_all(CASE, arguments, got, weights))
    assert all(bool(one.differing) == bool(one.message) for one in parts)
    return {one.variant: (one.differing, one.elements) for one in parts}


@pytest.mark.cpu  # on a GPU's machine the model of the tensor core takes long on a CPU
def test_what_is_streamed_is_the_whole(whole: Any) -> None:
    """All experts, and the two blocks of channels of the shared one."""
    arguments, got = whole
    parts = found(arguments, got, 4)
    assert not any(differing for differing, _ in parts.values())
    experts = [name.split()[2] for name in parts if name.startswith("expert")]
    assert experts.pop() == "no"
    assert sum(map(int, experts)) == 150 * 2
    assert len(experts) == 3
    assert {parts[name][1] for name in parts if name.startswith("expert")} == {3 * 128 * 128}
    assert parts["shared expert from 0"] == parts["shared expert from 128"] == (0, 3 * 128 * 128)
    assert len(parts) == 7


@pytest.mark.cpu
def test_a_wrong_bit_is_found_in_any_part(whole: Any) -> None:
    arguments, got = whole
    load = exact_backward.route(arguments).idx.flatten().bincount(minlength=4)
    busiest = int(load.argmax())
    wrong = [part.clone() for part in got]
    places: tuple[Any, ...] = (
        (0, 5), (149, 3), (busiest, 200, 17), (busiest, 9, 100), (256 + 255, 2), (127, 255)
    )  # fmt: skip
    for part, place in zip(wrong, places, strict=True):
        part.view(torch.int16 if part.itemsize == 2 else torch.int32)[place] ^= 1
    wrong[3][EMPTY, 2, 3] = -0.0
    parts = found(arguments, wrong, 1)
    assert {name: differing for name, (differing, _) in parts.items() if differing} == {
        "sampled tokens": 2, f"expert {busiest}, {load[busiest]} tokens": 2,
        f"expert {EMPTY}, no tokens": 1, "shared expert from 128": 2,
    }  # fmt: skip
    (shapes,) = exact_backward.compare_all(CASE, arguments, [got[0][:-1], *got[1:]], 1)
    assert shapes.message


def test_the_kernels_are_run(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    parts = list(exact_backward.check(ONE, device))
    assert exact_backward.examine(iter(parts)) == 0
    assert "expert 0, 3 tokens: 0 of 49152 elements differ" in capsys.readouterr().out
    wrong = parts[1]._replace(differing=1, message="something")
    assert exact_backward.examine(iter([*parts, wrong])) == 1
    assert "1 parts are wrong" in capsys.readouterr().out


def test_experts_are_chosen_by_their_load() -> None:
    counts = torch.tensor([5, 0, 9, 1, 7, 7])
    assert exact_backward.by_load(counts, 1) == [3, 2]
    assert exact_backward.by_load(counts, 2) == [3, 2]
    assert exact_backward.by_load(counts, 3) == [3, 4, 2]
    assert exact_backward.by_load(counts, 99) == [3, 0, 4, 5, 2]
    assert exact_backward.by_load(counts[:1], 4) == [0]
    assert exact_backward.by_load(counts * 0, 4) == []


def test_the_command_line_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fingerprint, "has_hopper", lambda: False)
    assert exact_backward.main(["--experts", "64"]) == 3
    assert "needs a Hopper GPU" in capsys.readouterr().err


def test_what_was_found_is_kept_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Part by part, and a part found again takes the older one's place."""
    commit = ("a" * 40, "2026-01-01T00:00:00+00:00")
    monkeypatch.setattr(_problem, "commit", lambda named=None: commit)
    monkeypatch.setattr(exact, "ready", lambda command: True)
    bad = [3]

    def check(case: MoeLayerBackward, weights: int) -> Iterator[exact.Found]:
        assert weights == 4
        for part, differing in (("sampled tokens", 0), ("expert 1, 5 tokens", bad[0])):
            message = "wrong" if differing else ""
            yield exact.Found(
                exact_backward.STEM, case.label, part, 1000 + differing, differing, message
            )

    monkeypatch.setattr(exact_backward, "check", check)
    out = tmp_path / "h200" / "exact_backward" / f"{commit[0]}.json"
    assert exact_backward.main(["--out", str(out)]) == 1
    rows = json.loads(out.read_text())["rows"]
    label = MoeLayerBackward(t=4096, e=256, layer="moe").label
    assert [(row["operator"], row["case"], row["part"]) for row in rows] == [
        ("moe_layer_backward", label, "sampled tokens"),
        ("moe_layer_backward", label, "expert 1, 5 tokens"),
    ]
    assert [(row["elements"], row["differing"], row["message"]) for row in rows] == [
        (1000, 0, ""), (1003, 3, "wrong"),
    ]  # fmt: skip
    page = _evidence.text([], [], [out])
    assert "## The backward of all experts" in page
    assert f"| `{label}` | 2 | 2,003 | 3 | 1 | 0.0 |" in page
    assert "h200, aaaaaaaaaaaa" in page
    assert "The backward" not in _evidence.text([], [])
    bad[0] = 0
    assert exact_backward.main(["--out", str(out)]) == 0
    assert [row["differing"] for row in json.loads(out.read_text())["rows"]] == [0, 0]
    commit = ("b" * 40, commit[1])
    assert exact_backward.main(["--out", str(out)]) == 2
    assert "is of commit aaa" in capsys.readouterr().err

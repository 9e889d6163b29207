"""What every operator of kernels/ promises beyond its numbers.

Its inputs may be views, its results are its own memory, a CUDA graph may hold it, and the number of
multiprocessors lent to it changes nothing.  Tests over ``cases.names()`` hold for every operator
there will be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import cases
from benchmarks.cases.fp8_gemm import Fp8Gemm
from benchmarks.compare import Exact, assert_equal, compare
from kernels._device import recording, sm_limit
from kernels.act_quant import act_quant
from kernels.fp8_gemm import fp8_gemm
from kernels.weight_quant import weight_quant
from tests._guards import guarded
from tests.test_inputs import LAUNCHING, small, tensors

if TYPE_CHECKING:
    from benchmarks.cases import Case


def outputs(result: Any) -> tuple[torch.Tensor, ...]:
    parts = result if isinstance(result, tuple) else (result,)
    return tuple(part for part in parts if part is not None)


def names(stem: str) -> tuple[str, ...]:
    found: tuple[str, ...] = cases.load(stem).OUTPUTS
    return found


def turn(tensor: torch.Tensor) -> None:
    """Other numbers in the same memory: its rows in reverse, each turned by one column."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize]
    view = tensor.view(bits)
    view.copy_(view.flip(0).roll(1, dims=-1).clone())


@pytest.mark.parametrize("stem", LAUNCHING)
def test_results_are_their_own_memory(stem: str, device: str) -> None:
    """They share none with the inputs, with each other, or with the results of the next call."""
    function, arguments = cases.public("kernels", stem), small(stem).inputs(device)
    first = function(**arguments)
    before = [part.clone() for part in outputs(first)]
    for part in tensors(arguments).values():
        turn(part)
    second = function(**arguments)
    assert not compare(outputs(second)[0], before[0], Exact()).ok  # or nothing is shown
    for one, kept in zip(outputs(first), before, strict=True):
        assert_equal(one.contiguous(), kept.contiguous(), Exact())
    parts = [*tensors(arguments).values(), *outputs(first), *outputs(second)]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == len(parts)


@pytest.mark.parametrize("stem", LAUNCHING)
def test_nothing_is_written_beside_the_results(
    stem: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards around what an operator allocates stay as they are, in cheap cases, and of each width the
    cheapest."""
    ordered = sorted(cases.on_cpu(stem), key=lambda case: case.interpreter_steps())
    widths: dict[Any, Case] = {}
    for case in ordered:
        first = next(iter(tensors(case.inputs("meta")).values()))
        widths.setdefault(first.shape[1:], case)
    for case in dict.fromkeys([*ordered[:8], *[*widths.values()][:8]]):
        arguments = case.inputs(device)
        with guarded(monkeypatch):
            cases.public("kernels", stem)(**arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("stem", LAUNCHING)
def test_a_graph_replays_with_new_inputs(stem: str, device: str) -> None:
    function, arguments = cases.public("kernels", stem), small(stem).inputs(device)
    warm = function(**arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = function(**arguments)
    graph.replay()
    assert_equal(captured, warm, Exact(), names=names(stem))
    for part in tensors(arguments).values():
        turn(part)
    graph.replay()
    torch.cuda.synchronize()
    assert_equal(captured, function(**arguments), Exact(), names=names(stem))
    assert not compare(captured, warm, Exact(), names=names(stem)).ok


@pytest.mark.parametrize("sms", [1, 20])
@pytest.mark.parametrize("stem", LAUNCHING)
def test_fewer_multiprocessors_give_the_same_bits(stem: str, sms: int, device: str) -> None:
    function, arguments = cases.public("kernels", stem), small(stem).inputs(device)
    free = function(**arguments)
    with sm_limit(sms):
        limited = function(**arguments)
    assert_equal(limited, free, Exact(), names=names(stem))


@pytest.mark.parametrize("sms", [1, 20])
def test_gemm_walks_many_tiles_a_program(sms: int, device: str) -> None:
    """More tiles than programs, in a group of rows that is cut short, and ragged both ways."""
    arguments = Fp8Gemm(m=650 if device == "cpu" else 4001, n=200, k=128).inputs(device)
    free = fp8_gemm(**arguments)
    with sm_limit(sms):
        assert_equal(fp8_gemm(**arguments), free, Exact())


def test_gemm_keeps_to_its_multiprocessors() -> None:
    arguments = Fp8Gemm(m=4096, n=7168, k=2048).inputs("meta")
    grids = {}
    for sms in (1, 20, 132):
        with recording() as launches, sm_limit(sms):
            fp8_gemm(**arguments)
        grids[sms] = launches[0].grid[0]
    per_sm = grids[1]
    assert grids == {1: per_sm, 20: 20 * per_sm, 132: 132 * per_sm}
    with pytest.raises(ValueError, match=r"^sms: expected at least 1, got 0$"), sm_limit(0):
        pass


@pytest.mark.parametrize("quantise", [act_quant, weight_quant])
def test_quantisers_read_views(quantise: Any, device: str) -> None:
    """Rows that lie apart, that overlap, and data that starts at an odd element."""
    wide = torch.randn(9, 513, generator=torch.Generator().manual_seed(1)).to(device)
    for view in (wide[:, 128:384], wide[::2, 1:257], wide[:1, :256].expand(5, 256)):
        got, want = quantise(view), quantise(view.contiguous())
        assert_equal(got, want, Exact(), names=("q", "scale"))


@pytest.mark.parametrize("layout", ["rows", "spread", "expanded"])
def test_gemm_reads_scales_of_any_strides(layout: str, device: str) -> None:
    arguments = Fp8Gemm(m=65, n=136, k=384).inputs(device)
    for name in ("x_scale", "w_scale"):
        scale = arguments[name]
        if layout == "expanded":
            scale = scale[:, :1].expand_as(scale)
        arguments[name] = scale.contiguous()
    want = fp8_gemm(**arguments)
    for name in ("x_scale", "w_scale"):
        scale = arguments[name]
        if layout == "spread":
            arguments[name] = torch.stack([scale, -scale], dim=2)[:, :, 0]
        elif layout == "expanded":
            arguments[name] = scale[:, :1].expand_as(scale)
        else:
            arguments[name] = scale.T.contiguous().T
    assert_equal(fp8_gemm(**arguments), want, Exact())


# Rows of 128 channels that a quarter of an H200's memory holds.
@pytest.mark.parametrize("rows", [3_000_000, 1 << 24])
@pytest.mark.parametrize("stem", ["act_quant", "weight_quant", "weight_dequant", "wgmma"])
def test_grids_stay_inside_cudas_limits(stem: str, rows: int) -> None:
    """65,535 blocks along y and z; beyond it a launch fails as an invalid argument."""
    many = torch.empty(rows, 128, dtype=torch.bfloat16, device="meta")
    fp8 = many.to(torch.float8_e4m3fn)
    arguments = {
        "act_quant": (many,),
        "weight_quant": (many,),
        "weight_dequant": (fp8, torch.empty(-(-rows // 128), 1, device="meta")),
        "wgmma": (fp8, fp8[:128]),
    }
    with recording() as launches:
        cases.public("kernels", stem)(*arguments[stem])
    for launch in launches:
        assert launch.grid[0] < 1 << 31
        assert all(blocks <= 65_535 for blocks in launch.grid[1:])

"""kernels._device.recording: the launches of a call are kept, and none is made."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from benchmarks import cases
from benchmarks.compare import Exact, assert_equal
from kernels._device import recording
from tests.test_inputs import LAUNCHING, small, tensors


@pytest.mark.parametrize("stem", LAUNCHING)
def test_nothing_is_launched_while_recording(stem: str, device: str) -> None:
    """Real tensors too: the result stays as it was allocated: as conftest.py fills it, or zero."""
    function, arguments = cases.public("kernels", stem), small(stem).inputs(device)
    before = {name: tensor.clone() for name, tensor in tensors(arguments).items()}
    with recording() as launches:
        got = function(**arguments)
    if device == "cuda":
        torch.cuda.synchronize()
    assert launches
    for output in filter(torch.is_tensor, got if isinstance(got, tuple) else (got,)):
        if output.any():
            fresh = torch.empty(output.shape, dtype=output.dtype, device=device)
            assert_equal(output.contiguous(), fresh, Exact())
    for name, tensor in tensors(arguments).items():
        assert_equal(tensor.contiguous(), before[name].contiguous(), Exact(), names=[name])


@pytest.mark.parametrize("stem", LAUNCHING)
def test_recording_ends_with_its_block(stem: str, device: str) -> None:
    """Also when what is recorded raises; and another thread launches meanwhile."""
    function, arguments = cases.public("kernels", stem), small(stem).inputs(device)
    want = function(**arguments)
    meanwhile: list[Any] = []
    other = threading.Thread(target=lambda: meanwhile.append(function(**arguments)))
    with recording() as launches:
        other.start()
        other.join()
    assert launches == []
    with pytest.raises(TypeError), recording():
        function()
    names = cases.load(stem).OUTPUTS
    assert_equal(meanwhile[0], want, Exact(), names=names)
    assert_equal(function(**arguments), want, Exact(), names=names)

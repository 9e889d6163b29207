"""Where the tests run: on a Hopper GPU as it is, elsewhere in Triton's interpreter, made exact."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.fingerprint import has_hopper

HOPPER = has_hopper()
if not HOPPER:
    # Before any kernel is defined: Triton decides at that moment.
    os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402  (after the variable above)

from harness import interpreter  # noqa: E402
from harness._memory import Memory  # noqa: E402
from reference_impl.wgmma import partials  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_WORKERS = 8  # each imports torch; the longest file takes as long as a quarter of all
DEVICE = "cuda" if HOPPER else "cpu"
if not HOPPER:
    interpreter.install()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "long: some seven seconds or more; `nox -s tests` leaves it out"
    )
    config.addinivalue_line("markers", "gpu: needs a Hopper GPU; skipped elsewhere")
    config.addinivalue_line(
        "markers", "cpu: is about Triton's interpreter; skipped on a Hopper GPU"
    )


@pytest.hookimpl(optionalhook=True)  # a box may lack xdist
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process for one GPU, whose memory the tests would else compete for; else one a core."""
    return 0 if HOPPER else min(os.cpu_count() or 1, MOST_WORKERS)


# What is the same for every operator takes longest, and shares nothing between operators.
BY_OPERATOR = re.compile(r"(tests/test_(?:ops|inputs|launches)\.py)::\w+\[(\w+)")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``--dist loadfile`` shares out files, for the sake of their fixtures, and of some files operators."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            found = BY_OPERATOR.match(nodeid)
            return "-".join(found.groups()) if found else nodeid.split("::", 1)[0]

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not HOPPER:
            item.add_marker(pytest.mark.skip(reason="needs a Hopper GPU"))
        if item.get_closest_marker("cpu") and HOPPER:
            item.add_marker(
                pytest.mark.skip(reason="is about the interpreter; this machine has a Hopper GPU")
            )


@pytest.fixture
def device() -> str:
    """Where operators run here: "cuda" with a Hopper GPU, else "cpu"."""
    return DEVICE


@pytest.fixture
def products() -> Iterator[None]:
    """The reference sums products as the machine does: the wgmma model on Hopper; elsewhere exactly,
    as the interpreter of harness/interpreter.py does."""
    with partials("hopper" if HOPPER else "exact"):
        yield


@pytest.fixture(autouse=True)
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nothing wrote reads as NaN, or as a large number, so that an element left out shows."""
    fresh = torch.empty

    def empty(*args: object, **kwargs: object) -> torch.Tensor:
        out: torch.Tensor = fresh(*args, **kwargs)  # type: ignore[call-overload]
        if out.device.type != "meta" and out.numel() and out.dim() and out.dtype != torch.bool:
            # All ones is NaN in every floating format here, FP8 included; as an integer it would be
            # -1, which may be an answer.
            out.view(torch.uint8).fill_(0xFF if out.dtype.is_floating_point else 0x7F)
        return out

    monkeypatch.setattr(torch, "empty", empty)


@pytest.fixture
def memory() -> Iterator[Memory]:
    """What torch hands out uninitialised holds a pattern while one is set."""
    held = Memory()
    held.install()
    yield held
    held.remove()

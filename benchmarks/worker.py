"""The child of a sweep: measures one operator's phase and appends every finished step."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases, peers, rawlog, tasks
from benchmarks.fingerprint import has_hopper
from benchmarks.metrics import METRICS
from benchmarks.tasks import OURS, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.cases import Case
    from benchmarks.measure import Timing
    from benchmarks.roofline import Ceilings


PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class WrongAnswer(AssertionError):
    """An implementation disagrees with the reference; it gets no number."""


class Worker:
    """One operator's phase: walks the missing steps, and logs a status where one cannot be done."""

    def __init__(self, writer: rawlog.Writer, stem: str, phase: str) -> None:
        self.writer = writer
        self.stem = stem
        self.phase = phase
        self.expected: dict[str, Any] = {}
        self.dead: set[tuple[str, str]] = set()
        # Of the step at hand.  They are written together when it is done, so that a kill leaves a
        # step whole or not begun, and no value is measured twice.
        self.held: list[dict[str, Any]] = []

    def run(self) -> None:
        for task in self.todo():
            if (task.case, task.implementation) in self.dead:
                continue
            print("@" + json.dumps([task.kind, task.case, task.implementation]), flush=True)
            self.held.clear()
            try:
                getattr(self, task.kind)(task)
                self.writer.append_all("sample", self.held)
            except NotImplementedError as reason:
                self.give_up(task, "n/a", str(reason))
            except Exception as error:  # noqa: BLE001  (an operator's failure is a row, not our end)
                self.give_up(task, "failed", f"{type(error).__name__}: {error}")
                if is_sticky(error):
                    # The CUDA context is gone; what follows would fail for this reason, not its own.
                    raise SystemExit(f"the GPU context is lost: {error}") from None

    def todo(self) -> Iterable[Task]:
        """The steps that the log lacks."""
        rows = rawlog.read(self.writer.path, print) if self.writer.path.exists() else []
        return tasks.missing(self.stem, self.phase, rows, hopper=has_hopper())

    def give_up(self, task: Task, status: str, reason: str) -> None:
        """Log why a (case, implementation) has no numbers, and leave it alone from here on."""
        self.dead.add((task.case, task.implementation))
        text = " ".join(reason.split())[:600]
        print(f"{task.case} {task.implementation}: {status}: {text}", flush=True)
        self.writer.append(
            "status", operator=self.stem, case=task.case, implementation=task.implementation,
            phase=self.phase, status=status, reason=text,
        )  # fmt: skip

    def write(self, task: Task, metric: str, **numbers: Any) -> None:
        row = {
            "operator": self.stem, "case": task.case, "implementation": task.implementation,
            "metric": metric, "unit": METRICS[metric].unit, "round": task.round,
        }  # fmt: skip
        self.held.append(row | numbers)

    # The steps, by their kind.

    def codegen(self, task: Task) -> None:
        """Registers, spills, shared memory, wgmma, instructions and hashes for sm_90."""
        from benchmarks import codegen

        compiled = codegen.compile_case(self.stem, cases.find(self.stem, task.case))
        if not compiled:
            raise NotImplementedError("nothing is launched")
        for metric, value in codegen.summary(compiled).items():
            self.write(task, metric, value=value, detail=codegen.detail(compiled))

    def accuracy(self, task: Task) -> None:
        """Parity and accuracy in Triton's interpreter."""
        from benchmarks import parity
        from harness import interpreter
        from reference_impl import wgmma

        interpreter.install()
        case = cases.find(self.stem, task.case)
        arguments = case.inputs("cpu")
        with wgmma.partials("exact"):
            got = cases.call(cases.public("kernels", self.stem), arguments)
            found = parity.check(self.stem, case, arguments, got)
        if not found.ok:
            raise WrongAnswer(found.message)
        self.exactness(task, case, arguments, got, found.differing)

    def exactness(
        self, task: Task, case: Case, arguments: dict[str, Any], got: Any, differing: int
    ) -> None:
        from benchmarks import parity

        largest, rms = parity.accuracy(self.stem, case, arguments, got)
        self.write(task, "differing_elements", value=differing)
        self.write(task, "max_error", value=largest)
        self.write(task, "rms_error", value=rms)

    def cpu(self, task: Task) -> None:
        """Wall time of the reference on the CPU."""
        from benchmarks import measure

        case = cases.find(self.stem, task.case)
        arguments = case.inputs("cpu")
        function = cases.public("reference_impl", self.stem)
        self.write(task, "cpu_us", samples=measure.cpu_us(cases.bind(function, arguments)))

    def device(self, task: Task) -> None:
        """Device time and what follows from it, after parity on the very tensors that are timed."""
        from benchmarks import measure

        case = cases.find(self.stem, task.case)
        prepare = self.implementation(task.implementation)
        sets: list[dict[str, Any]] = []

        def make() -> Callable[[], Any]:
            sets.append(case.inputs("cuda"))
            return prepare(sets[-1])

        cost = case.cost()
        timing = measure.device_us(make, bytes_per_call=cost.bytes)
        self.verify(task, case, sets[0], timing)
        evidence = {"clocks": timing.clocks, "throttled": timing.throttled}
        self.write(task, "device_us", samples=timing.samples, **evidence)
        call = prepare(sets[0])
        self.write(task, "launch_us", samples=measure.launch_us(call))
        if task.round == 0:
            self.write(task, "peak_bytes", value=measure.peak_bytes(call))
        self.derived(task, case, timing, evidence)

    def implementation(self, name: str) -> Callable[[dict[str, Any]], Callable[[], Any]]:
        """From operands to the call that is timed."""
        if name != OURS:
            peer = peers.load(name)
            if reason := peer.missing():
                raise NotImplementedError(reason)
            return lambda arguments: peer.prepare(self.stem, arguments)
        function = cases.public("kernels", self.stem)
        return lambda arguments: cases.bind(function, arguments)

    def verify(self, task: Task, case: Case, arguments: dict[str, Any], timing: Timing) -> None:
        """The timed tensors are right: poisoned, replayed, compared, and equal in every buffer set.

        A peer that is within its rights to differ in bits must still be close (parity.close), in any
        layout; how many elements differ is written beside its time.
        """
        import torch

        from benchmarks import compare, parity

        for output in timing.outputs:
            for tensor in output if isinstance(output, tuple) else (output,):
                _poison(tensor)
        timing.replay()
        torch.cuda.synchronize()
        if task.case not in self.expected:
            self.expected[task.case] = parity.reference(self.stem, case, arguments)
        got, expected = timing.outputs[0], self.expected[task.case]
        got = got if task.implementation == OURS else parity.laid_as(got, expected)
        found = parity.check(self.stem, case, arguments, got, expected)
        if task.implementation == OURS:
            if not found.ok:
                raise WrongAnswer(found.message)
            for index, other in enumerate(timing.outputs[1:], 1):
                pair = (parity.defined(self.stem, arguments, outputs) for outputs in (other, got))
                if compare.differing_elements(*pair):
                    raise WrongAnswer(f"buffer set {index} differs from set 0 on the same operands")
        elif not (near := parity.close(self.stem, arguments, got, expected)).ok:
            raise WrongAnswer(near.message)
        if task.round == 0:
            self.exactness(task, case, arguments, got, found.differing)

    def derived(self, task: Task, case: Case, timing: Timing, evidence: dict[str, Any]) -> None:
        """Rates and fractions, from the samples and this run's ceilings."""
        import statistics

        from benchmarks import roofline

        cost = case.cost()
        limit = ceilings(self.writer).limit_us(cost)
        mark = {"throttled": evidence["throttled"]}
        self.write(task, "roofline_cost", samples=[us / limit for us in timing.samples], **mark)
        self.write(task, "roofline_fraction", samples=[limit / us for us in timing.samples], **mark)
        copy = statistics.median(roofline.copy_us(cost.bytes))
        self.write(task, "copy_fraction", samples=[copy / us for us in timing.samples], **mark)
        if cost.flops:
            self.write(
                task, "tflops", samples=[cost.flops / us / 1e6 for us in timing.samples], **mark
            )
        self.write(task, "gbps", samples=[cost.bytes / us / 1e3 for us in timing.samples], **mark)

    def ceilings(self, task: Task) -> None:
        """What this machine can do at best: a copy curve, and the tensor cores' rates."""
        from benchmarks import roofline

        for size in roofline.COPY_BYTES:
            rates = [size / us / 1e3 for us in roofline.copy_us(size)]
            which = task._replace(case=f"copy,bytes={size}", implementation="copy")
            self.write(which, "gbps", samples=rates)
        flops = 2 * roofline.GEMM_SIDE**3
        for kind in ("bf16", "fp8"):
            rates = [flops / us / 1e6 for us in roofline.gemm_us(kind)]
            case = f"{kind} {roofline.GEMM_SIDE}"
            which = task._replace(case=case, implementation="cublas")
            self.write(which, "tflops", samples=rates)
        self.write(task, "tflops", samples=rates)


def ceilings(writer: rawlog.Writer) -> Ceilings:
    """The ceilings this log holds.  Raises RuntimeError when it holds none."""
    from benchmarks.roofline import GEMM_SIDE, Ceilings

    measured = rawlog.collect(rawlog.read(writer.path, lambda _: None))
    copies = [
        found.median
        for key, found in measured.items()
        if key.operator == "machine" and key.implementation == "copy"
    ]
    fp8 = measured.get(rawlog.Key("machine", f"fp8 {GEMM_SIDE}", "cublas", "tflops"))
    if not copies or fp8 is None:
        raise RuntimeError("the machine's ceilings are not in the raw log")
    return Ceilings(copy_gbps=max(copies), fp8_tflops=fp8.median)


def _poison(tensor: Any) -> None:
    """Fill with ones in every bit, NaN in every floating format; an output may be None."""
    import torch

    if tensor is None:
        return
    flat = tensor.detach()
    if flat.dim() > 1 and flat.stride(-1) != 1:
        flat = flat.mT  # scales, stored with stride 1 along their rows
    if flat.dim() == 1 and flat.stride(0) != 1:
        # A vector whose elements lie apart: what is between them is nobody's.
        ones = torch.full((flat.nbytes,), 0xFF, dtype=torch.uint8, device=flat.device)
        flat.copy_(ones.view(flat.dtype))
    elif flat.numel():
        flat.view(torch.uint8).fill_(0xFF)


def is_sticky(error: Exception) -> bool:
    """Whether the error leaves the CUDA context unusable."""
    text = str(error).lower()
    return "cuda error" in text or "illegal" in text or "unspecified launch failure" in text


def main(arguments: list[str]) -> None:
    """checkout, log, commit, process, operator, phase, process number of the sweep."""
    checkout, log, commit, process, stem, phase, parent = arguments
    start = time.perf_counter()
    end_with(int(parent))
    for package in ("kernels", "reference_impl"):
        require_from(package, Path(checkout))
    Worker(rawlog.Writer(Path(log), commit=commit, process=process), stem, phase).run()
    print(f"{stem}: {phase}: {time.perf_counter() - start:.1f} s", flush=True)


def end_with(parent: int) -> None:
    """Let this process be killed when the sweep is: it must not go on measuring beside a rerun."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise SystemExit("the sweep is gone")


def require_from(package: str, checkout: Path) -> None:
    """Raise RuntimeError when ``package`` would be imported from elsewhere than the checkout."""
    import importlib.util

    found = importlib.util.find_spec(package)
    if found is None:
        return  # an old commit without it: every step will say n/a
    places = [Path(place).resolve() for place in found.submodule_search_locations or []]
    if checkout.resolve() / package not in places:
        raise RuntimeError(f"{package}: expected in {checkout}, found in {places}")

"""What the compiler made of a kernel, for sm_90, on any machine: no GPU and no CUDA toolkit needed.

The public function is called as a user calls it, on tensors without data, and its launches are
recorded (kernels._device.recording).  Each is then compiled through Triton's own launcher with the
driver replaced by one that says "sm_90": so the specialisation (alignment, divisibility, constants)
is the one a launch would get, because the same code computes it.

``sass_code`` hashes opcodes with their operands, addresses and comments stripped, ``launch`` what they
are launched with: equal hashes of both are the same program, so a timing difference between them is noise.
``sass_ops`` hashes opcodes alone, which is too coarse to decide anything, and is for display.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Case

# One instruction of nvdisasm: "/*0070*/   @!P0 BRA `(.L_x_1) ;"; the address is a comment.
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s*(.*?)\s*;")
LABEL = re.compile(r"^(\.L_[A-Za-z0-9_]+):")
FUNCTION = re.compile(r"^\s*\.global\s+(\S+)")
COMMENT = re.compile(r"/\*.*?\*/")
OPCODE = re.compile(r"^(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)")
USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
REDUX = re.compile(r"^@!?P(\d) REDUX\b")
PREDICATE = re.compile(r"\b(U?P)(\d)\b")
SHAPE = re.compile(r"wgmma\.mma_async\.sync\.aligned\.(m\d+n\d+k\d+)(\.[\w.]+)")


@dataclass(frozen=True)
class Compiled:
    """One kernel of a call.

    spills: bytes of local memory a thread (the stack frame that ptxas laid out).  shared: bytes a
    block.  wgmma: instructions of the tensor core in the SASS.  shapes: PTX shape and types of each,
    with their count.  seconds: a cold compilation, PTX and assembling included.
    """

    name: str
    grid: tuple[int, ...]
    warps: int
    registers: int
    spills: int
    shared: int
    wgmma: int
    shapes: dict[str, int]
    instructions: int
    sass_code: str
    sass_ops: str
    seconds: float
    # Hash of grid, arguments, constants and options; empty where the launch was not recorded.
    launch: str = ""
    # Instructions that ptxas gave another register's predicate (see misled).
    misled: tuple[str, ...] = ()


@contextmanager
def offline(capability: int = 90) -> Iterator[None]:
    """Make Triton compile for ``capability`` whatever the machine is.  Launching is not possible."""
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Offline:
        """As much of a driver as compilation asks for."""

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self) -> int:
            # No device has this number, so compiled kernels never mix with those of a real one.
            return -capability

        def get_current_stream(self, device: int | None = None) -> int:
            del device
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("meta")

    real = driver._active if hasattr(driver, "_active") else None  # noqa: SLF001 (no public way)
    driver.set_active(Offline())
    try:
        yield
    finally:
        driver._active = real  # noqa: SLF001


def compile_case(stem: str, case: Case) -> list[Compiled]:
    """Compile every kernel that one call of operator ``stem`` on ``case`` launches.

    Raises NotImplementedError for a commit whose kernels cannot be recorded.
    """
    try:
        from kernels._device import recording
    except ImportError:
        raise NotImplementedError("this commit's kernels cannot be recorded") from None
    function = cases.public("kernels", stem)
    with recording() as launches:
        cases.call(function, case.inputs("meta"))
    with offline():
        return [_compile(launch) for launch in launches]


def _compile(launch: Any) -> Compiled:
    from triton import knobs

    with tempfile.TemporaryDirectory() as empty, knobs.cache.scope():
        knobs.cache.dir = empty
        launch.kernel.device_caches.pop(-90, None)
        start = time.perf_counter()
        kernel = launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options)
        seconds = time.perf_counter() - start
    return replace(inspect(kernel, launch.grid, seconds), launch=_launched(launch))


def _launched(launch: Any) -> str:
    """Hash of all that a launch depends on besides its code: the grid, what is known of tensors
    without their data, scalars, constants, Triton's options."""
    given = [_spelled(argument) for argument in launch.args]
    named = sorted((name, _spelled(value)) for name, value in launch.options.items())
    return _hash(repr((launch.grid, given, named)))


def _spelled(value: Any) -> str:
    """An argument as text that is the same in every process."""
    if hasattr(value, "block_shape"):  # a TMA descriptor
        return f"tiles of {value.block_shape} in {value.shape} {value.strides}"
    if hasattr(value, "stride"):
        return f"{value.dtype} {tuple(value.shape)} {value.stride()}"
    # Functions and Triton's types tell where they lie in memory when they are asked for repr.
    return f"{type(value).__name__} {getattr(value, '__name__', value)}"


def inspect(kernel: Any, grid: tuple[int, ...] = (), seconds: float = 0.0) -> Compiled:
    """Facts of one compiled Triton kernel, offline or launched."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        sass = _tool("nvdisasm", "-c", str(cubin))
        usage = USAGE.findall(_tool("cuobjdump", "-res-usage", str(cubin)))
    code = canonical(sass)
    ops = [match.group(1) for match in map(OPCODE.match, code) if match]
    shapes: dict[str, int] = {}
    for shape, types in SHAPE.findall(kernel.asm["ptx"]):
        shapes[shape + types] = shapes.get(shape + types, 0) + 1
    return Compiled(
        name=kernel.metadata.name,
        grid=tuple(grid),
        warps=kernel.metadata.num_warps,
        registers=max(int(registers) for registers, _ in usage),
        spills=sum(int(stack) for _, stack in usage),
        shared=kernel.metadata.shared,
        wgmma=sum(op.split(".")[0] in ("QGMMA", "HGMMA", "IGMMA") for op in ops),
        shapes=shapes,
        instructions=len(ops),
        sass_code=_hash("\n".join(code)),
        sass_ops=_hash("\n".join(ops)),
        seconds=seconds,
        misled=tuple(misled(code)),
    )


def misled(code: list[str]) -> list[str]:
    """Reductions over a warp that are executed under the wrong predicate.

    ptxas 12.8 keeps a condition in a uniform register, UP2, say, and encodes a REDUX under it as one
    under P2, which is something else: seen on an H200, where nine tenths of a product's elements were
    wrong, and by no other trace (docs/log.md).  Told by a predicate that the block of instructions has
    not set, where it has set the uniform one of the same number: a warning, since it misses one that the
    block set for something else before, or a uniform one from before the block.
    """
    found: list[str] = []
    seen: set[tuple[str, str]] = set()
    for line in code:
        if line.startswith(".L_"):
            seen.clear()
            continue
        reduction = REDUX.match(line)
        if reduction:
            number = reduction.group(1)
            if ("UP", number) in seen and ("P", number) not in seen:
                found.append(line)
        body = line.split(" ", 1)[1] if line.startswith("@") else line
        # An instruction's results come first: of predicates, among its first two operands.
        for operand in body.partition(" ")[2].split(",")[:2]:
            if whole := PREDICATE.fullmatch(operand.strip()):
                seen.add((whole.group(1), whole.group(2)))
    return found


def canonical(sass: str) -> list[str]:
    """Instructions and labels of nvdisasm's text, without addresses, comments and names."""
    lines: list[str] = []
    name = ""
    for line in sass.splitlines():
        if function := FUNCTION.match(line):
            # The kernel's own name is an operand where a subroutine returns to it.
            name = f"`({function.group(1)})"
        elif label := LABEL.match(line):
            lines.append(label.group(1))
        elif instruction := INSTRUCTION.match(line):
            text = " ".join(COMMENT.sub("", instruction.group(1)).split())
            lines.append(text.replace(name, "`(kernel)") if name else text)
    return lines


def summary(kernels: list[Compiled]) -> dict[str, float]:
    """The metrics of a call, from those of its kernels (names as in benchmarks.metrics)."""
    return {
        "registers": max(kernel.registers for kernel in kernels),
        "spills": sum(kernel.spills for kernel in kernels),
        "shared_bytes": max(kernel.shared for kernel in kernels),
        "wgmma": sum(kernel.wgmma for kernel in kernels),
        "instructions": sum(kernel.instructions for kernel in kernels),
        "compile_s": sum(kernel.seconds for kernel in kernels),
    }


def detail(kernels: list[Compiled]) -> dict[str, Any]:
    """What goes into the raw log beside the metrics."""
    return {"kernels": [asdict(kernel) for kernel in kernels]}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tool(name: str, *arguments: str) -> str:
    """Output of a disassembler that Triton's wheel ships."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not path.exists():
        raise RuntimeError(f"{name}: expected in Triton's wheel at {path}, not there")
    run = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{name} failed with {run.returncode}: {run.stderr.strip()[:500]}")
    return run.stdout + run.stderr

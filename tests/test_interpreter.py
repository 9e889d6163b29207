"""The repaired interpreter computes what the GPU does, and nothing right is replaced."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.tools.tensor_descriptor import TensorDescriptor

from harness import interpreter as repairs
from harness._casts import same

pytestmark = pytest.mark.cpu

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LARGEST = {E4M3: 448.0, E5M2: 57344.0}
ROOT = Path(__file__).parent.parent


@triton.jit
def _cast_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < n, other=0.0)
    tl.store(y_ptr + offsets, x.to(y_ptr.dtype.element_ty), mask=offsets < n)


@triton.jit
def _bits_kernel(x_ptr, bits_ptr, back_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    bits = tl.load(x_ptr + offsets).to(tl.int32, bitcast=True)
    tl.store(bits_ptr + offsets, bits)
    tl.store(back_ptr + offsets, bits.to(tl.float32, bitcast=True))


@triton.jit
def _extremes_kernel(
    x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr, KEEP: tl.constexpr
):  # fmt: skip
    offsets = tl.arange(0, BLOCK)
    x, y = tl.load(x_ptr + offsets), tl.load(y_ptr + offsets)
    tl.store(out_ptr + offsets, tl.maximum(x, y, propagate_nan=KEEP))
    tl.store(out_ptr + BLOCK + offsets, tl.minimum(x, y, propagate_nan=KEEP))
    tl.store(out_ptr + 2 * BLOCK + offsets, tl.clamp(x, y, y, propagate_nan=KEEP))


@triton.jit
def _scalar_kernel(out_ptr, x, y):
    tl.store(out_ptr, x.to(tl.float32) * y)


@triton.jit
def _masked_kernel(x_ptr, out_ptr, limit, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    # One truth value for all, of two int64, beside one for each.
    some = tl.load(x_ptr) < limit
    x = tl.load(x_ptr + offsets, mask=(offsets > 0) & some, other=-1)
    tl.store(out_ptr + offsets, x, mask=some & (offsets < BLOCK - 1))


@triton.jit
def _copy_tile_kernel(x_desc, out_desc, tile_ptr, row, column, M: tl.constexpr, N: tl.constexpr):
    tile = x_desc.load([row, column])
    out_desc.store([row, column], tile)
    tl.store(tile_ptr + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :], tile)


def _fp32_patterns() -> torch.Tensor:
    """Every upper half of the bits with the lower half zero, around each tie, and at random."""
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    random = torch.randint(0, 1 << 32, (1 << 16,), generator=torch.Generator().manual_seed(1))
    bits = torch.cat([upper | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)] + [random])
    return bits.to(torch.uint32).view(torch.float32)


def _ties(dtype: torch.dtype) -> torch.Tensor:
    """Midpoints of neighbouring numbers of an FP8 format, with the fp32 numbers either side."""
    numbers = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    numbers = numbers[numbers.isfinite()].unique()
    middle = (numbers[1:] + numbers[:-1]) / 2
    infinity = torch.tensor(math.inf)
    return torch.cat([middle, middle.nextafter(infinity), middle.nextafter(-infinity)])


def _cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    y = torch.zeros(x.shape, dtype=dtype)
    _cast_kernel[(triton.cdiv(x.numel(), 1 << 16),)](x, y, x.numel(), BLOCK=1 << 16)
    return y


SOURCES = (torch.float32, torch.bfloat16, torch.float16)
DOWN = [(s, t) for s in SOURCES for t in (E4M3, E5M2, torch.bfloat16) if s != t]


@pytest.mark.parametrize(("source", "target"), DOWN)
def test_casts(source: torch.dtype, target: torch.dtype) -> None:
    if source == torch.float32:
        x = torch.cat([_fp32_patterns(), _ties(E4M3), _ties(E5M2)])
    else:
        x = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(source)
    largest = LARGEST.get(target)
    want = (x if largest is None else x.float().clamp(-largest, largest)).to(target)
    got = _cast(x, target)
    wrong = ~same(got, want)
    assert not wrong.any(), (x[wrong][:4], got[wrong][:4], want[wrong][:4])


def test_casts_round_to_the_nearest_number() -> None:
    """Against arithmetic, not against torch: the nearest e4m3 number, the even one on a tie."""
    x = torch.cat([_ties(E4M3), torch.linspace(-470, 470, 4001)])
    numbers = torch.arange(256, dtype=torch.uint8).view(E4M3).double()
    distance = (numbers[None, :] - x.double()[:, None]).abs().nan_to_num(nan=math.inf)
    odd = torch.arange(256) & 1
    # Of the nearest, the one with an even last bit; -0 for what rounds to 0 from below.
    nearest = distance == distance.amin(1, keepdim=True)
    sign = (torch.arange(256) >= 128)[None, :] == torch.signbit(x)[:, None]
    want = (nearest.int() * 4 + sign * 2 - odd[None, :]).argmax(1).to(torch.uint8).view(E4M3)
    assert same(_cast(x, E4M3), want).all()


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_casts_saturate(dtype: torch.dtype) -> None:
    largest = LARGEST[dtype]
    x = torch.tensor([math.inf, -math.inf, 3e38, -1e6, math.nan, -0.0])
    got = _cast(x, dtype).float()
    assert got[:4].tolist() == [largest, -largest, largest, -largest]
    assert got[4].isnan()
    assert got[5] == 0
    assert torch.signbit(got[5])


@pytest.mark.parametrize("source", [E4M3, E5M2, torch.bfloat16])
def test_casts_up_are_exact(source: torch.dtype) -> None:
    if source == torch.bfloat16:
        x = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(source)
    else:
        x = torch.arange(256, dtype=torch.uint8).view(source)
    assert same(_cast(x, torch.float32), x.float()).all()


def test_bitcasts() -> None:
    x = _fp32_patterns()[: 1 << 17]
    bits, back = torch.zeros(x.shape, dtype=torch.int32), torch.zeros_like(x)
    _bits_kernel[(1,)](x, bits, back, BLOCK=1 << 17)
    assert torch.equal(bits, x.view(torch.int32))
    assert torch.equal(back.view(torch.int32), x.view(torch.int32))


def test_extremes_drop_nan_unless_asked() -> None:
    nan = math.nan
    x, y = torch.tensor([nan, 1.0, 2.0, nan]), torch.tensor([1.0, nan, 1.0, nan])
    out = torch.zeros(3, 4)
    _extremes_kernel[(1,)](x, y, out, BLOCK=4, KEEP=tl.PropagateNan.NONE)
    dropped = torch.tensor([[1.0, 1, 2, nan], [1.0, 1, 1, nan], [1.0, 1, 1, nan]])
    assert same(out, dropped).all(), out
    _extremes_kernel[(1,)](x, y, out, BLOCK=4, KEEP=tl.PropagateNan.ALL)
    kept = torch.tensor([[nan, nan, 2, nan], [nan, nan, 1, nan], [nan, nan, 1, nan]])
    assert same(out, kept).all(), out


def test_float_arguments_are_fp32() -> None:
    out = torch.zeros(1)
    _scalar_kernel[(1,)](out, 0.1, 0.3)
    assert out.item() == (torch.tensor(0.1) * torch.tensor(0.3)).item()
    assert out.item() != torch.tensor(0.1 * 0.3).item()


@pytest.mark.parametrize(("limit", "want"), [(4, [-1, 1, 2, 9]), (0, [9, 9, 9, 9])])
def test_masks_of_scalars(limit: int, want: list[int]) -> None:
    out = torch.full((4,), 9)
    _masked_kernel[(1,)](torch.arange(4), out, limit, BLOCK=4)
    assert out.tolist() == want


@pytest.mark.parametrize("dtype", [E4M3, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (64, 32), (64, 0), (0, 32), (128, 64)])
def test_descriptors_at_ragged_edges(dtype: torch.dtype, row: int, column: int) -> None:
    """Outside the tensor a load gives 0 and a store does nothing."""
    m, n, tile_m, tile_n = 70, 48, 64, 32
    x = torch.randn(m, n, generator=torch.Generator().manual_seed(5)).to(dtype)
    out = torch.zeros(m, n).to(dtype)
    tile = torch.ones(tile_m, tile_n).to(dtype)
    block = [tile_m, tile_n]
    descriptors = [TensorDescriptor(tensor, [m, n], [n, 1], block) for tensor in (x, out)]
    _copy_tile_kernel[(1,)](*descriptors, tile, row, column, M=tile_m, N=tile_n)
    inside = (slice(row, row + tile_m), slice(column, column + tile_n))
    want_out, want_tile = torch.zeros(m, n), torch.zeros(tile_m, tile_n)
    part = x.float()[inside]
    want_out[inside] = part
    want_tile[: part.shape[0], : part.shape[1]] = part
    assert torch.equal(out.float(), want_out)
    assert torch.equal(tile.float(), want_tile)


def test_install_replaces_what_is_wrong_and_nothing_else() -> None:
    """In a fresh process: what it reports is exactly what failed before; all passes afterwards."""
    code = (
        "from harness import _casts, interpreter as i\n"
        "failing = [f'cast {s} -> {t}' for s, t in _casts.PAIRS if not _casts.works(s, t)]\n"
        "failing += [fix.name for fix in i.FIXES if not fix.works()]\n"
        "original = vars(i.Builder).copy()\n"
        "assert i.install() == failing, failing\n"
        "changed = sorted(n for n, f in vars(i.Builder).items() if original[n] is not f)\n"
        "assert all(_casts.works(*pair) for pair in _casts.PAIRS)\n"
        "assert i.install() == []\n"
        "print(*[n for n in failing if ' -> ' not in n], *changed, sep=',')"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": _python_path()}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    reported = set(result.stdout.strip().split(","))
    # A version with a right fma (3.9) must keep its own.
    assert ("fma" in reported) == ("create_fma" in reported)
    assert ("maximum" in reported) == ("create_maxnumf" in reported)
    assert ("fp8 dot" in reported) == ("create_dot" in reported)
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    assert ("fma" in reported) == (version < (3, 9))


def _python_path() -> str:
    """The checkout, and whatever this process was given."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


def test_install_leaves_a_right_interpreter_alone() -> None:
    before = vars(interpreter.InterpreterBuilder).copy()
    convert = interpreter._convert_float
    assert repairs.install() == []
    assert vars(interpreter.InterpreterBuilder) == before
    assert interpreter._convert_float is convert


def _broken_fma(self: object, x: object, y: object, z: object) -> object:
    data = x.data * y.data + z.data  # type: ignore[attr-defined]
    return interpreter.TensorHandle(data, z.dtype.scalar)  # type: ignore[attr-defined]


def test_install_repairs_a_broken_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fma", _broken_fma)
    assert repairs.install() == ["fma"]
    assert repairs.install() == []


def test_install_says_when_it_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    never = repairs.Fix("nothing", lambda: False, lambda: None)
    monkeypatch.setattr(repairs, "FIXES", (never,))
    with pytest.raises(RuntimeError, match="replacing nothing had no effect"):
        repairs.install()

"""sass_code and sass_ops mean what they say: equal for the same program, different for another."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from benchmarks import codegen
from tests.test_codegen import compiled

# Grouped tile order, a product on the tensor core and a division, whose slow path is a subroutine.
PLAIN = """
@triton.jit
def _product_kernel(x_ptr, w_ptr, out_ptr, m, n, FACTOR: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr):
    tiles = tl.cdiv(n, TILE)
    pid = tl.program_id(0)
    group = pid // (GROUP * tiles)
    first = group * GROUP
    size = tl.minimum(tl.cdiv(m, TILE) - first, GROUP)
    row = first + (pid % (GROUP * tiles)) % size
    column = (pid % (GROUP * tiles)) // size
    rows = row * TILE + tl.arange(0, TILE)
    columns = column * TILE + tl.arange(0, TILE)
    k = tl.arange(0, 128)
    x = tl.load(x_ptr + rows[:, None] * 128 + k[None, :])
    w = tl.load(w_ptr + columns[None, :] * 128 + k[:, None])
    out = tl.div_rn(tl.dot(x, w), FACTOR + 0.5)
    tl.store(out_ptr + rows[:, None] * n + columns[None, :], out)
"""
# The same, as somebody tidies it up.
TIDIED = '''
@triton.jit
def _product_kernel(a, b, c, height, width, FACTOR: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr):
    """A product, divided."""

    # Which tile: GROUP rows of tiles at a time.
    across = tl.cdiv(width, TILE)
    program = tl.program_id(0)
    band = program // (GROUP * across)
    top = band * GROUP
    rows_in_band = tl.minimum(
        tl.cdiv(height, TILE) - top, GROUP
    )
    tile_y = top + (program % (GROUP * across)) % rows_in_band
    tile_x = (program % (GROUP * across)) // rows_in_band

    ys = tile_y * TILE + tl.arange(0, TILE)
    xs = tile_x * TILE + tl.arange(0, TILE)
    channels = tl.arange(0, 128)
    left = tl.load(a + ys[:, None] * 128 + channels[None, :])
    right = tl.load(b + xs[None, :] * 128 + channels[:, None])
    quotient = tl.div_rn(tl.dot(left, right), FACTOR + 0.5)
    tl.store(c + ys[:, None] * width + xs[None, :], quotient)
'''
# Files that hold the kernel, and what each calls it.
SOURCES = {
    "plain": PLAIN,
    "tidied": TIDIED,
    "renamed": PLAIN.replace("_product_kernel", "_times_kernel"),
}
# Name -> (file, what is compiled otherwise than in "base").
VARIANTS: dict[str, tuple[str, dict[str, int]]] = {
    "base": ("plain", {}),
    "again": ("plain", {}),
    "tidied": ("tidied", {}),
    "renamed": ("renamed", {}),
    "order": ("plain", {"GROUP": 4}),
    "tile": ("plain", {"TILE": 128}),
    "warps": ("plain", {"num_warps": 8}),
    "constant": ("plain", {"FACTOR": 5}),
    "size": ("plain", {"n": 1000}),  # not a multiple of 16: another specialisation
}
SCRIPT = """
import importlib, json, sys
import torch
from benchmarks import codegen
sys.path.insert(0, sys.argv[1])
found = {}
with codegen.offline():
    for name, (file, other) in json.loads(sys.argv[2]).items():
        options = {"m": 1024, "n": 512, "FACTOR": 3, "GROUP": 8, "TILE": 64, "num_warps": 4} | other
        m, n = options.pop("m"), options.pop("n")
        fp8 = {"dtype": torch.float8_e4m3fn, "device": "meta"}
        x, w = torch.empty(m, 128, **fp8), torch.empty(n, 128, **fp8)
        out = torch.empty(m, n, device="meta")
        (jit,) = [part for key, part in vars(importlib.import_module(file)).items() if key.endswith("_kernel")]
        jit.device_caches.clear()
        built = codegen.inspect(jit.warmup(x, w, out, m, n, grid=(1,), **options))
        found[name] = [built.sass_code, built.sass_ops, built.wgmma, built.warps]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hashes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Variant -> [sass_code, sass_ops, wgmma, warps]."""
    folder = tmp_path_factory.mktemp("variants")
    head = "import triton\nimport triton.language as tl\n"
    for name, source in SOURCES.items():
        (folder / f"{name}.py").write_text(head + source)
    found = compiled([sys.executable, "-c", SCRIPT, str(folder), json.dumps(VARIANTS)], folder)
    return dict(json.loads(found))


@pytest.mark.long
def test_names_and_comments_are_not_code(hashes: dict[str, list[Any]]) -> None:
    assert hashes["again"] == hashes["base"]
    assert hashes["tidied"] == hashes["base"]
    assert hashes["base"][2] > 0  # else the kernel is not what it is meant to be


@pytest.mark.long
def test_the_kernels_own_name_is_not_code(hashes: dict[str, list[Any]]) -> None:
    assert hashes["renamed"] == hashes["base"]


@pytest.mark.long
@pytest.mark.parametrize("variant", ["order", "tile", "warps", "constant", "size"])
def test_what_runs_otherwise_hashes_otherwise(variant: str, hashes: dict[str, list[Any]]) -> None:
    codes = {
        name: found[0]
        for name, found in hashes.items()
        if name not in ("again", "tidied", "renamed")
    }
    assert codes[variant] not in [code for name, code in codes.items() if name != variant]


@pytest.mark.long
def test_opcodes_alone_do_not_see_a_constant(hashes: dict[str, list[Any]]) -> None:
    """Why sass_ops decides nothing."""
    assert hashes["constant"][1] == hashes["base"][1]


def test_canonical_text() -> None:
    """Addresses, comments and section names go; opcodes, operands, predicates and labels stay."""
    listing = """
\t.section\t.text._some_kernel,"ax",@progbits
.text._some_kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;  /* a comment */
        /*0010*/               @!P0 BRA `(.L_x_1) ;
.L_x_1:
        /*0020*/                   MOV  R2,   0x3 ;
"""
    assert codegen.canonical(listing) == [
        "LDC R1, c[0x0][0x28]", "@!P0 BRA `(.L_x_1)", ".L_x_1", "MOV R2, 0x3"
    ]  # fmt: skip
    moved = listing.replace("/*0020*/", "/*0f20*/").replace("_some_kernel", "_another")
    assert codegen.canonical(moved) == codegen.canonical(listing)

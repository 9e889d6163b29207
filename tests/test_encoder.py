"""The encoder that ``python -m harness.activations`` runs: its tokenizer, its weights, its layers.

On a made-up vocabulary and random weights; the layers against torch's own in float64.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
import torch

from harness import _encoder, _wordpiece
from tests._encoder import PIECES, encoder_weights, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HIDDEN, BETWEEN, HEADS, LAYERS = 16, 24, 4, 2
SELF = ("attention.self.query", "attention.self.key", "attention.self.value")  # torch's order
ROUNDING = 1e-5  # of fp32 against float64, at magnitudes near 1; what a wrong formula does is 1e-3


def torchs_layer(weights: dict[str, torch.Tensor], number: int) -> torch.nn.Module:
    """torch's own encoder layer with these weights, in float64."""
    own = {
        name.removeprefix(f"encoder.layer.{number}."): tensor.double()
        for name, tensor in weights.items()
    }
    layer = torch.nn.TransformerEncoderLayer(
        HIDDEN, HEADS, BETWEEN, 0.0, "gelu", 1e-12, batch_first=True, dtype=torch.float64
    )
    state = {
        f"self_attn.in_proj_{part}": torch.cat([own[f"{name}.{part}"] for name in SELF])
        for part in ("weight", "bias")
    }
    for ours, theirs in {
        "attention.output.dense": "self_attn.out_proj",
        "intermediate.dense": "linear1",
        "output.dense": "linear2",
        "attention.output.LayerNorm": "norm1",
        "output.LayerNorm": "norm2",
    }.items():
        state |= {f"{theirs}.{part}": own[f"{ours}.{part}"] for part in ("weight", "bias")}
    layer.load_state_dict(state)
    return layer


def keeping(
    read: dict[str, torch.Tensor], site: str
) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
    """A hook that keeps what a module reads."""

    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        read[site] = inputs[0]

    return hook


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scales", ["scale", "##s"]),
        ("unscaled", ["un", "##scaled"]),  # not un ##scale ##d: the longest first
        ("Unscale-d.", ["un", "##scale", "-", "[UNK]", "."]),
        ("scaleq scale", ["[UNK]", "scale"]),  # a rest spoils its word and no other
        ("\u00c9x \u00e9", ["e", "##x", "e"]),  # accents and capitals
        ("e\u200bx\u0000 \ufffdx", ["e", "##x", "x"]),  # invisible characters
        ("x\u4e2dx", ["x", "\u4e2d", "x"]),
        ("`x`\u00a0x\tx\nx", ["`", "x", "`", "x", "x", "x"]),
        ("x\u2014x", ["x", "[UNK]", "x"]),  # punctuation beyond ASCII
        ("4" * 100, ["4"] + ["##4"] * 99),
        ("4" * 101, ["[UNK]"]),
        ("", []),
    ],
)
def test_pieces_of_a_text(text: str, expected: list[str]) -> None:
    names = {number: piece for piece, number in PIECES.items()}
    assert [names[number] for number in _wordpiece.tokens(text, PIECES)] == expected


def test_a_vocabulary_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    assert _wordpiece.vocabulary(path) == PIECES  # also the piece that is a separator of lines
    path.write_text("[CLS]\nx\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab.txt: expected \[UNK\], \[SEP\]"):
        _wordpiece.vocabulary(path)


def test_weights_are_read(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.tensor([0.5, -3.0, 7.0]).bfloat16(),  # so that the next lie at odd places
        "matrix": torch.arange(6.0).reshape(2, 3),
        "half": torch.tensor([[65504.0]]).half(),
        "number": torch.tensor(2**40),
        "empty": torch.empty(0, 4),
    }
    found = _encoder.read_weights(write(tmp_path / "a.safetensors", tensors))
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for content in (b"", b"short", struct.pack("<Q", 99) + b"{}", struct.pack("<Q", 2) + b"[]",
                    struct.pack("<Q", 3) + b"{x}"):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected a safetensors file"):
            _encoder.read_weights(path)
    for changed in (
        {"shape": [4]},
        {"shape": [2]},
        {"data_offsets": [4, 16]},
        {"data_offsets": [-12, 0]},
    ):
        with pytest.raises(ValueError, match=r"a.safetensors, x: expected \d+ bytes"):
            _encoder.read_weights(write(path, {"x": torch.zeros(3)}, **changed))
    with pytest.raises(ValueError, match="x: expected F32, F16, BF16, I64, got F8"):
        _encoder.read_weights(write(path, {"x": torch.zeros(3)}, dtype="F8"))


def test_the_encoder_is_torchs() -> None:
    weights = encoder_weights(HIDDEN, BETWEEN, LAYERS, 50)
    ids = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(4))
    out, captured = _encoder.encode(ids, weights, HEADS)
    x = _encoder.embed(ids, weights).double()
    assert [(part.layer, part.site) for part in captured] == [
        (layer, site) for layer in range(LAYERS) for site in _encoder.SITES
    ]
    for number in range(LAYERS):
        module = torchs_layer(weights, number)
        read: dict[str, torch.Tensor] = {"qkv": x}
        for name, site in {"linear1": "intermediate", "linear2": "output"}.items():
            module.get_submodule(name).register_forward_pre_hook(keeping(read, site))
        y = module(x)
        sites = {part.site: part for part in captured if part.layer == number}
        for site, expected in read.items():
            torch.testing.assert_close(
                sites[site].x.double(), expected.flatten(0, 1), rtol=0, atol=ROUNDING
            )
        # torch's layer does not show the context; what follows from ours must be what it made of its own.
        (w,) = sites["attention output"].weights.values()
        out_proj = sites["attention output"].x.double() @ w.double().T
        out_proj += weights[f"encoder.layer.{number}.attention.output.dense.bias"].double()
        y1 = module.get_submodule("norm1")(x.flatten(0, 1) + out_proj)
        torch.testing.assert_close(y1, read["intermediate"].flatten(0, 1), rtol=0, atol=ROUNDING)
        x = y
    torch.testing.assert_close(out.double(), x, rtol=0, atol=ROUNDING)


def test_captured_weights_read_what_they_are_captured_with() -> None:
    weights = encoder_weights(HIDDEN, BETWEEN, LAYERS, 50)
    _, captured = _encoder.encode(torch.zeros(1, 3, dtype=torch.int64), weights, HEADS)
    for part in captured:
        for name, w in part.weights.items():
            assert torch.equal(w, weights[f"encoder.layer.{part.layer}.{name}.weight"])
            assert w.shape[1] == part.x.shape[1]
    assert sum(len(part.weights) for part in captured) == 6 * LAYERS


def test_the_embeddings_are_torchs() -> None:
    weights = encoder_weights(HIDDEN, BETWEEN, 0, 50)
    ids = torch.tensor([[3, 9, 3], [49, 0, 1]])
    found = _encoder.embed(ids, weights)
    tables = {
        name: torch.nn.functional.embedding(places, weights[f"embeddings.{name}.weight"]).double()
        for name, places in {
            "word_embeddings": ids,
            "position_embeddings": torch.arange(3).expand(2, 3),
            "token_type_embeddings": torch.zeros_like(ids),
        }.items()
    }
    norm = torch.nn.LayerNorm(HIDDEN, eps=1e-12, dtype=torch.float64)
    names = {part: weights[f"embeddings.LayerNorm.{part}"].double() for part in ("weight", "bias")}
    norm.load_state_dict(names)
    torch.testing.assert_close(found.double(), norm(sum(tables.values())), rtol=0, atol=ROUNDING)

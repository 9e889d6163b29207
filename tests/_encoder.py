"""A small encoder of random weights, its vocabulary, and files of weights."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

NAMES = "[PAD] [UNK] [CLS] [SEP] scale ##s un ##un ##scaled ##scale ##d e ##x x . - ` \u4e2d 4 ##4 \u2028"
PIECES = {piece: number for number, piece in enumerate(NAMES.split(" "))}


def encoder_weights(hidden: int, between: int, layers: int, words: int) -> dict[str, torch.Tensor]:
    """Random weights of an encoder, biases and norms too."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    # As small as real ones, and so that a norm's epsilon counts.
    found = {
        "embeddings.word_embeddings.weight": draw(words, hidden, scale=1e-3),
        "embeddings.position_embeddings.weight": draw(256, hidden, scale=1e-3),
        "embeddings.token_type_embeddings.weight": draw(2, hidden, scale=1e-3),
    }
    matrices = {"attention.output": (hidden, hidden), "output": (hidden, between)}
    names = ["embeddings.LayerNorm"]
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}."
        shapes = {f"attention.self.{name}": (hidden, hidden) for name in ("query", "key", "value")}
        shapes |= {"intermediate.dense": (between, hidden)}
        shapes |= {f"{name}.dense": shape for name, shape in matrices.items()}
        for name, (n, k) in shapes.items():
            found[f"{prefix}{name}.weight"] = draw(n, k, scale=k**-0.5)
            found[f"{prefix}{name}.bias"] = draw(n)
        names += [f"{prefix}{name}.LayerNorm" for name in matrices]
    for name in names:
        found |= {f"{name}.weight": 1 + draw(hidden, scale=0.3), f"{name}.bias": draw(hidden)}
    return found


def write(path: Path, tensors: dict[str, torch.Tensor], **changed: object) -> Path:
    """A safetensors file; ``changed`` replaces entries of its first tensor's header."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        place = [len(data), len(data) + len(raw)]
        entry = {"dtype": names[tensor.dtype], "shape": [*tensor.shape], "data_offsets": place}
        header[name] = entry | (changed if not data else {})
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path

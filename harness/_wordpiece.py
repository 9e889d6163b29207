"""Words and their pieces: the tokenizer of an uncased BERT, on a vocabulary that is given.

Text is cleaned of control characters, put in lower case, stripped of accents, and split at white
space, at punctuation, and around each Chinese character.  Each word then becomes the longest piece
of the vocabulary that it begins with, and so on from where that ends; pieces inside a word are
spelled with ``##``.  A word that leaves a rest, or is longer than 100 characters, is ``[UNK]``.
(Devlin et al., arXiv 1810.04805; Wu et al., arXiv 1609.08144, section 4.1.)
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

UNKNOWN, FIRST, LAST = "[UNK]", "[CLS]", "[SEP]"
LONGEST = 100  # characters of a word that is looked up
# Blocks of Unicode whose characters are words by themselves.
IDEOGRAPHS = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def vocabulary(path: Path) -> dict[str, int]:
    """Pieces and their numbers, from a file with one piece a line.

    Raises ValueError where it has not the three pieces that this module needs.
    """
    # Not splitlines: some pieces are characters that it takes for the end of a line.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    pieces = {line: number for number, line in enumerate(lines)}
    missing = [piece for piece in (UNKNOWN, FIRST, LAST) if piece not in pieces]
    if missing:
        raise ValueError(f"{path.name}: expected {', '.join(missing)} in it")
    return pieces


def tokens(text: str, pieces: Mapping[str, int]) -> list[int]:
    """Numbers of the pieces of a text, nothing before or after them."""
    return [pieces[piece] for word in words(text) for piece in split(word, pieces)]


def words(text: str) -> list[str]:
    """The words of a text, each sign of punctuation one of its own."""
    found = []
    for word in "".join(_spaced(text)).split():
        found += _at_punctuation(_plain(word))
    return found


def split(word: str, pieces: Mapping[str, int]) -> list[str]:
    """A word's pieces, the longest that fits first."""
    if len(word) > LONGEST:
        return [UNKNOWN]
    found: list[str] = []
    start = 0
    while start < len(word):
        before = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if before + word[start:end] in pieces), None)
        if end is None:
            return [UNKNOWN]
        found.append(before + word[start:end])
        start = end
    return found


def _spaced(text: str) -> Iterator[str]:
    """Its characters: none that are invisible, spaces around those that are words."""
    for sign in text:
        if sign in "\t\n\r":  # control characters, but white space
            yield sign
        elif sign == "\ufffd" or unicodedata.category(sign).startswith("C"):
            continue
        elif any(low <= ord(sign) <= high for low, high in IDEOGRAPHS):
            yield f" {sign} "
        else:
            yield sign


def _plain(word: str) -> str:
    """In lower case, without accents."""
    apart = unicodedata.normalize("NFD", word.lower())
    return "".join(sign for sign in apart if unicodedata.category(sign) != "Mn")


def _at_punctuation(word: str) -> list[str]:
    found = [""]
    for sign in word:
        if _punctuation(sign):
            found += [sign, ""]
        else:
            found[-1] += sign
    return [part for part in found if part]


def _punctuation(sign: str) -> bool:
    """As Unicode has it, and all of ASCII that is neither a letter nor a digit."""
    if sign.isascii():
        return sign.isprintable() and not sign.isalnum() and sign != " "
    return unicodedata.category(sign).startswith("P")

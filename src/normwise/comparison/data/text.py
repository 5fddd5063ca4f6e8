"""Text as token numbers, one for each character or by the user's tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contestants.models import first_line
from ..references import load_object, name_of
from ..settings import InputError
from .in_memory import Data

CONTEXT = 64
HELD_OUT = 0.1

Tokenizer = str | Callable[[str], Any]


def text_file(path: Path, tokenizer: Tokenizer | None) -> Data:
    """The text of a file as data; the last tenth is held out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({type(error).__name__}); save it as UTF-8.") from error
    return data_of_text(path.name, text, tokenizer)


def data_of_text(name: str, text: str, tokenizer: Tokenizer | None) -> Data:
    """Sequences of `CONTEXT` tokens, each with the tokens that follow; the last tenth of the text is held out."""
    if tokenizer is None:
        characters = sorted(set(text))
        places = {character: place for place, character in enumerate(characters)}
        tokens, vocabulary = torch.tensor([places[character] for character in text]), tuple(characters)
    else:
        tokens, vocabulary = _tokenized(name, text, tokenizer)
    cut = len(tokens) - round(HELD_OUT * len(tokens))
    parts = tokens[:cut], tokens[cut:]
    if min(map(len, parts)) <= CONTEXT:
        raise InputError(
            f"{name}: has {len(tokens)} tokens; a tenth of them is held out and must hold {CONTEXT + 1}, so write at "
            f"least {10 * (CONTEXT + 1)}."
        )
    (x, y), (x_test, y_test) = (in_rows(part, CONTEXT) for part in parts)
    return Data(name, x, y, x_test, y_test, vocabulary, task="language")


def in_rows(tokens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cut a row of tokens into samples `[N, length]` and, for each token, the next one, `[N, length]`.

    >>> in_rows(torch.arange(6), 2)[0].tolist(), in_rows(torch.arange(6), 2)[1].tolist()
    ([[0, 1], [2, 3]], [[1, 2], [3, 4]])
    """
    rows = (len(tokens) - 1) // length
    return tokens[: rows * length].view(rows, length), tokens[1 : rows * length + 1].view(rows, length)


def _tokenized(name: str, text: str, tokenizer: Tokenizer) -> tuple[Tensor, tuple[str, ...]]:
    found: Any = load_object(tokenizer) if isinstance(tokenizer, str) else tokenizer
    encode = getattr(found, "encode", found)
    if not callable(encode):
        raise InputError(
            f"tokenizer={name_of(tokenizer)!r} is neither a function nor an object with a method encode; give one of "
            "these, or leave it out for characters."
        )
    try:
        encoded = encode(text)
        tokens = torch.as_tensor(getattr(encoded, "ids", encoded))
    except Exception as error:  # the user's own code may raise anything
        raise InputError(f"tokenizer={name_of(tokenizer)!r} fails on {name}: {first_line(error)}") from error
    if tokens.dim() != 1 or tokens.is_floating_point() or (len(tokens) and tokens.min() < 0):
        raise InputError(
            f"tokenizer={name_of(tokenizer)!r} must return a list of whole numbers from 0, it returns {tokens.dtype} "
            f"of shape {list(tokens.shape)}."
        )
    size = next((int(s) for name in ("vocab_size", "n_vocab") if isinstance(s := getattr(found, name, None), int)), 0)
    size = max(size, 1 + int(tokens.max()) if len(tokens) else 0)
    return tokens.long(), tuple(map(str, range(size)))

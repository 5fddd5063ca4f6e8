"""Data for the other tasks, all from scikit-learn: a table, photographs, and the text of its documentation."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from ..tasks import IGNORED
from .in_memory import Data
from .splits import split, split_and_standardize
from .text import Tokenizer, data_of_text

DIABETES, SHAPES, WORDS, TEXT = "diabetes", "shapes", "words", "text"
HELD_OUT = 0.25
SIDE, PICTURES = 32, 320
SHAPE_NAMES = ("background", "disc", "square")
LONGEST = 64


def diabetes() -> Data:
    """442 patients: ten measurements, and the progression of diabetes one year later (Efron et al. 2004)."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x, y = (torch.from_numpy(np.asarray(part)).float() for part in (x, y))
    return split_and_standardize(DIABETES, x, y[:, None], ("progression",), HELD_OUT, task="regression")


def shapes() -> Data:
    """Discs and squares cut out of one photograph and laid on pieces of another, each with its pixels' classes."""
    from sklearn.datasets import load_sample_images

    ground, figure = (image[::4, ::4].transpose(2, 0, 1) / 255 for image in load_sample_images().images)
    random = np.random.default_rng(0)
    made = [_picture(ground, figure, random) for _ in range(PICTURES)]
    x = torch.from_numpy(np.stack([picture for picture, _ in made])).float()
    y = torch.from_numpy(np.stack([mask for _, mask in made])).long()
    return split_and_standardize(SHAPES, x, y, SHAPE_NAMES, HELD_OUT, task="segmentation")


def _picture(ground: np.ndarray, figure: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    picture, mask = _piece(ground, random), np.zeros((SIDE, SIDE), dtype=np.int64)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for label in random.permutation(np.array([1, 2, random.integers(1, 3)])):
        radius, (row, column) = random.integers(3, 7), random.integers(2, SIDE - 2, 2)
        down, across = abs(rows - row), abs(columns - column)
        inside = down**2 + across**2 <= radius**2 if label == 1 else np.maximum(down, across) < radius
        picture = np.where(inside, _piece(figure, random), picture)
        mask[inside] = label
    return picture, mask


def _piece(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    row, column = (int(random.integers(0, size - SIDE)) for size in image.shape[1:])
    return image[:, row : row + SIDE, column : column + SIDE]


def words() -> Data:
    """Sentences without spaces and capitals, their letters with 1 where a word begins and 0 elsewhere; of different
    lengths, and padded."""
    found: list[tuple[str, list[int]]] = []
    for sentence in re.split(r"[.:;\n]{1,}\s", _documentation().lower().replace("\n", " ")):
        parts = re.findall(r"[a-z]+", sentence)
        letters, starts = "".join(parts), [int(i == 0) for part in parts for i in range(len(part))]
        found += [(letters[at : at + LONGEST], starts[at : at + LONGEST]) for at in range(0, len(letters), LONGEST)]
    found = [(letters, starts) for letters, starts in found if len(letters) > 7]
    rows = [([1 + ord(letter) - ord("a") for letter in letters], starts) for letters, starts in found]
    x, y = (_padded([row[i] for row in rows], fill) for i, fill in ((0, 0), (1, IGNORED)))
    return split(WORDS, x, y, ("within", "begins"), HELD_OUT, task="labelling")


def _padded(rows: list[list[int]], fill: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def text(tokenizer: Tokenizer | None) -> Data:
    """The descriptions of scikit-learn's data sets, some 40 000 characters of English."""
    return data_of_text(TEXT, _documentation(), tokenizer)


def _documentation() -> str:
    files = resources.files("sklearn.datasets.descr").iterdir()
    return "\n".join(
        f.read_text(encoding="utf-8") for f in sorted(files, key=lambda f: f.name) if f.name.endswith(".rst")
    )

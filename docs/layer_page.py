"""The page of one normalizer: its row of NORMALIZERS, its docstring, and the measurements of `nw.explain`."""

from __future__ import annotations

import inspect
import re
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import normwise as nw
from normwise.explanation import Explanation
from normwise.explanation.pictures import Effect, effect_on, load_pictures, shown
from normwise.explanation.subject import subject_of
from normwise.layers import Normalizer
from normwise.style.pictures import Picture, as_image

IMAGES = Path(__file__).with_name("images")


@cache
def measured(name: str, training: bool) -> Explanation:
    """The row's layer at its default sizes, in training or in evaluation."""
    subject = subject_of(name)
    subject.what.train(training)
    return nw.explain(subject)


@cache
def effect(name: str) -> Effect:
    """The effect of a row on scikit-learn's photograph and its faded copy, as a batch of two."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # SPADE's maps come from fresh convolutions
        return effect_on(name, *load_pictures([]))


def cubes(row: Normalizer) -> list[Explanation]:
    """The cube in training, and that in evaluation if it is different."""
    told = measured(row.name, True), measured(row.name, False)
    return list(told[:1] if torch.equal(told[0].cube, told[1].cube) else told)


def cube_file(told: Explanation, name: str) -> Path:
    return IMAGES / "cubes" / f"{name}{'' if told.training else '-evaluation'}.svg"


def picture_file(name: str) -> Path:
    return IMAGES / "pictures" / f"{name}.jpg"


def write_images(row: Normalizer) -> None:
    """The cubes and the pair of pictures after the layer."""
    for told in cubes(row):
        cube_file(told, row.name).write_text(told.svg(), encoding="utf-8")
    write_pair(picture_file(row.name), shown(effect(row.name).after))


def write_pair(path: Path, pair: Tensor) -> None:
    """Two pictures side by side."""
    as_image(Picture(torch.cat(list(pair), dim=2))).save(path, "JPEG", quality=82)


def page(row: Normalizer) -> str:
    """The whole page."""
    parts = [_head(row), _formula(row), _shared(row), _picture(row), _cost(row), _docstring(row)]
    return "\n".join(parts)


def _head(row: Normalizer) -> str:
    names = ", ".join(f"`nw.{kind.__name__}`" for kind in row.layers.values() if hasattr(nw, kind.__name__))
    paper = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", row.paper)
    return (
        f"# {row.title} (`{row.name}`)\n\n{names}. {paper}.\n\n**Use it for.** {row.when_to_use}\n\n"
        f"**Trap.** {row.trap}\n"
    )


def _formula(row: Normalizer) -> str:
    """The paper's equation, and the code that runs."""
    code = measured(row.name, True).formula
    beside = (
        "It is computed value by value, without the table of moments.\n"
        if code is None
        else f"In the package, on the table of moments ([how it works](../how_it_works.md)):\n\n```py\n{code}```\n"
    )
    return f"## Formula\n\nThe paper's equation:\n\n> {row.equation}\n\n{beside}"


def _shared(row: Normalizer) -> str:
    told = cubes(row)
    modes = ["in training", "in evaluation"] if len(told) > 1 else ["in training and evaluation"]
    shown_cubes = " | ".join(
        f"![The cube of {row.title}, {mode}](../images/cubes/{cube_file(one, row.name).name})"
        for mode, one in zip(modes, told, strict=True)
    )
    table = "".join(f"| {question} | {answer} |\n" for question, answer in told[0].properties.items())
    return (
        "## Which values share statistics\n\n"
        f"| {' | '.join(modes)} |\n|{'---|' * len(modes)}\n| {shown_cubes} |\n\n"
        f'Equal numbers share all their statistics. It is measured from the layer, by `nw.explain("{row.name}")` or '
        f"`normwise explain {row.name}`, and\n"
        f'<a href="../interactive/explain.html#{row.name}">this cube can be turned</a> where the site was built by '
        f"`make docs`.\n\n| in training | |\n|---|---|\n{table}"
    )


def _picture(row: Normalizer) -> str:
    seen = effect(row.name)
    (first, second), (first_after, second_after) = seen.contrasts
    return (
        "## What it does to a picture\n\n"
        "![The photograph and its faded copy, before](../images/pictures/before.jpg)\n\n"
        f"![The same two behind {row.title}](../images/pictures/{row.name}.jpg)\n\n"
        "A photograph and its faded copy, as a batch of two: above before, below after a new layer in training mode, "
        "with one scale of brightness for both.\n"
        f"Contrast (standard deviation) of the first {first:.2f} → {first_after:.2f}, of the faded copy "
        f"{second:.2f} → {second_after:.2f}; the difference of the two, in units of their contrast, "
        f"{seen.apart[0]:.2f} → {seen.apart[1]:.2f}.\n"
    )


def _cost(row: Normalizer) -> str:
    told = cubes(row)
    lines = [f"In training, {told[0].cost}."]
    evaluation = measured(row.name, False).cost
    if evaluation != told[0].cost:
        lines.append(f"In evaluation, {evaluation}.")
    return (
        "## Cost\n\n" + " ".join(lines) + " These are the passes over the tensor that every implementation needs "
        "(the byte model of\n`normwise bench`); measurements are in [performance](../performance.md).\n"
    )


def _docstring(row: Normalizer) -> str:
    layer = row.layers.get(2) or row.layers.get(0) or next(iter(row.layers.values()))
    return f"## `nw.{layer.__name__}`\n\n{markdown(inspect.cleandoc(layer.__doc__ or ''))}"


def markdown(text: str) -> str:
    """Docstring markup as Markdown: formulas, examples, names."""
    text = re.sub(r"\.\. math:: (.+(?:\n +.+)*)", lambda m: "$$" + re.sub(r"\s+", " ", m[1]) + "$$", text)
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text).replace("``", "`")
    return re.sub(r"((?:^>>> .*\n(?:(?!\n).+\n?)*)+)", r"```python\n\1```\n", text + "\n", flags=re.M)

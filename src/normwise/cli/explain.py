"""`normwise explain`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .files import made_folder
from .numbers import shape_of

if TYPE_CHECKING:
    from ..explanation import Explanation
    from ..explanation.subject import Subject

EPILOG = """Examples:

\b
  normwise explain
  normwise explain batch group:2 instance
  normwise explain batch --eval
  normwise explain switchable --image photo.jpg --image another.jpg
  normwise explain my_code:my_formula --json
  normwise explain --choose

NAME is a normalizer's, such as batch, group:2 (groups) or ghost:2 (samples in a chunk), or package.module:name: a
layer, a function without arguments that makes one, or a formula of your own. Without NAME: batch, layer, instance and
group.

The cube shows which values share a mean and a variance, measured from the dependence of the layer's output on its
input: values with equal numbers share all their statistics.
"""

CLASSIC = ("batch", "layer", "instance", "group:2")

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="The normalizers.", show_default=False)]
Choose = Annotated[bool, typer.Option("--choose", help="Which should I use? A short path of questions.")]
Evaluation = Annotated[bool, typer.Option("--eval", help="In evaluation; by default in training.")]
Input = Annotated[str | None, typer.Option(metavar="SHAPE", help="Of the cube, such as 4x6x2x2; small.")]
Images = Annotated[
    list[Path] | None, typer.Option("--image", metavar="FILE", help="Your picture, or two; by default a photograph.")
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="For the page explain.html, and each cube as SVG and PNG.")]
Json = Annotated[bool, typer.Option("--json", help="Cube, reads and all else as JSON on stdout; nothing else.")]


def explain(
    names: Names = None,
    choose: Choose = False,
    evaluation: Evaluation = False,
    input: Input = None,
    images: Images = None,
    out: Out = Path("results/explain"),
    as_json: Json = False,
) -> None:
    """Show what a normalizer does: which values share statistics, its formula, its cost, its trap, a picture."""
    if choose:
        if names:
            raise InputError(f"--choose asks which to use, and {names[0]} is a choice; write one of them.")
        _choose(as_json)
        return
    sys.path.insert(0, os.getcwd())  # where package.module:name is looked up
    asked = list(dict.fromkeys(names or CLASSIC))
    told = [_explained(name, evaluation, shape_of(input)) for name in asked]
    if as_json:
        typer.echo(json.dumps([one.to_dict() for one in told], ensure_ascii=False, indent=None))
        return
    _show(asked, told, images or [], out, evaluation, input)


def _explained(name: str, evaluation: bool, shape: tuple[int, ...] | None) -> Explanation:
    """The explanation of a name; errors of the layer are turned into InputError."""
    import torch

    from ..explanation import explain as explained
    from ..explanation.subject import check_x

    try:
        if shape is not None:
            check_x(torch.empty(()).expand(shape), name)  # before a tensor of that size is made
        subject = _subject(name, shape)
        if subject.layer is not None:
            subject.layer.train(not evaluation)
        return explained(subject._replace(name=name), None if shape is None else torch.zeros(shape))
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def _subject(name: str, shape: tuple[int, ...] | None) -> Subject:
    """A layer of NORMALIZERS with the channels of ``shape``, or the user's own object."""
    from ..explanation.subject import of_row, subject_of
    from ..layers import NORMALIZERS
    from ..layers.registry import parse_norm

    if ":" in name and name.partition(":")[0] not in NORMALIZERS:
        return subject_of(_own(name))
    if not shape:
        return subject_of(name)
    row, number = parse_norm(name)
    channels = shape[1 if row.of_maps and len(shape) > 1 else len(shape) - 1]
    return of_row(row, number, channels, min(max(len(shape) - 2, 1), 3))


def _own(name: str) -> Any:
    import inspect

    from ..comparison.references import load_object, result_of

    found = load_object(name)
    if not callable(found):
        raise InputError(
            f"{name} is of type {type(found).__name__}; name a layer, a function that makes one, or a formula."
        )
    if inspect.isclass(found) or (inspect.isfunction(found) and not inspect.signature(found).parameters):
        return result_of(name, found)
    return found


def _show(
    asked: list[str], told: list[Explanation], images: list[Path], out: Path, evaluation: bool, input: str | None
) -> None:
    from ..explanation.page import page
    from ..explanation.pictures import effect_on, load_pictures
    from ..explanation.variants import variants
    from ..layers import NORMALIZERS

    pictures, same = load_pictures(images)
    rows = [name for name in asked if name.partition(":")[0] in NORMALIZERS]
    effects = {name: effect_on(name, pictures, same) for name in rows}
    for name, one in zip(asked, told, strict=True):
        typer.echo(str(one))
        if name in effects:
            typer.echo("\nTwo pictures as a batch:\n  " + "\n  ".join(effects[name].lines()))
        typer.echo("")
    made_folder(out)
    shown = {
        name: variants(name) if name in rows and not input else [one] for name, one in zip(asked, told, strict=True)
    }
    file = out / "explain.html"
    file.write_text(page(shown, _command(asked, images, evaluation, input), effects), encoding="utf-8")
    typer.echo(f"Page: {file}")
    for name, one in zip(asked, told, strict=True):
        for ending in ("svg", *(["png"] if find_spec("PIL") else [])):
            picture = one.save(out / f"{name.replace(':', '-')}.{ending}")
            typer.echo(f"Picture: {picture}")


def _command(asked: list[str], images: list[Path], evaluation: bool, input: str | None) -> str:
    words = ["normwise", "explain", *asked, *(["--eval"] if evaluation else [])]
    words += ["--input", input] if input else []
    for image in images:
        words += ["--image", str(image)]
    return shlex.join(words)


def _number(most: int) -> int:
    while True:
        answer = typer.prompt("Number", type=int)
        if 1 <= answer <= most:
            return answer
        typer.echo(f"Write a number from 1 to {most}.")


def _choose(as_json: bool) -> None:
    from ..evidence.catalogue import EXPERIMENTS
    from ..explanation.choices import Question
    from ..explanation.choosing import as_plain, lines, walk
    from ..explanation.terminal import width_of_terminal

    if as_json:
        typer.echo(json.dumps(as_plain(EXPERIMENTS), ensure_ascii=False))
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        typer.echo("\n".join(lines(EXPERIMENTS, width_of_terminal())))
        return

    def ask(question: Question) -> int:
        typer.echo(question.text)
        for number, branch in enumerate(question.branches, 1):
            typer.echo(f"  {number}  {branch.answer}")
        return _number(len(question.branches)) - 1

    typer.echo("\n".join(walk(ask, EXPERIMENTS)))

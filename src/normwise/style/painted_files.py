"""From picture files to picture files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import files
from ..errors import InputError
from ..image_files import head_of
from .entry import Painter
from .optimizing import Painting
from .pictures import Picture, read_picture, saver, write_picture

SECONDS_BETWEEN_PREVIEWS = 10.0
FOLDER = Path("painted")


def targets_of(sources: Sequence[Path], out: Path | None, named_after: str, *, several: bool) -> list[Path]:
    """The file for the painting of each picture: ``out``, or a name made of those of picture and style.

    Raises InputError for a folder that is a file, an unknown ending, and two paintings with one name.
    """
    if not several:
        target = out or Path(f"{sources[0].stem}-{named_after}.png")
        if target.is_dir():
            target = target / f"{sources[0].stem}-{named_after}.png"
        if not target.parent.is_dir():
            raise InputError(f"{target} cannot be written: there is no folder {target.parent}.")
        if not files.can_write(target.parent):
            raise InputError(f"{target} cannot be written: no file can be made in {target.parent}.")
        saver(target)
        return [target]
    folder = out or FOLDER
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; several paintings need a folder, write --out FOLDER.")
    targets = [folder / f"{source.stem}.png" for source in sources]
    twice = next((target for target in targets if targets.count(target) > 1), None)
    if twice is not None:
        raise InputError(f"Two of the pictures would be painted to {twice}; rename one, or paint them one by one.")
    return targets


def check_readable(sources: Sequence[Path]) -> None:
    """Raise `UnreadableError` for the first file that is no picture, before any is painted."""
    for source in sources:
        with head_of(source):
            pass


def check_absent(targets: Sequence[Path]) -> None:
    """Raise InputError for the first target that exists."""
    for target in targets:
        if target.exists():
            raise InputError(f"{target} exists; write --force to write over it, or another --out.")


def paint_file(
    source: Path, target: Path, paint: Painter, longest: int | None, on_step: Callable[[Painting], None]
) -> tuple[Picture, Picture]:
    """Paint a picture, with its transparency; returns content and painting.

    The best picture so far is written to ``target`` every ten seconds, and on an interrupt.
    """
    picture, painting, written = read_picture(source, longest), None, time.monotonic()
    files.make_folder(target.parent)
    try:
        for painting in paint(picture.pixels):
            on_step(painting)
            if time.monotonic() - written > SECONDS_BETWEEN_PREVIEWS:
                write_picture(target, picture._replace(pixels=painting.pixels))
                written = time.monotonic()
    finally:
        if painting is not None:
            write_picture(target, picture._replace(pixels=painting.pixels))
    assert painting is not None
    return picture, picture._replace(pixels=painting.pixels)

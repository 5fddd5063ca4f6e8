"""The user's picture files: opened upright, or an error that says why not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class UnreadableError(InputError):
    """A file that is not a picture, or that cannot be decoded here; ``reason`` is the short form."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read as a picture: {reason}.")
        self.path, self.reason = path, reason


@contextmanager
def head_of(path: Path) -> Iterator[Image]:
    """The picture, of which only the head has been read.

    Raises `UnreadableError`, also for errors inside the block.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of pictures that are large, but below its limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnreadableError(path, f"more pixels than Pillow reads (at most {most}); make it smaller") from error
    except InputError:
        raise
    except FileNotFoundError as error:
        raise UnreadableError(path, "there is no such file") from error
    except IsADirectoryError as error:
        raise UnreadableError(path, "it is a folder") from error
    except UnidentifiedImageError as error:
        raise UnreadableError(path, type(error).__name__) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableError(path, f"{type(error).__name__}, {(str(error).splitlines() or [''])[0]}") from error


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """The picture, rotated as its camera recorded (EXIF); otherwise as `head_of`."""
    from PIL import ImageOps

    with head_of(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        yield image


def endings() -> frozenset[str]:
    """The extensions of readable files, such as ``.jpg``."""
    from PIL import Image

    return frozenset(Image.registered_extensions())


def pictures_in(folder: Path) -> list[Path]:
    """All picture files of a folder and the folders in it, sorted."""
    known = endings()
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())

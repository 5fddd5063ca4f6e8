"""Pictures as tensors and as files: RGB in [0, 1], upright, with their transparency kept aside."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import files
from ..errors import InputError
from ..image_files import opened

if TYPE_CHECKING:
    from PIL.Image import Image

DEEP = 65535


class Picture(NamedTuple):
    """``pixels[3, H, W]`` from 0 to 1, and ``alpha[H, W]`` if the file has transparency."""

    pixels: Tensor
    alpha: Tensor | None = None


def read_picture(path: str | Path, size: int | None = None) -> Picture:
    """A picture from a file, reduced if its longer side is more than ``size``.

    Transparent pixels are put on white; grey of 16 bits keeps its range; colours of a profile (CMYK, Adobe RGB) are
    converted to sRGB. Raises `UnreadableError`, and InputError for an invalid size.
    """
    if size is not None and size < 1:
        raise InputError(f"--size {size}: write a whole number of at least 1.")
    with opened(Path(path)) as image:
        if size is not None:
            image.draft(None, (size, size))  # decodes a JPEG at about this size
        image.load()
        alpha = _alpha(image)
        rgb = _rgb(image)
        if size is not None and max(rgb.size) > size:
            wanted = fitted(rgb.size, size)
            rgb = _resized(rgb, wanted)
            alpha = None if alpha is None else _resized(alpha, wanted)
        return Picture(_tensor(rgb), None if alpha is None else _tensor(alpha)[0])


def fitted(sizes: tuple[int, int], longest: int) -> tuple[int, int]:
    """Sizes of the same proportions whose longer one is ``longest``."""
    scale = longest / max(sizes)
    return max(1, round(sizes[0] * scale)), max(1, round(sizes[1] * scale))


def resized(pixels: Tensor, sizes: tuple[int, int]) -> Tensor:
    """``[N, 3, H, W]`` at other sizes, bicubic, with antialiasing when reduced."""
    if sizes == tuple(pixels.shape[2:]):
        return pixels
    new = torch.nn.functional.interpolate(pixels, sizes, mode="bicubic", antialias=True, align_corners=False)
    return new.clamp(0, 1)


def _alpha(image: Image) -> Image | None:
    from PIL import Image as PILImage

    if "transparency" not in image.info and image.mode not in ("RGBA", "LA", "PA", "La", "RGBa"):
        return None
    if image.mode.startswith("I"):  # convert("RGBA") ignores a transparent grey value of 16 bits
        opaque = np.asarray(image) != image.info["transparency"]
        return PILImage.fromarray(opaque.astype(np.uint8) * 255)
    alpha = image.convert("RGBA").getchannel("A")
    return alpha if alpha.getextrema() != (255, 255) else None


def _rgb(image: Image) -> Image:
    from PIL import Image as PILImage

    if image.mode.startswith(("I", "F")):  # more than 8 bits, which convert("L") would clip
        scale = DEEP if image.mode.startswith("I") else 1
        values = np.asarray(image, dtype=np.float32) / scale * 255
        _check_range(image, values / 255)
        return PILImage.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    image = _in_srgb(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        white = PILImage.new("RGBA", image.size, "white")
        return PILImage.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _check_range(image: Image, values: np.ndarray[Any, Any]) -> None:
    """Raise InputError for values outside the range of shades, which clipping would turn into white or black."""
    if values.size and not (np.isfinite(values).all() and values.min() >= -0.5 and values.max() <= 1.5):
        raise InputError(
            f"{getattr(image, 'filename', 'A picture')} has pixels of {image.mode} from {values.min():g} to "
            f"{values.max():g} times white; write values from 0 to {DEEP if image.mode != 'F' else 1}."
        )


def _in_srgb(image: Image) -> Image:
    """The image in sRGB, by the profile in the file; an unusable profile is ignored, as viewers do."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        return image


def _resized(image: Image, sizes: tuple[int, int]) -> Image:
    from PIL import Image as PILImage

    return image.resize(sizes, PILImage.Resampling.LANCZOS)


def _tensor(image: Image) -> Tensor:
    values = torch.from_numpy(np.array(image))
    values = values.unsqueeze(0) if values.dim() == 2 else values.permute(2, 0, 1)
    return values.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def as_image(picture: Picture) -> Image:
    """The picture as a Pillow image, RGB or RGBA."""
    from PIL import Image as PILImage

    parts = picture.pixels if picture.alpha is None else torch.cat([picture.pixels, picture.alpha.unsqueeze(0)])
    values = parts.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    return PILImage.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def write_picture(path: Path, picture: Picture | Image) -> None:
    """Write a picture in the format of the file's ending; JPEG has no transparency.

    The file is complete, or not written at all. Raises InputError for an unknown ending.
    """
    image = as_image(picture) if isinstance(picture, Picture) else picture
    save = saver(path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        image = image.convert("RGB")
    with files.replacing(path) as temporary:
        save(image, temporary)


def saver(path: Path) -> Callable[[Image, Path], None]:
    """The function that writes a picture under this name; InputError for an unknown ending."""
    from PIL import Image as PILImage

    PILImage.init()
    picture_format = PILImage.registered_extensions().get(path.suffix.lower())
    if picture_format not in PILImage.SAVE:
        raise InputError(f"{path}: the name must have the ending of a picture; write one that ends in .png or .jpg.")
    options = {"quality": 92} if picture_format == "JPEG" else {}
    return lambda image, file: image.save(file, picture_format, **options)

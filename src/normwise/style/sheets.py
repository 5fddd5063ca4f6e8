"""Contact sheets: several pictures side by side in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .pictures import Picture, as_image

if TYPE_CHECKING:
    from PIL.Image import Image

GAP, CAPTION, FONT = 6, 20, 14


def contact_sheet(
    pictures: Sequence[Picture | Image],
    captions: Sequence[str] = (),
    *,
    columns: int = 4,
    longest: int = 320,
) -> Image:
    """Pictures row by row, each within a square of ``longest`` pixels, not enlarged, with captions below if given."""
    from PIL import Image as PILImage
    from PIL import ImageDraw, ImageFont, ImageOps

    shown = [as_image(p).convert("RGB") if isinstance(p, Picture) else p.convert("RGB") for p in pictures]
    shown = [ImageOps.contain(p, (longest, longest)) if max(p.size) > longest else p for p in shown]
    columns = min(columns, len(shown))
    wide, high = max(p.width for p in shown), max(p.height for p in shown) + (CAPTION if captions else 0)
    rows = -(-len(shown) // columns)
    sheet = PILImage.new("RGB", (GAP + columns * (wide + GAP), GAP + rows * (high + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for i, picture in enumerate(shown):
        x, y = GAP + i % columns * (wide + GAP), GAP + i // columns * (high + GAP)
        sheet.paste(picture, (x + (wide - picture.width) // 2, y))
        if i < len(captions):
            middle = (x + wide / 2, y + picture.height + CAPTION / 2 + 1)
            draw.text(middle, captions[i], fill="#1b1f24", font=font, anchor="mm")
    return sheet

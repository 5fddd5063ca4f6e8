"""Pictures with colours for light and dark follow what the reader has chosen, whatever the system prefers."""

import base64
import io
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
PICTURE = DOCS / "images" / "evidence" / "E1.svg"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]


@pytest.mark.parametrize(("system", "chosen", "background"), [("light", "dark", "black"), ("dark", "light", "white")])
def test_a_heading_can_be_read(system, chosen, background, tmp_path):
    """As furo's button leaves the page: its choice is an attribute of body."""
    page = tmp_path / "page.html"
    style = (DOCS / "_static" / "site.css").as_uri()
    page.write_text(
        f'<link rel="stylesheet" href="{style}"><body data-theme="{chosen}" style="background: {background}">'
        f'<img src="{PICTURE.as_uri()}" width="640">'
    )
    with Browser(tmp_path / "profile") as browser:
        browser.open(page.as_uri(), 640)
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": system}])
        browser.evaluate("document.images[0].decode()")
        area = {"x": 0, "y": 0, "width": 640, "height": 40, "scale": 1}
        shot = browser.call("Page.captureScreenshot", clip=area)["data"]
    darkest, lightest = Image.open(io.BytesIO(base64.b64decode(shot))).convert("L").getextrema()
    assert lightest - darkest > 180

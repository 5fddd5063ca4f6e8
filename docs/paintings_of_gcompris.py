"""Extract free paintings for trying styles, from the puzzles of Debian's package `gcompris-qt-data`.

apt-get download gcompris-qt-data && dpkg-deb -x gcompris-qt-data_*.deb gcompris
python docs/paintings_of_gcompris.py gcompris/usr/share/gcompris-qt/rcc/paintings.rcc paintings/
"""

import io
import re
import struct
import sys
import zlib
from pathlib import Path

from PIL import Image

FOLDER, COMPRESSED = 2, 1


def files_of(archive: bytes) -> dict[str, bytes]:
    """The files of a Qt resource archive (.rcc) by their paths."""
    magic, version, tree, data, names = struct.unpack(">4sIIII", archive[:20])
    if magic != b"qres":
        raise SystemExit("The file must be a Qt resource archive (.rcc), such as paintings.rcc of gcompris.")
    length = 14 if version < 2 else 22

    def walk(node: int, path: str) -> dict[str, bytes]:
        at = tree + node * length
        name_at, flags = struct.unpack(">IH", archive[at : at + 6])
        if node:
            size = struct.unpack(">H", archive[names + name_at : names + name_at + 2])[0]
            start = names + name_at + 6
            path += "/" + archive[start : start + 2 * size].decode("utf-16-be")
        if flags & FOLDER:
            count, first = struct.unpack(">II", archive[at + 6 : at + 14])
            return {name: content for i in range(count) for name, content in walk(first + i, path).items()}
        start = data + struct.unpack(">I", archive[at + 10 : at + 14])[0]
        size = struct.unpack(">I", archive[start : start + 4])[0]
        content = archive[start + 4 : start + 4 + size]
        return {path: zlib.decompress(content[4:]) if flags & COMPRESSED else content}

    return walk(0, "")


def put_together(board: str, files: dict[str, bytes]) -> tuple[str, Image.Image]:
    """Name and picture of a puzzle, whose board says where the middle of each piece is."""
    width, height = (int(re.search(rf'"{side}": (\d+)', board)[1]) for side in ("width", "height"))
    canvas, name = Image.new("RGBA", (width, height)), ""
    for piece, x, y in re.findall(r'"pixmapfile" : "(image/\S+?webp)",\s*"x" : "(.*?)",\s*"y" : "(.*?)"', board):
        content = next(content for path, content in files.items() if path.endswith(piece))
        image = Image.open(io.BytesIO(content)).convert("RGBA")
        left, top = round(float(x) * width - image.width / 2), round(float(y) * height - image.height / 2)
        canvas.alpha_composite(image, (max(0, left), max(0, top)))
        name = re.sub(r"[_-][a-e]?\d$", "", Path(piece).stem)
    opaque = canvas.getchannel("A").point(lambda value: 255 * (value > 200)).getbbox()
    return name, canvas.convert("RGB").crop(opaque)


if __name__ == "__main__":
    archive, folder = Path(sys.argv[1]), Path(sys.argv[2])
    contents = files_of(archive.read_bytes())
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in contents.items():
        if path.endswith(".qml") and "/board/" in path:
            title, painting = put_together(text.decode(), contents)
            painting.save(folder / f"{title}.png")

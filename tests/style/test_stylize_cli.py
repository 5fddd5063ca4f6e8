"""`normwise stylize` as people type it."""

import os
import signal
import struct
import sys
import time
import zlib

import pytest
import torch
from command_output import complaints
from drawn import draw, draw_all, small_features, small_plan
from PIL import Image

from normwise.style import entry, painted_files
from normwise.style.contrast import contrast
from normwise.style.photographs import listed
from normwise.style.style_file import load_style
from normwise.style.training import run_training

QUICK = ("--features", "random", "--steps", "2")
SMALL = ("--size", "32", "--width", "4", "--blocks", "1", "--steps", "2", "--batch-size", "1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A photograph, two photographs in a folder, two styles and a style file of each kind."""
    monkeypatch.setattr(entry, "find_features", lambda source: small_features())
    draw(tmp_path / "photo.jpg")
    draw(tmp_path / "style.png", seed=1)
    draw_all(tmp_path / "photos", 2)
    styles = listed([draw_all(tmp_path / "styles", 2)], "styles")
    photos = listed([tmp_path / "photos"], "photographs")
    for kind in ("one", "many", "any"):
        plan = small_plan(photos, styles[:1] if kind == "one" else styles, kind=kind, steps=1)
        run_training(plan, small_features(), tmp_path / f"{kind}.pt", lambda _: None)
    return tmp_path


def size_of(path):
    with Image.open(path) as image:
        return image.size, image.mode


def test_by_optimization(folder, command):
    code, output, errors = command("stylize", "photo.jpg", "--style", "style.png", *QUICK)
    assert (code, errors, output) == (0, "", "Written: photo-style.png\n")
    assert size_of(folder / "photo-style.png") == ((48, 40), "RGB")


@pytest.mark.parametrize(
    "how",
    [
        ("--net", "one.pt"),
        ("--net", "many.pt", "--style", "picture1"),
        ("--net", "many.pt", "--style", "picture0:1,picture1:3"),
        ("--net", "any.pt", "--style", "style.png", "--strength", "0.5"),
    ],
)
def test_by_a_net(how, folder, command):
    code, output, errors = command("stylize", "photo.jpg", *how, "--out", "out.png", "--sheet", "sheet.png")
    assert (code, errors, output) == (0, "", "Written: out.png\nWritten: sheet.png\n")
    assert size_of(folder / "out.png") == ((48, 40), "RGB")
    assert size_of(folder / "sheet.png")[0] == (6 + 2 * 54, 6 + 46)


def test_a_folder(folder, command):
    code, output, _ = command("stylize", "photos", "photo.jpg", "--net", "one.pt", "--out", "painted")
    names = sorted(path.name for path in (folder / "painted").iterdir())
    assert (code, names) == (0, ["photo.png", "picture0.png", "picture1.png"])
    assert len(output.splitlines()) == 3


def test_transparency_is_kept(folder, command):
    image = Image.open(folder / "style.png").convert("RGBA")
    image.putalpha(100)
    image.save(folder / "pale.png")
    assert command("stylize", "pale.png", "--net", "one.pt", "--out", "out.png")[0] == 0
    assert size_of(folder / "out.png") == ((48, 40), "RGBA")
    with Image.open(folder / "out.png") as painted:
        assert painted.getchannel("A").getextrema() == (100, 100)


def test_train_then_paint(folder, command):
    options = ("--style", "style.png", "--out", "new.pt", *SMALL)
    code, output, errors = command("stylize", "train", "photos", *options)
    assert (code, errors) == (0, "")
    assert output.splitlines()[-2:] == ["Written: new.pt", "Next: normwise stylize PHOTO --net new.pt"]
    assert load_style(folder / "new.pt").names == ("style",)
    assert command("stylize", "photo.jpg", "--net", "new.pt")[0] == 0
    assert size_of(folder / "photo-new.png")[0] == (48, 40)
    code, _, errors = command("stylize", "train", "photos", *options)
    assert (code, errors) == (2, "normwise: new.pt exists; write --force to write over it, or another --out.\n")


@pytest.mark.parametrize(("styles", "more", "kind"), [(2, (), "many"), (2, ("--any",), "any"), (1, ("--any",), "any")])
def test_train_makes_the_kind_that_is_asked_for(styles, more, kind, folder, command):
    named = [word for i in range(styles) for word in ("--style", f"styles/picture{i}.png")]
    assert command("stylize", "train", "photos", *named, *more, "--out", "new.pt", *SMALL)[0] == 0
    assert load_style(folder / "new.pt").kind == kind


def test_contrast(folder, command):
    options = ("--photos", "photos", "--style", "style.png", "--size", "32", "--steps", "2")
    options += ("--batch-sizes", "1,2", "--norms", "instance,batch", "--seeds", "1", "--out", "contrast")
    code, output, errors = command("stylize", "contrast", "photo.jpg", *options)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert [line[:24].strip() for line in lines[-6:-2]] == [
        f"{norm}, batch size {n}" for norm in ("instance", "batch") for n in (1, 2)
    ]
    assert (folder / "contrast" / "contrast.png").is_file()
    before = (folder / "contrast" / "contrast.json").read_text()
    kept = {path: path.stat().st_mtime_ns for path in (folder / "contrast").glob("*.pt")}
    assert len(kept) == 4
    assert command("stylize", "contrast", "photo.jpg", *options)[1].splitlines()[-7:] == lines[-7:]
    assert {path: path.stat().st_mtime_ns for path in (folder / "contrast").glob("*.pt")} == kept
    assert (folder / "contrast" / "contrast.json").read_text() == before


def test_with_instance_norm_contrast_does_not_matter_and_with_batch_norm_it_does(folder):
    rows = contrast(
        folder / "photo.jpg",
        folder / "photos",
        folder / "style.png",
        folder / "contrast",
        features=small_features(),
        batch_sizes=(2,),
        seeds=1,
        steps=8,
        size=32,
    )
    found = {(row["norm"], row["contrast"]): row["distance"] for row in rows}
    assert max(found["instance", 0.5], found["instance", 0.25]) < 0.05
    assert min(found["batch", 0.5], found["batch", 0.25]) > 0.1


def _chunk(kind, content):
    """Of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


#: The head of a PNG of 20000x20000 pixels, and none of them.
VAST = (
    b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0)) + _chunk(b"IDAT", b"")
)
TRAIN = ("train", "--out", "a.pt")
CONTRAST = ("contrast", "photo.jpg", "--photos", "photos", "--style", "style.png")
BAD = {
    "no such picture": (("none.jpg", "--net", "one.pt"), "none.jpg: there is no such file or folder"),
    "no picture": (("text.txt", "--net", "one.pt"), "text.txt cannot be read as a picture"),
    "no such style": (
        ("photo.jpg", "--style", "none.png"),
        "none.png cannot be read as a picture: there",
    ),
    "no style": (("photo.jpg",), "Write --style and a picture to paint like, or --net and a style file"),
    "no such net": (("photo.jpg", "--net", "none.pt"), "none.pt: there is no such file"),
    "no net": (("photo.jpg", "--net", "photo.jpg"), "photo.jpg is no file of `normwise stylize train`"),
    "unknown style": (("photo.jpg", "--net", "many.pt", "--style", "sea"), "There is no style 'sea' in it"),
    "no number": (("photo.jpg", "--net", "many.pt", "--style", "picture0:x"), "write names and weights, such as"),
    "style of a net of one": (("photo.jpg", "--net", "one.pt", "--style", "style.png"), "leave --style out"),
    "net of any without a style": (("photo.jpg", "--net", "any.pt"), "write --style and a picture of it"),
    "exists": (("photo.jpg", "--net", "one.pt", "--out", "style.png"), "style.png exists; write --force"),
    "the photograph itself": (("photo.jpg", "--net", "one.pt", "--out", "photo.jpg"), "photo.jpg exists"),
    "no folder": (("photo.jpg", "--net", "one.pt", "--out", "no/a.png"), "there is no folder no"),
    "ending": (("photo.jpg", "--net", "one.pt", "--out", "a.txt"), "no picture is written under such a name"),
    "a file for several": (("photos", "--net", "one.pt", "--out", "style.png"), "is a file; several paintings need a"),
    "one name twice": (("photo.jpg", "other/photo.png", "--net", "one.pt"), "Two of the pictures would be painted to"),
    "sheet": (("photo.jpg", "--net", "one.pt", "--sheet", "no/a.png"), "must be a file in a folder that exists"),
    "size": (("photo.jpg", "--net", "one.pt", "--size", "0"), "--size 0: write a whole number of at least 1"),
    "size of nothing": (("photo.jpg", "--style", "one_pixel.png", *QUICK), "The style is 1x1 pixels; at least 16 on"),
    "a folder as style": (
        ("photo.jpg", "--style", "styles", *QUICK),
        "styles cannot be read as a picture: it is a folder",
    ),
    "one of several is none": (
        ("half", "--net", "one.pt"),
        "b.png cannot be read as a picture: UnidentifiedImageError",
    ),
    "an empty file": (("zero.png", "--net", "one.pt"), "zero.png cannot be read as a picture: UnidentifiedImageError"),
    "half a net": (("photo.jpg", "--net", "half.pt"), "half.pt is no file of `normwise stylize train`"),
    "a folder in a file": (("photos", "--net", "one.pt", "--out", "style.png/a"), "style.png/a cannot be made (Not a"),
    "a folder that takes nothing": (("photo.jpg", "--net", "one.pt", "--out", "/proc/a.png"), "/proc/a.png cannot be"),
    "folders where there are none": (("photos", "--net", "one.pt", "--out", "/proc/a/b"), "/proc/a/b cannot be made ("),
    "a sheet over a painting": (("photo.jpg", "--net", "one.pt", "--out", "a.png", "--sheet", "a.png"), "is where a"),
    "a name twice": (("photo.jpg", "--net", "many.pt", "--style", "picture0:1,picture0:2"), "picture0 stands twice"),
    "train over a preview": ((*TRAIN[:1], "photos", "--style", "style.png", "--out", "b.pt"), "b.preview.png exists"),
    "train where nothing can be": (
        ("train", "photos", "--style", "style.png", "--out", "/proc/a.pt"),
        "folder that exists",
    ),
    "train on one pixel": ((*TRAIN, "--style", "one_pixel.png", "photos", *SMALL), "one_pixel.png is 1x1 pixels; at"),
    "contrast in a file": ((*CONTRAST, "--out", "text.txt"), "text.txt cannot be made (File exists)"),
    "no seed": ((*CONTRAST, "--seeds", "0"), "--seeds 0: write a whole number of at least 1"),
    "no contrast": (("contrast", "one_pixel.png", *CONTRAST[2:]), "has no contrast that could be lowered"),
    "train on nothing": ((*TRAIN, "--style", "style.png", "empty"), "there is no picture in this folder"),
    "train for nothing": ((*TRAIN, "--style", "none.png", "photos"), "none.png: there is no such file"),
    "train on text": ((*TRAIN, "--style", "style.png", "text.png", *SMALL), "text.png cannot be read as a picture"),
    "sizes of batches": ((*CONTRAST, "--batch-sizes", "x"), "write whole numbers separated by commas"),
    "sizes of batches twice": ((*CONTRAST, "--batch-sizes", "1,2,1"), "--batch-sizes 1,2,1: write each of them once"),
    "contrast twice": ((*CONTRAST, "--norms", "batch,batch"), "--norms batch,batch: write each of them once"),
    "contrast of no size": ((*CONTRAST, "--size", "30"), "--size 30: write a multiple of 4"),
    "a seed of too many digits": (
        (*TRAIN, "--style", "style.png", "photos", "--seed", "1" + 20 * "0"),
        "to 4294967295",
    ),
    "half a photograph": (("half.jpg", "--net", "one.pt"), "half.jpg cannot be read as a picture: OSError, "),
    "more than Pillow reads": (("vast.png", "--net", "one.pt"), "more pixels than Pillow reads (at most 178956970)"),
    "train: what is wrong with the photographs is said before the features are looked for": (
        (*TRAIN, "--style", "style.png", "none", "--features", "none.pth"),
        "none: there is no such file or folder",
    ),
    "contrast: the same": (
        ("contrast", "none.jpg", *CONTRAST[2:], "--features", "none.pth"),
        "none.jpg: there is no such file or folder",
    ),
    "contrast by nothing": ((*CONTRAST, "--norms", "instanse"), "did you mean 'instance'"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_nothing_is_lost(arguments, said, folder, command):
    for name in ("empty", "other", "half"):
        (folder / name).mkdir()
    draw(folder / "half" / "a.png")
    (folder / "half" / "b.png").write_text("no picture")
    draw(folder / "one_pixel.png", (1, 1))
    draw(folder / "b.preview.png")
    (folder / "half.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:600])
    (folder / "vast.png").write_bytes(VAST)
    (folder / "zero.png").touch()
    (folder / "half.pt").write_bytes((folder / "one.pt").read_bytes()[:5000])
    draw(folder / "other" / "photo.png")
    for name in ("text.txt", "text.png"):
        (folder / name).write_text("no picture")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, output, errors = command("stylize", *arguments)
    assert code == 2
    assert said in errors
    assert errors.startswith("normwise: ")
    assert len(errors.splitlines()) == 1
    assert "Written" not in output
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_no_feature_network_is_said_and_random_weights_serve(folder, command, monkeypatch):
    features = small_features()
    monkeypatch.setattr(entry, "find_features", lambda source: features)
    code, output, errors = command("stylize", "photo.jpg", "--style", "style.png", "--steps", "1")
    assert (code, errors) == (0, "")
    assert output.startswith("No trained feature network is on this machine, so one with random weights serves")


def test_a_preview_is_there_before_the_end(folder, monkeypatch):
    monkeypatch.setattr(painted_files, "SECONDS_BETWEEN_PREVIEWS", -1.0)
    seen = []

    def paint(pixels):
        for step in range(3):
            seen.append((folder / "out.png").exists())
            yield entry.Painting(step + 1, 3, 0.0, 0.0, torch.full_like(pixels, step / 2))

    painted_files.paint_file(folder / "photo.jpg", folder / "out.png", paint, None, lambda _: None)
    assert seen == [False, True, True]
    with Image.open(folder / "out.png") as image:
        assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_the_best_picture_so_far(tmp_path, start):
    draw(tmp_path / "photo.png", (96, 96))
    draw(tmp_path / "style.png", (96, 96), seed=1)
    command = [sys.executable, "-m", "normwise", "stylize", "photo.png", "--style", "style.png", "--features", "random"]
    process = start([*command, "--steps", "100000"], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (tmp_path / "photo-style.png").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, complaints(errors)) == (130, [])
    assert output.splitlines()[-1] == "Stopped. photo-style.png holds the best picture so far."
    assert size_of(tmp_path / "photo-style.png") == ((96, 96), "RGB")

"""Files as people have them, read as they are meant; oracles are Pillow's pixels and arithmetic."""

import numpy as np
import pytest
import torch
from drawn import draw
from PIL import Image, ImageCms

from normwise.errors import InputError
from normwise.image_files import UnreadableError
from normwise.style.pictures import Picture, read_picture, resized, write_picture


def expected(image):
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)


def saved(tmp_path, image, name="picture.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "HSV"])
def test_modes_without_transparency(mode, tmp_path):
    image = draw(tmp_path / "a.png").convert(mode)
    path = saved(tmp_path, image.convert("RGB") if mode == "HSV" else image)
    picture = read_picture(path)
    torch.testing.assert_close(picture.pixels, expected(image.convert("RGB") if mode == "HSV" else image))
    assert picture.alpha is None


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    picture = read_picture(saved(tmp_path, image, "a.jpg", quality=100))
    torch.testing.assert_close(picture.pixels.mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=0.02)


def test_a_colour_profile_is_turned_to_srgb(tmp_path):
    image = Image.new("RGB", (16, 16), (120, 60, 200))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    same = read_picture(saved(tmp_path, image, icc_profile=profile.tobytes()))
    torch.testing.assert_close(same.pixels, expected(image), rtol=0, atol=1.1 / 255)
    broken = read_picture(saved(tmp_path, image, icc_profile=b"no profile"))
    torch.testing.assert_close(broken.pixels, expected(image))


def test_transparency_is_laid_on_white_and_kept(tmp_path):
    image = Image.new("RGBA", (20, 10), (255, 0, 0, 255))
    image.paste((0, 0, 0, 51), (0, 0, 10, 10))
    picture = read_picture(saved(tmp_path, image))
    torch.testing.assert_close(picture.pixels[:, 0, 0], torch.full((3,), 0.8))
    assert picture.alpha is not None
    assert (picture.alpha[0, 0], picture.alpha[0, 15]) == (pytest.approx(0.2), 1)
    write_picture(tmp_path / "out.png", picture)
    with Image.open(tmp_path / "out.png") as again:
        assert (again.mode, again.getpixel((0, 0))[3]) == ("RGBA", 51)
    write_picture(tmp_path / "out.jpg", picture)
    with Image.open(tmp_path / "out.jpg") as again:
        assert again.mode == "RGB"


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    picture = read_picture(saved(tmp_path, image, transparency=0))
    assert picture.alpha is not None
    assert (picture.alpha[0, 0], picture.alpha[1, 1]) == (1, 0)


def test_a_transparent_shade_of_16_bits(tmp_path):
    values = np.full((8, 8), 60000, np.uint16)
    values[0, 0] = 600
    picture = read_picture(saved(tmp_path, Image.fromarray(values), transparency=600))
    assert picture.alpha is not None
    assert (picture.alpha[0, 0], picture.alpha[0, 1]) == (0, 1)
    torch.testing.assert_close(picture.pixels[0, 1, 1], torch.tensor(60000 / 65535), rtol=0, atol=0.51 / 255)


def test_grey_with_alpha_and_a_palette_of_shades(tmp_path):
    grey = Image.new("LA", (4, 4), (100, 51))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 100, 100, 100])
    for image, options in ((grey, {}), (palette, {"transparency": bytes([255, 51])})):
        picture = read_picture(saved(tmp_path, image, **options))
        assert picture.alpha is not None
        torch.testing.assert_close(picture.alpha, torch.full((4, 4), 0.2))
        torch.testing.assert_close(picture.pixels, torch.full((3, 4, 4), 0.8 + 0.2 * 100 / 255), rtol=0, atol=1.1 / 255)


def test_the_first_picture_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    torch.testing.assert_close(read_picture(path).pixels.mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("values", [np.full((4, 4), 200.0), np.full((4, 4), np.nan), np.full((4, 4), 10**6)])
def test_numbers_that_are_no_shades(values, tmp_path):
    image = Image.fromarray(values.astype(np.int32 if values.dtype.kind == "i" else np.float32))
    with pytest.raises(InputError, match=r"a\.tif has pixels of [FI] from .* times white; write values from 0 to"):
        read_picture(saved(tmp_path, image, "a.tif"))


def test_opaque_alpha_is_none(tmp_path):
    assert read_picture(saved(tmp_path, Image.new("RGBA", (4, 4), "red"))).alpha is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_rotation(orientation, tmp_path):
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :8] = 255  # the corner at the top left
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1)}
    undo |= {6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(undo[orientation](upright))), exif=exif)
    torch.testing.assert_close(read_picture(path).pixels, torch.from_numpy(upright / 255).float().permute(2, 0, 1))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_keep_their_range(name, tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    path = saved(tmp_path, Image.fromarray(values), name)
    found = read_picture(path).pixels
    torch.testing.assert_close(found[0], torch.from_numpy(values / 65535).float(), rtol=0, atol=0.51 / 255)
    assert bool((found[0] == found[2]).all())


def test_one_pixel(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (1, 1), (255, 0, 51)))
    torch.testing.assert_close(read_picture(path).pixels.flatten(), torch.tensor([1.0, 0.0, 0.2]))


@pytest.mark.parametrize(("size", "found"), [(20, (10, 20)), (None, (30, 60)), (100, (30, 60))])
def test_a_size_makes_smaller_and_never_larger(size, found, tmp_path):
    draw(tmp_path / "a.jpg", (60, 30))
    assert tuple(read_picture(tmp_path / "a.jpg", size).pixels.shape[1:]) == found


BAD = {
    "nothing.png": (None, "there is no such file"),
    "text.png": (b"no picture", "UnidentifiedImageError"),
    "empty.jpg": (b"", "UnidentifiedImageError"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_said(name, tmp_path):
    content, said = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableError, match=rf"{name} cannot be read as a picture: {said}\.$"):
        read_picture(tmp_path / name)


def test_a_truncated_file_and_one_of_too_many_pixels(tmp_path, monkeypatch):
    draw(tmp_path / "a.jpg", (200, 200))
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    with pytest.raises(
        UnreadableError, match=r"cut\.jpg cannot be read as a picture: OSError, image file is truncated"
    ):
        read_picture(tmp_path / "cut.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableError, match=r"more pixels than Pillow reads \(at most 200\); make it smaller"):
        read_picture(tmp_path / "a.jpg")


def test_a_name_of_no_picture(tmp_path):
    with pytest.raises(InputError, match="the name must have the ending of a picture"):
        write_picture(tmp_path / "a.txt", Picture(torch.rand(3, 4, 4)))
    assert list(tmp_path.iterdir()) == []


def test_resized_to_the_same_size_is_the_same():
    x = torch.rand(1, 3, 9, 7)
    assert resized(x, (9, 7)) is x
    torch.testing.assert_close(resized(torch.full((1, 3, 40, 40), 0.3), (10, 10)), torch.full((1, 3, 10, 10), 0.3))

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from normwise.comparison import compare
from normwise.comparison.data.image_size import choose_image_size
from normwise.comparison.data.images import image_folder
from normwise.comparison.data.sources import load_data
from normwise.comparison.settings import InputError


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of four 10×6 colour images each: red ones and green ones."""
    for channel, name in enumerate(["red", "green"]):
        for i in range(4):
            array = np.full((10, 6, 3), 20 * i, dtype=np.uint8)
            array[..., channel] += 100
            save(tmp_path / "flowers" / name / f"{i}.png", array)
    return tmp_path / "flowers"


def test_folder(folder):
    data = load_data(str(folder), image_size=4)
    assert data.classes == ("green", "red")
    assert data.sample_shape == (3, 4, 4)
    assert (len(data.x_train), len(data.x_test)) == (6, 2)
    reddish = data.x_test[:, 0].mean((1, 2)) > data.x_test[:, 1].mean((1, 2))
    assert torch.equal(reddish, data.y_test == 1)


def test_train_and_test_directories_are_the_splits(folder):
    target = folder.parent / "split"
    for part, keep in (("train", range(3)), ("val", range(3, 4))):
        for name in ("red", "green"):
            for i in keep:
                save(target / part / name / f"{i}.png", np.asarray(Image.open(folder / name / f"{i}.png")))
    data = image_folder(target, 4)
    assert (len(data.x_train), len(data.x_test), data.classes) == (6, 2, ("green", "red"))
    save(target / "val" / "blue" / "0.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="the classes blue are not in"):
        image_folder(target, 4)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_grey_files_stay_grey_at_full_depth(tmp_path, dtype, top):
    ramp = np.linspace(0, top, 16).astype(dtype).reshape(4, 4)
    for name in ("a", "b"):
        for i in range(2):
            save(tmp_path / name / f"{i}.png", ramp)
    data = image_folder(tmp_path, 4)
    expected = (np.linspace(0, 1, 16) - 0.5) / np.linspace(0, 1, 16).std()
    np.testing.assert_allclose(data.x_train[0].flatten(), expected, atol=0.02)
    assert data.sample_shape == (1, 4, 4)


def test_grey_and_colour_together_become_colour(folder):
    save(folder / "red" / "grey.png", np.full((4, 4), 9, np.uint8))
    assert image_folder(folder, 4).sample_shape == (3, 4, 4)


def test_other_files_are_not_images(folder):
    (folder / "red" / "notes.txt").write_text("not an image")
    (folder / ".cache").mkdir()
    assert len(image_folder(folder, 4).x_train) == 6


def test_unreadable_images_are_named(folder):
    (folder / "red" / "torn.png").write_bytes((folder / "red" / "0.png").read_bytes()[:40])
    (folder / "green" / "text.jpg").write_text("hello")
    with pytest.raises(InputError, match=r"2 of 10 images cannot be read: .*text\.jpg .*torn\.png .*Remove or replace"):
        image_folder(folder, 4)


def test_many_unreadable_images_are_counted(folder):
    for i in range(8):
        (folder / "red" / f"x{i}.png").write_text("hello")
    with pytest.raises(
        InputError, match=r"8 of 16 images cannot be read.*x4\.png \(UnidentifiedImageError\) and 3 more"
    ):
        image_folder(folder, 4)


def test_bad_folders(tmp_path, folder):
    with pytest.raises(InputError, match="there is no such folder"):
        load_data(str(tmp_path / "missing"), 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no directories; put the images of each class into"):
        load_data(str(tmp_path / "empty"), 4)
    (folder / "blue").mkdir()
    with pytest.raises(InputError, match="no image in blue"):
        load_data(str(folder), 4)
    (tmp_path / "one" / "only").mkdir(parents=True)
    save(tmp_path / "one" / "only" / "0.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="'only' is the only class; a comparison needs at least two"):
        load_data(str(tmp_path / "one"), 4)


def test_an_image_above_pillows_limit_is_named(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"images cannot be read: .*\.png \(more pixels than Pillow reads \(at most"):
        image_folder(folder, 4)


def test_an_image_that_pillow_warns_of_is_read(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10 * 6 - 1)
    image_folder(folder, 4)


@pytest.mark.parametrize(("side", "size"), [(500, 32), (32, 32), (20, 32), (4, 32)])
def test_small_models_get_the_smallest_size(tmp_path, side, size):
    photographs(tmp_path, side)
    assert choose_image_size("resnet8", tmp_path) == size


def strided(classes):
    """Its last map is a 32nd of the image, as in the large nets of the libraries."""
    widths = [3, 8, 8, 8, 8, 8]
    pairs = pairwise(widths)
    layers = [layer for a, b in pairs for layer in (nn.Conv2d(a, b, 3, 2, padding=1), nn.BatchNorm2d(b))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


@pytest.mark.parametrize(("side", "size"), [(500, 128), (128, 128), (127, 64), (28, 64)])
def test_the_size_leaves_every_normalizer_a_map(tmp_path, side, size):
    photographs(tmp_path, side)
    assert choose_image_size(strided, tmp_path) == size


def test_a_model_that_takes_one_size_gets_it(tmp_path):
    photographs(tmp_path, 64)

    def fixed(classes):
        return nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 14**2, classes))

    assert choose_image_size(fixed, tmp_path) == 224


def test_the_size_that_was_chosen_is_in_the_settings(tmp_path):
    photographs(tmp_path, 64)
    events = []
    small = {"norms": ["batch", "instance"], "batch_sizes": [4], "seeds": 1, "epochs": 1}
    compare(strided, str(tmp_path), **small, on_event=events.append)
    assert events[0].about["settings"]["image_size"] == 64
    assert events[0].about["left_out"] == []


def photographs(folder, side):
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(8):
            noise = torch.randint(256, (side, side + 3, 3), dtype=torch.uint8).numpy()
            Image.fromarray(noise).save(folder / name / f"{i}.png")

"""`normwise explain`: text, JSON, pages and pictures, bad input."""

import json

import pytest
import torch
from PIL import Image

import normwise as nw

FORMULA = """
import torch
import normwise as nw

def own(moments, weight):
    return nw.Affine(moments.over_channels().mean, weight, 0.0)

def layer():
    return nw.InstanceNorm2d(6)

number = 3
"""


def test_json_is_what_the_function_measures(command):
    code, output, _ = command("explain", "group:3", "batch", "--json", "--eval", "--input", "2x6x2")
    assert code == 0
    group, batch = json.loads(output)
    told = nw.explain(nw.GroupNorm(3, 6), torch.zeros(2, 6, 2))
    assert group["cube"] == told.cube.tolist()
    assert group["reads"][0] == told.reads(0, 0, 0).flatten().nonzero().flatten().tolist()
    assert (batch["training"], batch["name"]) == (False, "batch")
    assert {one for sample in batch["cube"] for row in sample for one in row} == {-1}
    assert "N, space" not in batch["properties"].values()


@pytest.mark.parametrize("columns", [80, 120])
def test_text_page_and_pictures(command, tmp_path, columns):
    code, output, _ = command("explain", "instance", "--input", "2x6x2", columns=columns)
    assert code == 0
    assert "InstanceNorm (instance), training: x [2, 6, 2]" in output
    assert "contrast of the first picture" in output
    assert "difference of the two, in units of their contrast 1.06 -> 0.0" in output
    folder = tmp_path / "results" / "explain"
    assert max(len(line) for line in output.splitlines() if not line.startswith(("Page", "Picture"))) <= columns
    assert sorted(path.name for path in folder.iterdir()) == ["explain.html", "instance.png", "instance.svg"]


def test_own_formulas_layers_and_pictures(command, user_module, tmp_path):
    module = user_module(FORMULA)
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "red.png")
    Image.effect_noise((64, 48), 60).save(tmp_path / "noise.png")
    pictures = ("--image", "red.png", "--image", "noise.png")
    code, output, _ = command(
        "explain", f"{module}:own", f"{module}:layer", "switchable", "--input", "2x6x2x2", *pictures
    )
    assert code == 0
    assert "C, space" in output
    assert "contrast of the first picture" in output
    page = (tmp_path / "results" / "explain" / "explain.html").read_text()
    assert "def own(moments, weight)" in page
    assert "--image red.png --image noise.png" in page


BAD = {
    "unknown": (("bach",), "did you mean 'batch'"),
    "shape": (("batch", "--input", "2xa"), "write the sizes of a batch"),
    "rank": (("batch", "--input", "6"), "does not take x"),
    "large": (("batch", "--input", "8x6x56x56"), "at most 2,048"),
    "larger than memory": (("batch", "--input", "100000x100000x10x10"), "at most 2,048"),
    "channels larger than memory": (("batch", "--input", "2x1000000000000"), "at most 2,048"),
    "no size at all": (("batch", "--input", f"4x{10**19}"), "more values than any tensor has"),
    "module": (("nowhere:thing",), "there is no module 'nowhere'"),
    "module without a name": ((":thing",), "':thing' names no module; write package.module:name"),
    "module alone": (("json:",), "'json:' names no function or class of a module; write package.module:name"),
    "relative module": ((".nowhere:thing",), "'.nowhere:thing' names no module"),
    "picture": (("batch", "--image", "no.jpg"), "there is no such file"),
    "three pictures": (("batch", *("--image", "a.png") * 3), "3 pictures were given"),
    "choose a name": (("--choose", "batch"), "batch is a choice"),
    "folder": (("none", "--out", "/proc/no/folder"), "cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, command):
    arguments, words = BAD[case]
    code, _, errors = command("explain", *arguments)
    assert (code, "Traceback" in errors) == (2, False)
    assert words in " ".join(errors.split())


def test_a_number_of_the_users_is_no_layer(command, user_module):
    code, _, errors = command("explain", f"{user_module(FORMULA)}:number")
    assert code == 2
    assert "is of type int; name a layer" in errors

"""Style transfer by optimization."""

from itertools import pairwise

import pytest
import torch
from drawn import small_features

from normwise import stylize
from normwise.errors import InputError
from normwise.style import optimizing
from normwise.style.losses import content_loss, energy, style_loss, style_targets
from normwise.style.optimizing import Weights, optimize

CONTENT, STYLE = torch.rand(3, 40, 48), torch.rand(3, 32, 36)


def losses(pixels, features):
    """Of a picture, computed here anew."""
    maps, content, style = (features(x.unsqueeze(0)) for x in (pixels, CONTENT, STYLE))
    key = features.content
    found = content_loss(maps[key], content[key], energy(style[key]))
    return float(found), float(style_loss(maps, style_targets(style, features.style, "gram"), "gram"))


def test_the_losses_are_those_of_the_picture_and_fall():
    features = small_features(blocks=3)
    steps = list(optimize(CONTENT, STYLE, features, 12, Weights(1.0, 10.0, 0.0)))
    assert [(step.done, step.total) for step in steps] == [(n, 12) for n in range(1, 13)]
    for step in (steps[0], steps[-1]):
        assert losses(step.pixels, features) == pytest.approx((step.content, step.style), rel=0.1, abs=1e-3)
    assert steps[-1].content + 10 * steps[-1].style < 0.7 * (steps[0].content + 10 * steps[0].style)


def test_every_picture_is_the_best_so_far():
    """Among many steps of L-BFGS without a line search some go uphill."""
    steps = list(optimize(CONTENT, STYLE, small_features(blocks=3), 25, Weights(1.0, 10.0, 0.0)))
    totals = [step.content + 10 * step.style for step in steps]
    assert all(b <= a + 1e-6 for a, b in pairwise(totals))


def test_only_the_content_counts_where_the_style_has_no_weight():
    *_, last = optimize(CONTENT, STYLE, small_features(blocks=2), 5, Weights(1.0, 0.0, 0.0))
    torch.testing.assert_close(last.pixels, CONTENT, rtol=0, atol=1e-4)


def test_scales_add_up_and_the_last_is_the_whole():
    assert optimizing._scales(512, 150) == [(128, 60), (256, 52), (512, 38)]
    assert optimizing._scales(200, 10) == [(100, 5), (200, 5)]
    assert optimizing._scales(40, 3) == [(40, 3)]
    assert optimizing._scales(4000, 1) == [(4000, 1)]


@pytest.mark.parametrize("size", [(127, 129), (200, 51)])
def test_sizes_that_no_scale_divides(size):
    *_, last = optimize(torch.rand(3, *size), STYLE, small_features(blocks=2), 4, Weights())
    assert last.pixels.shape == (3, *size)
    assert 0 <= float(last.pixels.min()) <= float(last.pixels.max()) <= 1


def test_the_python_call_tells_each_step():
    told = []
    found = stylize(CONTENT, STYLE, steps=2, size=24, features=small_features(blocks=2), on_step=told.append)
    assert found.shape == (3, 20, 24)
    assert [step.done for step in told] == [1, 2]
    assert torch.equal(told[-1].pixels, found)


@pytest.mark.parametrize(
    ("content", "style", "options", "said"),
    [
        (CONTENT, None, {}, "Write --style and a picture to paint like, or --net"),
        (CONTENT, STYLE, {"steps": 0}, "--steps 0: write a whole number"),
        (CONTENT, STYLE, {"style_weight": -1.0}, "--style-weight -1.0: write a number of at least 0"),
        (CONTENT, STYLE, {"smoothness": float("nan")}, "--smoothness nan: write"),
        (CONTENT, STYLE, {"style_loss": "grams"}, "--style-loss grams: write gram or moments"),
        (CONTENT, STYLE, {"strength": 0.5}, "strength works with a net of any style only; for optimization write"),
        (CONTENT, STYLE, {"size": 0}, "--size 0: write a whole number of at least 1"),
        (CONTENT[:, :1, :1], STYLE, {}, "The picture is 1x1 pixels; optimization needs at least 16 on each side"),
        (CONTENT, STYLE[:, :1, :1], {}, "The style is 1x1 pixels; at least 16 on each side are needed"),
        (torch.zeros(40, 48, 3), STYLE, {}, r"a tensor \[3, H, W\] of RGB in \[0, 1\], received \[40, 48, 3\]"),
        (torch.zeros(3, 40, 48, dtype=torch.uint8), STYLE, {}, "received torch.uint8; divide by 255"),
    ],
)
def test_what_cannot_be_painted_is_said(content, style, options, said):
    with pytest.raises(InputError, match=said):
        stylize(content, style, features=small_features(blocks=2), **options)


def test_a_picture_that_no_memory_holds(monkeypatch):
    monkeypatch.setattr(optimizing, "_memory", lambda: 2**30)
    said = r"1000x1000 pixels by optimization need about 4 GiB of memory, this machine has 1; write --size \d+, or"
    with pytest.raises(InputError, match=said):
        stylize(torch.rand(3, 1000, 1000), STYLE, size=1000, features=small_features(blocks=2))

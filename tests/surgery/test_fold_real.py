"""fold on a trained ImageNet net with 52 BatchNorms, and photographs: skipped where they are not installed."""

import copy

import pytest
import torch
from real_nets import mobilenet, photographs
from surgery_nets import in_fp64, outcomes

import normwise as nw

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trial():
    net, images = mobilenet(), photographs(crops=2)
    return net, images, nw.fold(net, images[:2], check=images[2:3]), in_fp64(net, images)


def test_every_normalizer_folds_and_rounding_explains_the_rest(trial):
    net, images, result, expected = trial
    assert list(outcomes(result).values()) == ["folded"] * 52
    with torch.no_grad():
        before, after = ((m(images) - expected).abs().max().item() for m in (net, result.model))
        assert after < 4 * before
        assert after < 1e-5 * expected.abs().max().item()
        assert torch.equal(result.model(images).argmax(1), expected.argmax(1))


def test_in_bf16_folding_is_no_worse(trial):
    net, images, result, expected = trial
    narrow = images.bfloat16()
    with torch.no_grad():
        before, after = (
            (copy.deepcopy(m).bfloat16()(narrow) - expected).square().mean().sqrt().item() for m in (net, result.model)
        )
    assert after < 1.25 * before

"""LayerNorm2d and RMSNorm2d in use: options, checkpoints, transforms, compilers, errors."""

import copy
import pickle

import pytest
import torch
from layer_cases import randomize
from pixel_cases import SHAPES, TWIN, C, both
from torch import nn
from torch.testing import assert_close

import normwise as nw


@both
def test_options(cls):
    plain = cls(C, elementwise_affine=False)
    assert not list(plain.parameters())
    x = torch.randn(SHAPES["2d"])
    assert_close(plain(x), cls(C)(x))
    assert cls(C).eps == 1e-6
    assert isinstance(cls(C), TWIN[cls])
    assert nw.LayerNorm2d(C, bias=False).bias is None
    # Without eps the machine epsilon of the statistics' type, as in torch.
    tiny = torch.full((1, C, 2), 1e-4)
    assert_close(nw.RMSNorm2d(C, eps=None)(tiny).mT, nn.RMSNorm(C)(tiny.mT))


@both
def test_checkpoints(cls):
    """The names and shapes are those of torch's row layer, and so of ConvNeXt's and timm's."""
    theirs = randomize(TWIN[cls](C, eps=1e-6))
    ours = cls(C)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(SHAPES["2d"])
    expected = theirs(x.movedim(1, -1)).movedim(-1, 1)
    for layer in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_close(layer(x), expected)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert repr(nw.LayerNorm2d(C, activation="gelu")) == (
        "LayerNorm2d((6,), eps=1e-06, elementwise_affine=True, bias=True, activation='gelu')"
    )


@both
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            torch.ones(2, 5, 3),
            ValueError,
            r"Norm2d\(6\) expected 6 channels in dimension 1, got input \[2, 5, 3\]; write",
        ),
        (torch.ones(2, 4, 4, 6), ValueError, r"write (Layer|RMS)Norm2d\(4\), or (Layer|RMS)Norm where the channels"),
        (torch.ones(6), ValueError, r"expects \[N, C, \*space\], received 1-D"),
        (torch.ones(2, 6, 3, dtype=torch.int32), TypeError, r"floating tensor, received torch\.int32"),
    ],
)
def test_wrong_input(cls, x, error, message):
    with pytest.raises(error, match=message):
        cls(C)(x)


@both
def test_wrong_arguments(cls):
    with pytest.raises(TypeError, match=r"expects the number of channels, received \(6,\); write"):
        cls((6,))
    with pytest.raises(ValueError, match=r"\(0\): the number of channels must be at least 1"):
        cls(0)
    with pytest.raises(ValueError, match="Unknown activation 'swish'"):
        cls(C, activation="swish")
    with pytest.raises(ValueError, match="give either mask or lengths, not both"):
        cls(C)(torch.ones(2, C, 3), mask=torch.ones(2, 3).bool(), lengths=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="residual must have the input's shape"):
        cls(C)(torch.ones(2, C, 3), torch.ones(2, C, 1))

"""`from_timm` against timm's own models with random weights."""

import pytest
import torch
from libraries import timm_model

from normwise import bake, nets

# Each at a size where "same" and symmetric padding differ, and at one where rounding up halves odd sides.
CASES = [
    ("nf_resnet26", (64, 65)),
    pytest.param("nf_resnet50", (64, 71), marks=pytest.mark.slow),
    ("nf_seresnet26", (64, 64)),
    ("nf_regnet_b0", (64, 97)),
    ("nf_regnet_b1", (96, 65)),
    pytest.param("nfnet_f0", (64, 65), marks=pytest.mark.slow),
    ("dm_nfnet_f0", (64, 97)),
]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_outputs_are_timms(name, size):
    theirs = timm_model(name, num_classes=7, in_chans=2).double()
    ours = nets.from_timm(theirs.state_dict()).eval()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(x), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["nf_resnet26", "nf_regnet_b0", pytest.param("dm_nfnet_f0", marks=pytest.mark.slow)])
def test_gradients_of_the_input_are_timms(name):
    theirs = timm_model(name, num_classes=5).double()
    ours = nets.from_timm(theirs.state_dict()).eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(1, 5, dtype=torch.float64)
    (expected,) = torch.autograd.grad(theirs(x), x, cotangent)
    (gradient,) = torch.autograd.grad(ours(x), x, cotangent)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


def test_fp32_outputs_are_timms_to_rounding_also_when_baked():
    theirs = timm_model("nf_regnet_b0")
    ours = nets.from_timm(theirs.state_dict()).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-3, atol=1e-5)
        bake(ours)
        torch.testing.assert_close(ours(x), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("fill", [0.0, 0.3, 1e-7])
def test_weights_without_variance_or_almost(fill):
    """Where the floor of the official formula and timm's addition differ most."""
    theirs = timm_model("nf_resnet26", num_classes=3).double()
    with torch.no_grad():
        theirs.stages[1][0].conv2.weight[:5].fill_(fill)
        theirs.stages[1][1].conv1.weight[3:6].mul_(1e-4)
    ours = nets.from_timm(theirs.state_dict()).eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-11)


def test_the_model_given_stays_as_it_is():
    theirs = timm_model("nf_resnet26", num_classes=3)
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    ours = nets.from_timm(theirs.state_dict())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_dtype_is_that_of_the_weights():
    theirs = timm_model("nf_resnet26", num_classes=3).bfloat16()
    assert {p.dtype for p in nets.from_timm(theirs.state_dict()).parameters()} == {torch.bfloat16}


def test_dropout_and_stochastic_depth_are_for_training():
    net = nets.from_timm(timm_model("nf_resnet26").state_dict(), dropout=0.3, stochastic_depth=0.4)
    assert net.dropout.p == 0.3
    rates = [m.p for m in net.modules() if isinstance(m, nets.StochasticDepth)]
    assert rates == pytest.approx([0.4 * i / 8 for i in range(8)])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "there is no stem.conv.weight"),
        ("nfnet_l0", {}, "as nfnet_l\\* has"),
        ("eca_nfnet_l0", {}, "as nfnet_l\\* has"),
        ("nf_ecaresnet26", {}, "attn_last.conv.weight is missing or not in these networks"),
        ("nf_resnet26", {"num_classes": 0}, "classifier.weight is missing"),
    ],
)
def test_weights_of_other_networks(name, options, message):
    with pytest.raises(ValueError, match=message):
        nets.from_timm(timm_model(name, **options).state_dict())


def test_incomplete_weights():
    weights = timm_model("nf_resnet26").state_dict()
    del weights["stages.2.0.conv3.bias"]
    with pytest.raises(ValueError, match=r"stages.stage3.0.branch.conv3.bias is missing"):
        nets.from_timm(weights)
    with pytest.raises(ValueError, match="from_timm takes the weights of timm's"):
        nets.from_timm({})


def test_a_model_instead_of_its_weights():
    with pytest.raises(TypeError, match=r"expects a state dict, received Linear; give model\.state_dict\(\)"):
        nets.from_timm(torch.nn.Linear(2, 2))

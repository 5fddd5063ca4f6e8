"""AdaptiveInstanceNorm against the equation in NumPy, its authors' conventions, and the plain layers."""

import copy
import itertools

import numpy as np
import pytest
import torch
from layer_cases import LAYOUTS, gradients
from torch import nn
from torch.testing import assert_close

import normwise as nw

C = 4
CONTENTS = {1: (2, C, 7), 2: (2, C, 3, 5), 3: (2, C, 2, 3, 2)}
STYLES = {1: (2, C, 5), 2: (2, C, 4, 3), 3: (2, C, 2, 2, 2)}
# Values of size 1 to 10, pools of at most 15 (some 20 roundings of fp32); narrower results are rounded once more.
TOLERANCE = {
    torch.float64: {"rtol": 1e-11, "atol": 1e-11},
    torch.float32: {"rtol": 1e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 2**-8 * 1.01, "atol": 2e-5},
    torch.float16: {"rtol": 2**-11 * 1.01, "atol": 2e-5},
}


def pair(rank=2, dtype=torch.float32):
    return torch.randn(CONTENTS[rank], dtype=dtype), 2 * torch.randn(STYLES[rank], dtype=dtype) + 3


def by_the_paper(content, style, eps=1e-5):
    """σ(s)·(x - μ(x))/sqrt(σ²(x) + ε) + μ(s), plane by plane in float64; both variances biased, no ε on the style."""
    content, style = (t.detach().double().numpy() for t in (content, style))
    y = np.empty_like(content)
    for n, c in np.ndindex(content.shape[:2]):
        x, s = content[n, c], style[n if len(style) > 1 else 0, c]
        mean, style_mean = x.sum() / x.size, s.sum() / s.size
        deviation = np.sqrt(((s - style_mean) ** 2).sum() / s.size)
        y[n, c] = deviation * (x - mean) / np.sqrt(((x - mean) ** 2).sum() / x.size + eps) + style_mean
    return torch.from_numpy(y)


@pytest.mark.parametrize(("rank", "style_rank"), [*itertools.product(CONTENTS, STYLES)])
def test_agrees_with_the_paper(rank, style_rank, backend):
    """Style and content may even differ in rank: only the planes' statistics are taken."""
    content, style = torch.randn(CONTENTS[rank]), torch.randn(STYLES[style_rank]) + 3
    with backend():
        for given in (style, style[:1]):
            y = nw.AdaptiveInstanceNorm()(content, given)
            assert_close(y.double(), by_the_paper(content, given), **TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_values_and_gradients_in_every_precision(layout, dtype, backend):
    """Against autograd through the written-out equation in float64, for the content and for the style."""
    content, style = (LAYOUTS[layout](t.to(dtype)).requires_grad_() for t in pair())
    cotangent = torch.randn(CONTENTS[2]).to(dtype)
    with backend():
        y = nw.AdaptiveInstanceNorm()(content, style)
    found = gradients(y, [content, style], cotangent)

    truth = [t.detach().double().requires_grad_() for t in (content, style)]
    (mean, var), (style_mean, style_var) = ((t.mean((2, 3)), t.var((2, 3), correction=0)) for t in truth)
    scale = (style_var.sqrt() / (var + 1e-5).sqrt())[..., None, None]
    y_true = (truth[0] - mean[..., None, None]) * scale + style_mean[..., None, None]
    assert y.dtype == dtype
    if layout != "transposed":
        assert y.stride() == content.stride()
    assert_close(y.double(), y_true, **TOLERANCE[dtype])
    for grad, expected in zip(found, gradients(y_true, truth, cotangent), strict=True):
        assert grad.dtype == dtype
        assert_close(grad.double(), expected, **TOLERANCE[dtype])


def test_derivatives_by_finite_differences():
    content, style, residual = (torch.randn(2, C, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[[1, 1], [1, 0], [1, 1]], [[1, 1], [0, 0], [1, 1]]]).bool()
    layer = nw.AdaptiveInstanceNorm(activation="tanh")

    def call(content, style, residual):
        return layer(content, style, residual, mask)

    assert torch.autograd.gradcheck(call, (content, style, residual))
    assert torch.autograd.gradgradcheck(call, (content, style, residual), fast_mode=True)
    mean, std = (t.detach().requires_grad_() for t in layer.statistics(style))
    assert torch.autograd.gradcheck(lambda *t: layer(t[0], t[1:]), (content, mean, std))


def test_identities(backend):
    content, style = pair(dtype=torch.float64)
    layer = nw.AdaptiveInstanceNorm()
    with backend():
        # Its own style: the identity, up to the ε in σ/sqrt(σ² + ε).
        assert_close(nw.AdaptiveInstanceNorm(eps=0.0)(content, content), content)
        assert (layer(content, content) - content).abs().max() < 1e-4
        # A standard style: plain instance normalization.
        standard = torch.zeros(1, C, dtype=torch.float64), torch.ones(1, C, dtype=torch.float64)
        assert_close(layer(content, standard), nn.functional.instance_norm(content))
        # The output's planes have the style's statistics.
        y = nw.AdaptiveInstanceNorm(eps=0.0)(content, style)
        assert_close(layer.statistics(y), layer.statistics(style))
        # Measured and given statistics are one.
        assert torch.equal(layer(content, layer.statistics(style)), layer(content, style))


def test_it_is_not_the_pytorch_port():
    """Unbiased variances and an ε on the style differ from the paper's code, on small maps by far."""
    content, style = pair(dtype=torch.float64)

    def port(t):
        return t.mean((2, 3), keepdim=True), (t.var((2, 3), keepdim=True) + 1e-5).sqrt()

    (mean, std), (style_mean, style_std) = port(content), port(style)
    ported = (content - mean) / std * style_std + style_mean
    ours = nw.AdaptiveInstanceNorm()(content, style)
    assert (ours - ported).abs().max() > 0.01
    ratio = ((15 / 14) / (12 / 11)) ** 0.5  # biased against unbiased, of 3·5 content and 4·3 style values
    assert_close((ported - style_mean) * ratio, ours - style_mean, rtol=1e-4, atol=1e-4)


def test_an_even_style(backend):
    """Deviation 0: the output is the style's mean, and the gradient is finite, although the root's slope is not."""
    content, style = pair()
    style[:, 1] = 2.5
    content.requires_grad_(), style.requires_grad_()
    with backend():
        y = nw.AdaptiveInstanceNorm()(content, style)
    assert_close(y[:, 1], torch.full_like(y[:, 1], 2.5))
    for grad in gradients(y, [content, style], torch.randn(y.shape)):
        assert grad.isfinite().all()


def test_an_even_content(backend):
    content, style = pair()
    content[:, 1] = 7.25
    with backend():
        y = nw.AdaptiveInstanceNorm()(content, style)
    assert_close(y[:, 1], style[:, 1].mean((1, 2))[:, None, None].expand_as(y[:, 1]))


def test_residual_activation_and_masks(backend):
    content, style = pair()
    residual, mask, style_mask = torch.randn(CONTENTS[2]), torch.rand(2, 3, 5) < 0.7, torch.rand(2, 4, 3) < 0.7
    layer, plain = nw.AdaptiveInstanceNorm(activation="relu"), nw.AdaptiveInstanceNorm()
    kept = mask.unsqueeze(1).expand_as(content)
    with backend():
        assert_close(layer(content, style, residual), nn.functional.relu(plain(content, style) + residual))
        y = plain(torch.where(kept, content, torch.nan), style, mask=mask)
        for n in range(2):
            alone = content[n, :, mask[n]].unsqueeze(0)
            assert_close(y[n, :, mask[n]], plain(alone, style[n : n + 1])[0])
        statistics = plain.statistics(torch.where(style_mask.unsqueeze(1), style, torch.inf), style_mask)
        for n in range(2):
            expected = plain.statistics(style[n, :, style_mask[n]].unsqueeze(0))
            assert_close([t[n] for t in statistics], [t[0] for t in expected])
        sequence, lengths = torch.randn(2, C, 9), torch.tensor([9, 4])
        y = plain(sequence, style, lengths=lengths)
        assert_close(y[1:, :, :4], plain(sequence[1:, :, :4], style[1:]))


def test_data_far_from_zero(backend):
    """At mean/std = 10 000 both statistics keep their digits."""
    content, style = torch.randn(2, C, 16, 16) + 1e4, torch.randn(2, C, 16, 16) - 1e4
    with backend():
        y = nw.AdaptiveInstanceNorm()(content, style)
    # The style's mean and the output are rounded to fp32, each by half a unit in the last place of 1e4, 2^-11.
    assert_close(y.double(), by_the_paper(content, style), rtol=0.0, atol=2**-10)


def test_empty_batch():
    content, style = torch.zeros(0, C, 3, 5, requires_grad=True), torch.randn(1, C, 4, 3)
    assert nw.AdaptiveInstanceNorm()(content, style).shape == content.shape
    assert nw.AdaptiveInstanceNorm()(content, style.expand(0, -1, -1, -1)).shape == content.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rank", CONTENTS)
def test_fold(rank, dtype):
    layer = nw.AdaptiveInstanceNorm(eps=1e-3, activation="silu")
    content, style = (t.to(dtype) for t in pair(rank))
    plain = layer.fold(style[:1], rank)
    assert type(plain) is getattr(nw, f"InstanceNorm{rank}d")
    assert_close(plain(content), layer(content, style[:1]))
    assert_close(layer.fold(layer.statistics(style[:1]), rank)(content), plain(content))
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_state_and_repr():
    layer = nw.AdaptiveInstanceNorm()
    assert not layer.state_dict()
    content, style = pair()
    assert_close(copy.deepcopy(layer).eval()(content, style), layer.train()(content, style))
    assert (
        repr(nw.AdaptiveInstanceNorm(1e-3, activation="relu")) == "AdaptiveInstanceNorm(eps=0.001, activation='relu')"
    )


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_transforms():
    layer = nw.AdaptiveInstanceNorm()
    contents, styles = (torch.randn(3, *shape[2], dtype=torch.float64) for shape in (CONTENTS, STYLES))
    expected = torch.stack([layer(x, s) for x, s in zip(contents, styles, strict=True)])
    assert_close(torch.func.vmap(layer)(contents, styles), expected)
    expected = torch.stack([layer(x, styles[0]) for x in contents])
    assert_close(torch.func.vmap(layer, in_dims=(0, None))(contents, styles[0]), expected)
    found = torch.func.jacrev(layer, argnums=1)(contents[0], styles[0])
    assert_close(found, torch.autograd.functional.jacobian(lambda s: layer(contents[0], s), styles[0]))


MEAN = torch.zeros(2, C)


@pytest.mark.parametrize(
    ("style", "error", "message"),
    [
        (
            torch.randn(3, C, 4, 4),
            ValueError,
            r"style's mean must be \[N, C\] = \[2, 4\] or \[1, 4\], received \[3, 4\]",
        ),
        (torch.randn(2, 5, 4, 4), ValueError, r"received \[2, 5\]; content and style need the same channels"),
        (torch.randn(2, C, 1, 1), ValueError, r"the style has one value in each plane, \[2, 4, 1, 1\]"),
        (torch.randn(2, C), ValueError, r"the style has one value in each plane, \[2, 4\]"),
        ((MEAN, torch.ones(C)), ValueError, r"style's std must be \[N, C\] .*received \[4\]"),
        ((MEAN[..., None, None], MEAN), ValueError, r"style's mean must be .*received \[2, 4, 1, 1\]"),
        ((MEAN, MEAN, MEAN), TypeError, r"a tensor \[N, C, \*space\] or a pair \(mean, std\), received tuple"),
        (None, TypeError, "received NoneType"),
        ((MEAN, MEAN.long()), TypeError, r"style's std expects a floating tensor, received torch\.int64"),
        ((0.0, 1.0), TypeError, r"style's mean expects a tensor, received float"),
        (torch.ones(2, C, 3).long(), TypeError, r"style expects a floating tensor"),
    ],
)
def test_wrong_styles(style, error, message):
    with pytest.raises(error, match=f"AdaptiveInstanceNorm: .*{message}"):
        nw.AdaptiveInstanceNorm()(torch.randn(CONTENTS[2]), style)


def test_other_errors():
    layer, (content, style) = nw.AdaptiveInstanceNorm(), pair()
    with pytest.raises(ValueError, match=r"the content has one value in each plane, \[2, 4, 1, 1\]"):
        layer(content[..., :1, :1], style)
    with pytest.raises(TypeError, match="AdaptiveInstanceNorm expects a floating tensor"):
        layer(content.long(), style)
    with pytest.raises(ValueError, match=r"fold takes one style, a batch of one; received mean \[2, 4\].*style\[:1\]"):
        layer.fold(style)
    with pytest.raises(ValueError, match="rank must be 1, 2 or 3 spatial dimensions, received 4"):
        layer.fold(style[:1], rank=4)
    with pytest.raises(ValueError, match="Unknown activation 'swish'"):
        nw.AdaptiveInstanceNorm(activation="swish")

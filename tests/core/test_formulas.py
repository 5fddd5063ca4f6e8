"""Each formula on the table against its paper's equation in float64 NumPy on the raw values."""

from functools import partial

import numpy as np
import pytest
import torch

from normwise import Moments
from normwise.core import formulas
from normwise.core.formulas import RenormTarget

EPS, GROUPS, GHOST = 1e-3, 3, 2


def drawn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = drawn(5, 6, 7, seed=0) * 1.5 + drawn(5, 6, 1, seed=1)
WEIGHT, BIAS, V = drawn(3, 6, seed=2)
GATE = torch.linspace(0, 1, 6, dtype=torch.float64)
MEAN_LOGITS, VAR_LOGITS = drawn(2, 3, seed=3)
KNOWN = Moments(drawn(1, 6, seed=4), drawn(1, 6, seed=5).square() + 0.1, 1)
#: Bounds that some channels pass from above, some from below, and some not at all.
TARGET = RenormTarget(drawn(1, 6, seed=6), torch.tensor([[0.1, 1.0, 2.0, 4.0, 9.0, 30.0]]).double(), 1.3, 0.4)
LEARNED = torch.tensor([0.3, -0.3, 0.0, 1.0, -1.0, 2.0], dtype=torch.float64)


def of_channels(parameter):
    return parameter.numpy().reshape(1, -1, 1)


W, B = of_channels(WEIGHT), of_channels(BIAS)


def standardized(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPS)


def by_groups(x):
    return standardized(x.reshape(5, GROUPS, -1), (2,)).reshape(x.shape)


def by_chunks(x):
    return np.concatenate([standardized(x[n : n + GHOST], (0, 2)) for n in range(0, 5, GHOST)])


def renormalized(x):
    mean, var = (t.numpy().reshape(1, 6, 1) for t in TARGET[:2])
    own_mean, own_std = x.mean((0, 2), keepdims=True), np.sqrt(x.var((0, 2), keepdims=True) + EPS)
    r = np.clip(own_std / np.sqrt(var + EPS), 1 / TARGET.r_max, TARGET.r_max)
    d = np.clip((own_mean - mean) / np.sqrt(var + EPS), -TARGET.d_max, TARGET.d_max)
    return (x - own_mean) / own_std * r + d


def switched(x):
    axes = ((2,), (1, 2), (0, 2))
    shares = [np.exp(t.numpy()) / np.exp(t.numpy()).sum() for t in (MEAN_LOGITS, VAR_LOGITS)]
    mean = sum(s * x.mean(a, keepdims=True) for s, a in zip(shares[0], axes, strict=True))
    var = sum(s * x.var(a, keepdims=True) for s, a in zip(shares[1], axes, strict=True))
    return (x - mean) / np.sqrt(var + EPS)


def gated(x, batch):
    return of_channels(GATE) * batch + (1 - of_channels(GATE)) * standardized(x, (2,))


def by_known(x):
    mean, var = (t.numpy().reshape(1, 6, 1) for t in KNOWN[:2])
    return (x - mean) / np.sqrt(var + EPS)


def filtered(x):
    return x / np.sqrt((x**2).mean(2, keepdims=True) + EPS + np.abs(of_channels(LEARNED)))


def globally_responding(x):
    norm = np.sqrt((x**2).sum(2, keepdims=True))
    return W * x * norm / (norm.mean(1, keepdims=True) + EPS) + B + x


def affine(function):
    return lambda x: W * function(x) + B


branches = ("instance", "layer", "batch")
#: The formula, its parameters after weight and bias, and the equation.
EQUATIONS = {
    "batch": (formulas.batch_norm, (), affine(lambda x: standardized(x, (0, 2)))),
    "instance": (formulas.instance_norm, (), affine(lambda x: standardized(x, (2,)))),
    "layer": (formulas.layer_norm, (), affine(lambda x: standardized(x, (1, 2)))),
    "group": (partial(formulas.group_norm, groups=GROUPS), (), affine(by_groups)),
    "ghost": (partial(formulas.ghost_batch_norm, ghost_size=GHOST), (), affine(by_chunks)),
    "renorm": (partial(formulas.batch_renorm, target=TARGET), (), affine(renormalized)),
    "switchable": (
        partial(formulas.switchable_norm, branches=branches),
        (MEAN_LOGITS, VAR_LOGITS),
        affine(switched),
    ),
    "batch-instance": (
        formulas.batch_instance_norm,
        (GATE,),
        affine(lambda x: gated(x, standardized(x, (0, 2)))),
    ),
    "batch-instance, known": (
        partial(formulas.batch_instance_norm, known=KNOWN),
        (GATE,),
        affine(lambda x: gated(x, by_known(x))),
    ),
    "filter response": (formulas.filter_response_norm, (LEARNED,), affine(filtered)),
    "global response": (formulas.global_response_norm, (), globally_responding),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_equation_as_printed(name):
    formula, others, equation = EQUATIONS[name]
    center, scale, shift, _ = formula(Moments.of(X), WEIGHT, BIAS, *others, eps=EPS)
    center, scale, shift = (torch.as_tensor(t).double().expand(5, 6).unsqueeze(2) for t in (center, scale, shift))
    np.testing.assert_allclose((X - center) * scale + shift, equation(X.numpy()), rtol=1e-11, atol=1e-11)


def test_the_rate_of_a_response_is_that_of_its_paper():
    deviations = {axes: np.sqrt(X.numpy().var(axes) + EPS) for axes in ((0, 2), (2,))}
    found = formulas.evo_norm_b0(Moments.of(X), WEIGHT, BIAS, V, eps=EPS)
    np.testing.assert_allclose(found.least.squeeze(0), deviations[0, 2], rtol=1e-12)
    np.testing.assert_allclose(found.own, deviations[(2,)], rtol=1e-12)
    gated = formulas.evo_norm_s0(Moments.of(X), WEIGHT, BIAS, V, groups=GROUPS, eps=EPS)
    of_groups = X.numpy().reshape(5, GROUPS, -1).var(2).repeat(2, axis=1)
    np.testing.assert_allclose(gated.scale, WEIGHT.numpy() / np.sqrt(of_groups + EPS), rtol=1e-12)


def test_a_channel_of_zeros_has_a_finite_gradient():
    """The derivative of the norm at 0 is infinite; its subgradient there is 0."""
    x = X.clone()
    x[:, 2] = 0
    x.requires_grad_()
    affine = formulas.global_response_norm(Moments.of(x), WEIGHT, None, eps=EPS)
    (grad,) = torch.autograd.grad((affine.scale * drawn(5, 6, seed=9)).sum(), x)
    assert grad.isfinite().all()
    assert grad[:, 2].eq(0).all()

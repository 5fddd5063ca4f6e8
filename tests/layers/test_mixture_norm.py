"""Switchable and Batch-Instance Normalization against their equations in NumPy, and what they learned made visible."""

import warnings

import numpy as np
import one_step
import pytest
import torch
from mixtures import GATED, MIXTURES, SWITCHABLE, Memory, gated, switchable
from torch import nn
from torch.testing import assert_close

import normwise as nw


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("classes", "equation"), [(SWITCHABLE, switchable), (GATED, gated)], ids=["SN", "BIN"])
def test_agrees_with_the_paper_over_steps(classes, equation, rank, backend):
    layer = one_step.trained(classes[rank](6, momentum=0.3, dtype=torch.float64))
    memory = Memory(6, 0.3)
    with backend():
        for seed in range(3):
            x = one_step.data(one_step.SHAPES[rank], seed, mean=seed, std=seed + 1)
            np.testing.assert_allclose(layer(x).detach(), equation(layer, x.numpy()), rtol=1e-10, atol=1e-12)
            memory.update(x.numpy())
        np.testing.assert_allclose(layer.running_mean, memory.mean, rtol=1e-12)
        np.testing.assert_allclose(layer.running_var, memory.var, rtol=1e-12)
        expected = equation(layer, x.numpy(), memory.statistics(x.numpy()))
        np.testing.assert_allclose(layer.eval()(x).detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("order", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("name", MIXTURES)
def test_derivatives_by_finite_differences(name, order, training):
    layer = one_step.trained(MIXTURES[name](3, dtype=torch.float64)).train(training)
    one_step.derivatives_agree_with_finite_differences(layer, (3, 3, 2, 2), order)


@pytest.mark.parametrize(
    ("make", "names"), [(nw.BatchInstanceNorm2d, ["gate"]), (nw.SwitchableNorm2d, ["mean_weight", "var_weight"])]
)
def test_a_batch_norm_checkpoint_loads_with_a_warning(make, names):
    theirs = one_step.trained(nn.BatchNorm2d(4))
    theirs(torch.randn(3, 4, 5, 5))
    model = nn.Sequential(one_step.trained(make(4)))
    state = {f"0.{k}": v for k, v in theirs.state_dict().items()}
    with pytest.warns(
        UserWarning, match=rf"at '0': the checkpoint is of a layer without {' and '.join(names)}; set to 1"
    ):
        model.load_state_dict(state, strict=True)
    assert list(state) == [f"0.{k}" for k in theirs.state_dict()]
    assert all((model[0].get_parameter(n) == 1).all() for n in names)
    assert_close(model[0].running_var, theirs.running_var)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(one_step.trained(nn.Sequential(make(4))).state_dict())
    broken = model.state_dict()
    del broken[f"0.{names[-1]}"], broken["0.weight"], broken["0.running_mean"]
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(broken)


@pytest.mark.parametrize("name", MIXTURES)
def test_reset_parameters_starts_anew(name):
    layer, fresh = one_step.trained(MIXTURES[name](4)), MIXTURES[name](4)
    layer(torch.randn(3, 4, 5, 5))
    layer.reset_parameters()
    assert_close(layer.state_dict(), fresh.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_gate_has_the_gradient_of_its_values(dtype):
    """It is the small difference of what both normalizations ask for, which must not be rounded before."""
    x, grad_y = torch.randn(8, 16, 14, 14).to(dtype), torch.randn(8, 16, 14, 14).to(dtype)
    layer = nw.BatchInstanceNorm2d(16).to(dtype)
    exact = nw.BatchInstanceNorm2d(16).double()
    for one in (layer, exact):
        nn.init.constant_(one.gate, 0.5)
    (got,) = torch.autograd.grad(layer(x), layer.gate, grad_y)
    (want,) = torch.autograd.grad(exact(x.double()), exact.gate, grad_y.double())
    assert_close(got.double(), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)

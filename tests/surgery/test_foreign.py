"""`load_foreign` against each framework's formula of inference, written out in fp64 with NumPy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import normwise as nw

C = 5
RNG = np.random.default_rng(0)
X = RNG.normal(2, 3, (3, C, 4, 6))


def parts():
    """γ, β, mean, variance: none near a fresh layer's."""
    return RNG.normal(1, 1, C), RNG.normal(0, 1, C), RNG.normal(0, 5, C), RNG.uniform(0.2, 9, C)


def inference(x, gamma, beta, mean, var, eps):
    """Keras', TensorFlow's, Flax', Haiku's and torch's: the variance as it is, eps within the root."""
    by = (1, -1, *[1] * (x.ndim - 2))
    g, b, m, v = (t.reshape(by) for t in (gamma, beta, mean, var))
    return g * (x - m) / np.sqrt(v + eps) + b


def four(v):
    return v.reshape(1, 1, 1, C)


STATES = {
    "keras": lambda g, b, m, v: {"bn/gamma:0": g, "bn/beta:0": b, "bn/moving_mean:0": m, "bn/moving_variance:0": v},
    "tf": lambda g, b, m, v: {
        "net/bn/gamma": g,
        "net/bn/beta": b,
        "net/bn/moving_mean": m,
        "net/bn/moving_variance": v,
        "net/bn/gamma/Momentum": g * 7,
    },
    "flax": lambda g, b, m, v: {
        "params": {"BatchNorm_0": {"scale": g, "bias": b}},
        "batch_stats": {"BatchNorm_0": {"mean": m, "var": v}},
    },
    "haiku": lambda g, b, m, v: {
        "params": {"net/~/batch_norm": {"scale": four(g), "offset": four(b)}},
        "state": {
            "net/~/batch_norm/~/mean_ema": {"average": four(m), "hidden": four(m / 2), "counter": np.array(7)},
            "net/~/batch_norm/~/var_ema": {"average": four(v), "hidden": four(v / 2), "counter": np.array(7)},
        },
    },
    "timm": lambda g, b, m, v: {"weight": g, "bias": b, "running_mean": m, "running_var": v, "num_batches_tracked": 9},
    "detectron2": lambda g, b, m, v: {"model": {"weight": g, "bias": b, "running_mean": m, "running_var": v}},
    "torch<0.4.1": lambda g, b, m, v: {"weight": g, "bias": b, "running_mean": m, "running_var": v},
}
LAYERS = [nn.BatchNorm2d, nw.BatchNorm2d, nw.BatchRenorm2d, nn.SyncBatchNorm]


def outputs(layer, x=X):
    return layer.eval()(torch.from_numpy(x).to(next(layer.parameters()).dtype)).detach().numpy()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("source", STATES)
def test_the_layer_computes_what_the_source_does(source, kind):
    g, b, m, v = parts()
    layer = kind(C, eps=1e-3).double()
    row, *others = nw.load_foreign(layer, STATES[source](g, b, m, v), source=source).rows
    np.testing.assert_allclose(outputs(layer), inference(X, g, b, m, v, 1e-3), rtol=1e-11, atol=1e-13)
    assert row.outcome == "loaded"
    assert [other.source for other in others] == {"tf": ["net/bn/gamma"]}.get(source, [])
    assert row.loaded == "weight, bias, running_mean, running_var, num_batches_tracked"
    assert int(layer.num_batches_tracked) == {"timm": 9, "haiku": 7}.get(source, 0)


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_the_deviation_of_batchrenorm_is_divided_by_alone(eps):
    g, b, m, v = parts()
    state = {"weight": g, "bias": b, "running_mean": m, "running_std": np.sqrt(v), "num_batches_tracked": 12}
    layer = nw.BatchRenorm2d(C, eps=eps).double()
    nw.load_foreign(layer, {f"bn.{name}": value for name, value in state.items()}, source="ludvb")
    np.testing.assert_allclose(outputs(layer), inference(X, g, b, m, v, 0.0), rtol=1e-11, atol=1e-13)
    assert int(layer.num_batches_tracked) == 12


def test_a_deviation_below_the_layers_eps_is_refused():
    g, b, m, _ = parts()
    state = {"weight": g, "bias": b, "running_mean": m, "running_std": np.full(C, 1e-3)}
    with pytest.raises(ValueError, match=r"goes down to 0\.001, and with eps=1e-05 .* smaller eps"):
        nw.load_foreign(nn.BatchNorm2d(C), state, source="ludvb")


def test_an_affine_layer_of_detectron2_is_just_that():
    g, b, *_ = parts()
    layer = nn.BatchNorm2d(C).double()
    nw.load_foreign(layer, {"weight": g, "bias": b}, source="detectron2")
    by = (1, C, 1, 1)
    np.testing.assert_allclose(outputs(layer), X * g.reshape(by) + b.reshape(by), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("source", "said", "momentum"),
    [
        ("keras", {"epsilon": 2e-3, "momentum": 0.97}, 0.03),
        ("flax", {"epsilon": 2e-3, "momentum": 0.9}, 0.1),
        ("haiku", {"eps": 2e-3, "decay_rate": 0.999}, 0.001),
        ("timm", {"eps": 2e-3, "momentum": 0.3}, 0.3),
    ],
)
@pytest.mark.parametrize("kind", LAYERS[:3])
def test_eps_and_momentum_are_set_where_the_state_says_them(source, said, momentum, kind):
    g, b, m, v = parts()
    layer = kind(C).double()
    old = layer.eps, layer.momentum
    result = nw.load_foreign(layer, STATES[source](g, b, m, v) | said, source=source)
    assert (layer.eps, layer.momentum) == (2e-3, momentum) == (result.rows[0].eps, result.rows[0].momentum)
    np.testing.assert_allclose(outputs(layer), inference(X, g, b, m, v, 2e-3), rtol=1e-11, atol=1e-13)
    assert result.undo() is layer
    assert (layer.eps, layer.momentum) == old
    assert_close(layer.running_var, torch.ones(C).double(), rtol=0, atol=0)


def test_other_defaults_are_told_and_not_set():
    layer = nn.BatchNorm2d(C)
    result = nw.load_foreign(layer, STATES["keras"](*parts()), source="keras")
    assert (layer.eps, layer.momentum) == (1e-5, 0.1)
    assert "the state has no eps: the source's default is 0.001, the layer has 1e-05" in result.rows[0].reason
    assert "no momentum: the source's default is 0.01" in result.rows[0].reason
    told = nw.load_foreign(nn.BatchNorm2d(C, 1e-3, 0.01), STATES["keras"](*parts()), source="keras")
    assert told.rows[0].reason is None
    assert "1 of 1 layers loaded from keras" in str(result)


@pytest.mark.parametrize("missing", ["gamma", "beta"])
def test_a_layer_without_gamma_or_beta_says_so(missing):
    g, b, m, v = parts()
    state = {"gamma": g, "beta": b, "moving_mean": m, "moving_variance": v}
    del state[missing]
    flag = {"gamma": "scale", "beta": "center"}[missing]
    layer = nn.BatchNorm2d(C).double()
    nn.init.uniform_(layer.weight)
    with pytest.raises(ValueError, match=f"no {missing} .* say '{flag}': False"):
        nw.load_foreign(layer, state, source="keras")
    nw.load_foreign(layer, state | {flag: False}, source="keras")
    g, b = (np.ones(C), b) if missing == "gamma" else (g, np.zeros(C))
    np.testing.assert_allclose(outputs(layer), inference(X, g, b, m, v, 1e-5), rtol=1e-11, atol=1e-13)


def test_layer_and_group_norm():
    g, b, *_ = parts()
    x = RNG.normal(1, 2, (4, C))
    layer = nn.LayerNorm(C, eps=1e-6).double()
    nw.load_foreign(layer, {"params": {"LayerNorm_0": {"scale": g, "bias": b}}}, source="flax")
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6) * g + b
    np.testing.assert_allclose(outputs(layer, x), expected, rtol=1e-10)
    group = nw.GroupNorm(1, C).double()
    nw.load_foreign(group, {"gamma": g, "beta": b, "epsilon": 1e-3}, source="keras")
    m, v = (f(X, axis=(1, 2, 3)).reshape(-1, 1, 1, 1) for f in (np.mean, np.var))
    by = (1, C, 1, 1)
    expected = (X - m) / np.sqrt(v + 1e-3) * g.reshape(by) + b.reshape(by)
    np.testing.assert_allclose(outputs(group), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torch_tensors_of_any_dtype(dtype):
    state = {name: torch.rand(C).to(dtype) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    layer = nn.BatchNorm2d(C)
    nw.load_foreign(layer, state, source="keras")
    assert_close(layer.running_var, state["moving_variance"].float(), rtol=0, atol=0)
    assert_close(layer.weight.detach(), state["gamma"].float(), rtol=0, atol=0)


def conv_nhwc(x, kernel):
    """A valid cross-correlation of ``[N, H, W, in]`` with ``[kh, kw, in, out]``, tap by tap."""
    kh, kw = kernel.shape[:2]
    h, w = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    return sum(x[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(kh) for j in range(kw))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(C, 4, (3, 2), bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.bn(self.conv(x)).mean((2, 3)))


def keras_net(names=("conv", "bn", "head")):
    conv, bn, head = names
    state = {f"{conv}/kernel:0": RNG.normal(size=(3, 2, C, 4)), f"{bn}/gamma:0": RNG.normal(size=4)}
    state |= {f"{bn}/beta:0": RNG.normal(size=4), f"{bn}/moving_mean:0": RNG.normal(size=4)}
    state |= {f"{bn}/moving_variance:0": RNG.uniform(1, 2, 4)}
    return state | {f"{head}/kernel:0": RNG.normal(size=(4, 3)), f"{head}/bias:0": RNG.normal(size=3)}


@pytest.mark.parametrize("names", [("conv", "bn", "head"), ("conv2d_3", "batch_normalization", "dense/dense")])
def test_a_net_with_its_kernels(names):
    state = keras_net(names)
    net = Net().double()
    result = nw.load_foreign(net, state, source="keras")
    kernel, g, b, m, v, head, bias = state.values()
    y = conv_nhwc(X.transpose(0, 2, 3, 1), kernel)
    y = g * (y - m) / np.sqrt(v + 1e-3) + b
    np.testing.assert_allclose(outputs(net), y.mean((1, 2)) @ head + bias, rtol=1e-11, atol=1e-13)
    assert [row.name for row in result.rows] == ["conv", "bn", "head"]
    assert "Flatten" in result.rows[2].reason


@pytest.mark.parametrize("name", ["depthwise_kernel", "kernel"])
def test_depthwise_kernels(name):
    """Keras 2 and Keras 3 call them differently."""
    kernel = RNG.normal(size=(3, 3, C, 2))
    conv = nn.Conv2d(C, 2 * C, 3, groups=C, bias=False).double()
    nw.load_foreign(conv, {name: kernel}, source="keras")
    each = [conv_nhwc(X[:, c, :, :, None], kernel[:, :, c : c + 1]) for c in range(C)]
    np.testing.assert_allclose(outputs(conv), np.concatenate(each, -1).transpose(0, 3, 1, 2), rtol=1e-11, atol=1e-13)


def test_layout_channels_first_takes_kernels_as_torch_has_them():
    kernel = RNG.normal(size=(4, C, 3, 2))
    conv = nn.Conv2d(C, 4, (3, 2), bias=False).double()
    nw.load_foreign(conv, {"kernel": kernel}, source="keras", layout="channels_first")
    assert_close(conv.weight.detach().numpy(), kernel, rtol=0, atol=0)
    with pytest.raises(ValueError, match="read as channels_last"):
        nw.load_foreign(conv, {"kernel": kernel}, source="keras")


def test_two_layers_of_one_shape_need_names():
    net = nn.Sequential(nn.BatchNorm2d(C), nn.ReLU(), nn.BatchNorm2d(C)).double()
    first, second = parts(), parts()
    keys = ("gamma", "beta", "moving_mean", "moving_variance")

    def state(a, b):
        pairs = ((a, first), (b, second))
        return {f"{name}/{key}": v for name, values in pairs for key, v in zip(keys, values, strict=True)}

    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"bn_a has the name of no layer, and the shape \[5\] of \(0, 2\), .* rename it"
    ):
        nw.load_foreign(net, state("bn_a", "bn_b"), source="keras")
    assert_close(net.state_dict(), before, rtol=0, atol=0)
    nw.load_foreign(net, state("2", "0"), source="keras")
    y = np.maximum(inference(X, *second, 1e-5), 0)
    np.testing.assert_allclose(outputs(net), inference(y, *first, 1e-5), rtol=1e-11, atol=1e-13)


def test_an_old_checkpoint_of_torch_from_data_parallel():
    net, other = Net(), Net()
    state = {f"module.{k}": torch.rand_like(v) for k, v in other.state_dict().items() if v.is_floating_point()}
    nw.load_foreign(net, state, source="torch<0.4.1")
    loaded = {f"module.{k}": v for k, v in net.state_dict().items() if v.is_floating_point()}
    assert_close(loaded, state, rtol=0, atol=0)


def test_what_is_of_no_such_layer_is_told():
    net = nn.Sequential(nn.Embedding(3, 2), nn.BatchNorm1d(2))
    state = {"0.weight": np.ones((3, 2)), "step": 3}
    state |= {f"1.{k}": v for k, v in STATES["timm"](*(p[:2] for p in parts())).items()}
    rows = nw.load_foreign(net, state, source="timm").rows
    assert [(row.name, row.outcome) for row in rows] == [("1", "loaded"), ("", "left"), ("", "left")]
    assert "Embedding" in rows[1].reason


G, B, M, V = parts()
FULL = {"gamma": G, "beta": B, "moving_mean": M, "moving_variance": V}
WRONG = [
    ({k: v for k, v in FULL.items() if k != "moving_variance"}, "no moving_variance for BatchNorm2d"),
    ({("moving_varianc" if k == "moving_variance" else k): v for k, v in FULL.items()}, "is moving_varianc meant"),
    (FULL | {"gamma": np.ones(4)}, r"gamma of the state has the shape \[4\], and BatchNorm2d needs \[5\]"),
    (FULL | {"gamma": np.ones((5, 5))}, r"\[5, 5\]"),
    (FULL | {"moving_mean": M * np.nan}, "moving_mean has 5 values that are NaN or infinite"),
    (FULL | {"moving_variance": V * np.inf}, "NaN or infinite"),
    (FULL | {"moving_variance": -V}, "moving_variance of BatchNorm2d is negative in 5 channels"),
    (FULL | {"epsilon": -1.0}, "epsilon must be one number from 0 to 1"),
    (FULL | {"momentum": 99.0}, "momentum must be one number from 0 to 1"),
    (STATES["timm"](G, B, M, V), "the names of source='timm' or 'detectron2' or 'torch<0.4.1'"),
    ({}, "empty"),
    ({f"{p}/{k}": v for p in "ab" for k, v in FULL.items()}, r"2 normalization layer\(s\) \(a, b\)"),
]


@pytest.mark.parametrize(("state", "message"), WRONG, ids=range(len(WRONG)))
@pytest.mark.parametrize("kind", LAYERS[:2])
def test_wrong_states_change_nothing(kind, state, message):
    layer = kind(C)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        nw.load_foreign(layer, state, source="keras")
    assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert (layer.eps, layer.momentum) == (1e-5, 0.1)


def test_wrong_arguments():
    layer = nn.BatchNorm2d(C)
    with pytest.raises(ValueError, match=r"received 'Keras'; is 'keras' meant\?"):
        nw.load_foreign(layer, FULL, source="Keras")
    with pytest.raises(ValueError, match="layout must be one of 'auto'"):
        nw.load_foreign(layer, FULL, source="keras", layout="NHWC")
    with pytest.raises(TypeError, match="state must be a dict of names to arrays, received list"):
        nw.load_foreign(layer, [*FULL.values()], source="keras")
    with pytest.raises(TypeError, match="gamma must be an array of real numbers, received str"):
        nw.load_foreign(layer, FULL | {"gamma": "ones"}, source="keras")
    for unfit in (torch.ones(C).to_sparse(), np.ones(C) * 1j, None, torch.ones(C, device="meta")):
        with pytest.raises(TypeError, match=r"gamma must be an? (dense tensor|array) of real numbers, received"):
            nw.load_foreign(layer, FULL | {"gamma": unfit}, source="keras")
    with pytest.raises(TypeError, match=r"load_foreign expects a torch\.nn\.Module"):
        nw.load_foreign("layer", FULL, source="keras")
    with pytest.raises(ValueError, match="nothing in the state"):
        nw.load_foreign(nn.ReLU(), {"step": 1}, source="keras")


def test_layers_without_a_place_for_what_the_state_says():
    with pytest.raises(ValueError, match="no such parameter; build the layer with affine=True"):
        nw.load_foreign(nn.BatchNorm2d(C, affine=False), FULL, source="keras")
    with pytest.raises(ValueError, match="build the layer with track_running_stats=True"):
        nw.load_foreign(nn.BatchNorm2d(C, track_running_stats=False), FULL, source="keras")
    layer = nn.BatchNorm2d(C, affine=False)
    nw.load_foreign(layer, FULL | {"gamma": np.ones(C), "beta": np.zeros(C)}, source="keras")
    assert_close(layer.running_mean, torch.from_numpy(M).float())


def test_a_failure_in_the_last_layer_leaves_the_first_alone():
    net, state = Net(), keras_net()
    state["head/kernel:0"] = np.ones((5, 3))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"kernel of head is \[3, 5\] as torch has it, .* head \(Linear\) is \[3, 4\]"):
        nw.load_foreign(net, state, source="keras")
    assert_close(net.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [nw.SwitchableNorm2d, lambda c: nw.ConditionalBatchNorm2d(c, 3)])
def test_layers_with_parameters_of_their_own_are_left(kind):
    net = nn.Sequential(kind(C), nn.BatchNorm2d(C))
    rows = nw.load_foreign(net, {f"1/{k}": v for k, v in FULL.items()}, source="keras").rows
    assert [(row.name, row.outcome) for row in rows] == [("1", "loaded"), ("0", "left")]
    with pytest.raises(ValueError, match="has parameters that no other framework's state has"):
        nw.load_foreign(net[0], FULL, source="keras")


def test_a_layer_that_the_state_does_not_have():
    net = nn.Sequential(nn.BatchNorm2d(C), nn.BatchNorm2d(C))
    with pytest.raises(ValueError, match=r"nothing for the normalization layers \(1\); pass them too"):
        nw.load_foreign(net, {f"0/{k}": v for k, v in FULL.items()}, source="keras")


def test_the_source_whose_names_these_are_is_named():
    state = {"weight": G, "bias": B, "running_mean": M, "running_std": V}
    with pytest.raises(ValueError, match=r"no running_var .*; these are the names of source='ludvb'"):
        nw.load_foreign(nn.BatchNorm2d(C), state, source="timm")


def test_tensors_of_inference_mode_are_refused():
    with torch.inference_mode():
        layer = nn.BatchNorm2d(C)
    with pytest.raises(ValueError, match="was made in inference mode; build the layer outside"):
        nw.load_foreign(layer, FULL, source="keras")


def test_tied_parameters_take_one_value():
    net = nn.ModuleDict({"a": nn.BatchNorm2d(C), "b": nn.BatchNorm2d(C)})
    net["b"].weight = net["a"].weight
    state = {f"{p}/{k}": v + (p == "b") for p in "ab" for k, v in FULL.items()}
    with pytest.raises(ValueError, match=r"a\.weight and b\.weight are one tensor"):
        nw.load_foreign(net, state, source="keras")


def test_parameters_stay_the_objects_that_they_are():
    layer = nn.BatchNorm2d(C)
    layer.bias.requires_grad_(False)
    weight, bias = layer.weight, layer.bias
    nw.load_foreign(layer, FULL, source="keras")
    assert (layer.weight is weight, layer.bias is bias) == (True, True)
    assert (weight.requires_grad, bias.requires_grad, layer.training) == (True, False, True)
    assert F.mse_loss(layer.weight, torch.from_numpy(G).float()) == 0

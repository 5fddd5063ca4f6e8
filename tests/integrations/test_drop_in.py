"""Details in which a drop-in is torch's layer: keywords, strides, expanded weights, torch.fx around a net."""

import itertools

import pytest
import torch
from torch import nn
from torch.func import jvp, vjp, vmap
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.testing import assert_close

import normwise as nw
from normwise.functional import Running, batch_norm, evo_norm_b0, layer_norm, switchable_norm

# torch itself compiles its forward-mode rules with torch.jit.script on their first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
LAYERS = {
    "BatchNorm1d": ((4,), {}, (3, 4, 5)),
    "BatchNorm2d": ((4,), {}, (3, 4, 5, 5)),
    "BatchNorm3d": ((4,), {}, (3, 4, 2, 3, 3)),
    "InstanceNorm1d": ((4,), {"affine": True}, (3, 4, 5)),
    "InstanceNorm2d": ((4,), {"affine": True}, (3, 4, 5, 5)),
    "InstanceNorm3d": ((4,), {"affine": True}, (3, 4, 2, 3, 3)),
    "GroupNorm": ((2, 4), {}, (3, 4, 5, 5)),
    "LayerNorm": ((7,), {}, (3, 5, 7)),
    "RMSNorm": ((7,), {}, (3, 5, 7)),
}


def twins(name):
    arguments, options, shape = LAYERS[name]
    ours, theirs = (getattr(home, name)(*arguments, **options) for home in (nw, nn))
    for p in ours.parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(shape)


@pytest.mark.parametrize("name", LAYERS)
def test_torchs_keyword(name):
    ours, theirs, x = twins(name)
    keyword = "x" if name == "RMSNorm" else "input"
    assert_close(ours(**{keyword: x}), theirs(**{keyword: x}))


@pytest.mark.parametrize("dims", [2, 3, 4, 5])
@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm_keeps_the_strides_that_torch_keeps(dims, affine):
    shape = (2, 3, 4, 5, 7)[-dims:]
    options = {"elementwise_affine": affine}
    ours, theirs = nw.RMSNorm(7, **options), nn.RMSNorm(7, **options)
    for order in itertools.permutations(range(dims)):
        for gaps in (1, 2):
            whole = torch.randn([shape[axis] * gaps for axis in order])
            x = whole[tuple(slice(None, None, gaps) for _ in order)].permute([order.index(i) for i in range(dims)])
            assert ours(x).stride() == theirs(x).stride()
            assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith(("Instance", "Group", "Layer"))])
def test_per_sample_gradients_by_expanded_weights(name):
    ours, theirs, x = twins(name)
    cotangent = torch.randn_like(x)
    for layer in (ours, theirs):
        (call_for_per_sample_grads(layer, loss_reduction="sum")(x) * cotangent).sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad_sample.shape[0] == 3
        assert_close(mine.grad_sample, other.grad_sample)


@pytest.mark.parametrize("layer", [nw.BatchNorm2d(4), nw.RMSNorm(5), nw.LayerNorm2d(4)], ids=lambda m: type(m).__name__)
def test_expanded_weights_where_torch_has_none(layer):
    with pytest.raises(TypeError, match=r"torch.func.vmap"):
        call_for_per_sample_grads(layer, loss_reduction="sum")(torch.randn(3, 4, 5, 5))


GIVEN = {
    "batch": lambda x, s, w: batch_norm(x, s, w)[0],
    "switchable": lambda x, s, w: switchable_norm(x, torch.ones(3).double(), torch.ones(3).double(), s, w)[0],
    "evo": lambda x, s, w: evo_norm_b0(x, torch.ones(3).double(), s, w)[0],
}


@pytest.mark.parametrize("name", GIVEN)
def test_given_statistics_are_constants_in_every_mode(name):
    """torch: an error for a tangent of running statistics."""
    function, batches = GIVEN[name], torch.tensor(0)
    x, tangent = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    mean, var, weight = torch.randn(3).double(), torch.rand(3).double() + 0.5, torch.randn(3).double()

    def call(x, mean, var, weight):
        return function(x, Running(mean, var, batches), weight)

    zero = torch.zeros(3).double()
    still = jvp(call, (x, mean, var, weight), (tangent, zero, zero, weight))
    assert_close(jvp(call, (x, mean, var, weight), (tangent, mean, var, weight)), still)
    gradients = vjp(call, x, mean, var, weight)[1](tangent)
    assert_close(gradients[1:3], (zero, zero))
    together = [t.expand(2, *t.shape) for t in (x, mean, var, weight)]
    assert_close(vjp(vmap(call), *together)[1](tangent.expand(2, *tangent.shape))[0][1], gradients[0])

    def of_x(x, weight):
        return call(x, mean, var, weight)

    leaves = (x.requires_grad_(), weight.requires_grad_())
    modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(of_x, leaves, **modes)
    assert torch.autograd.gradgradcheck(of_x, leaves, check_batched_grad=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_nets_are_traced_symbolically(training):
    for net in (nw.nets.resnet(8, "batch"), nw.nets.skipinit_resnet(18, 10), nw.nets.nf_resnet26(num_classes=10)):
        net.train(training)
        graph, x = torch.fx.symbolic_trace(net), torch.randn(2, 3, 32, 32)
        expected = []
        for model in (net, graph):
            torch.manual_seed(0)
            expected.append(model(x))
        assert_close(*expected)
        assert not any("_tensor_constant" in name for name, _ in graph.named_buffers())


def test_a_fake_tensor_behind_its_mode():
    from torch._subclasses import FakeTensorMode

    mode, layer = FakeTensorMode(), nw.BatchNorm2d(4)
    own = {name: mode.from_tensor(t.detach()) for name, t in layer.state_dict().items()}
    y = torch.func.functional_call(layer, own, mode.from_tensor(torch.randn(2, 4, 5, 5)))
    assert y.shape == (2, 4, 5, 5)


def test_a_backward_pass_under_a_mode_that_sees_operations():
    """Behind a forward pass that nobody looked at."""
    from torch.utils.flop_counter import FlopCounterMode

    layer, x = nw.BatchNorm2d(4), torch.randn(2, 4, 5, 5, requires_grad=True)
    cotangent = torch.randn_like(x)
    y = layer(x)
    with FlopCounterMode(display=False):
        (seen,) = torch.autograd.grad(y, x, cotangent, retain_graph=True)
    assert_close(seen, torch.autograd.grad(y, x, cotangent)[0])


@pytest.mark.onnx
@pytest.mark.filterwarnings("ignore")  # the older exporter is deprecated
@pytest.mark.parametrize(
    "layer", [nw.LayerNorm(5), nw.RMSNorm(5), nw.LayerNorm2d(4), nw.RMSNorm2d(4)], ids=lambda m: type(m).__name__
)
def test_the_older_exporter_to_onnx(layer, tmp_path):
    """Sizes of a row are constants there, and it knows no rms_norm (torch's own layer fails)."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model, path = nn.Sequential(layer, nn.ReLU()).eval(), tmp_path / "model.onnx"
    names = {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    torch.onnx.export(model, (torch.randn(2, 4, 5, 5),), path, **names)
    session, x = onnxruntime.InferenceSession(path), torch.randn(3, 4, 5, 5)
    assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model(x), rtol=1e-5, atol=1e-5)


def test_a_bias_without_a_weight_has_a_second_derivative():
    """torch's layer_norm raises there."""
    x, bias = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)

    def call(x, bias):
        return layer_norm(x, [5], None, bias)

    leaves = (x.requires_grad_(), bias.requires_grad_())
    assert torch.autograd.gradgradcheck(call, leaves)

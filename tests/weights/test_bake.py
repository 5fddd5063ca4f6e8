"""Writing normalized weights out: bit for bit, in place, refusing what would change something else."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations as torchs
from torch.nn.utils import parametrize
from torch.testing import assert_close

from normwise.weights import (
    Baked,
    ScaledWSConv1d,
    ScaledWSConv2d,
    WSConv2d,
    bake,
    scaled_weight_standardization,
    spectral_norm,
    weight_standardization,
)


def everything():
    """One layer of each kind, trained for a few steps."""
    model = nn.Sequential(
        WSConv2d(3, 4, 3),
        nn.ReLU(),
        ScaledWSConv2d(4, 4, 3, gamma="relu"),
        weight_standardization(nn.Conv2d(4, 4, 3, groups=2)),
        scaled_weight_standardization(nn.ConvTranspose2d(4, 4, 3, groups=2)),
        spectral_norm(nn.Conv2d(4, 4, 3)),
        spectral_norm(nn.Conv2d(4, 4, 3), operator=True),
        torchs.spectral_norm(nn.Conv2d(4, 4, 3)),
        spectral_norm(weight_standardization(nn.Conv2d(4, 2, 3))),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 20, 20)).square().mean().backward()
        optimizer.step()
    return model


REPORT = [
    Baked("0.weight", "weight standardization"),
    Baked("2.weight", "scaled weight standardization"),
    Baked("3.weight", "weight standardization"),
    Baked("4.weight", "scaled weight standardization"),
    Baked("5.weight", "spectral norm"),
    Baked("6.weight", "operator norm"),
    Baked("7.weight", "torch spectral norm"),
    Baked("8.weight", "weight standardization + spectral norm"),
]


def test_outputs_stay_bit_for_bit_and_everything_is_plain():
    model = everything().eval()
    x = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        before = model(x)
        assert bake(model) == REPORT
        assert torch.equal(model(x), before)
    plain = {nn.Sequential, nn.ReLU, nn.Conv2d, nn.ConvTranspose2d}
    assert {type(m) for m in model.modules()} == plain
    assert {k.split(".")[-1] for k in model.state_dict()} == {"weight", "bias"}
    fresh = nn.Sequential(*(nn.ReLU() if i == 1 else copy.deepcopy(m) for i, m in enumerate(model)))
    fresh.load_state_dict(model.state_dict())
    buffer = io.BytesIO()
    torch.save(model, buffer)  # parametrized modules cannot be pickled; baked ones can
    assert bake(model) == []


def test_a_model_in_training_is_baked_as_evaluation_sees_it():
    model = everything()
    x = torch.randn(2, 3, 20, 20)
    expected = copy.deepcopy(model).eval()(x)
    bake(model)
    assert all(m.training for m in model.modules())
    assert torch.equal(model.eval()(x), expected)


def test_identity_hooks_flags_and_gradients_are_kept():
    conv, linear = ScaledWSConv1d(3, 4, 3), spectral_norm(nn.Linear(4, 2))
    model = nn.ModuleDict({"conv": conv, "linear": linear}).train()
    conv.eval()
    conv.weight.requires_grad_(False)
    parameters = {"conv": conv.weight, "linear": linear.parametrizations.weight.original}
    linear.parametrizations.weight.original.grad = torch.ones(2, 4)
    calls = []
    conv.register_forward_hook(lambda *_: calls.append("conv"))
    linear.register_forward_pre_hook(lambda *_: calls.append("linear"))
    bake(model)
    assert model["conv"] is conv
    assert conv.weight is parameters["conv"]
    assert linear.weight is parameters["linear"]
    assert not conv.weight.requires_grad
    assert linear.weight.requires_grad
    assert linear.weight.grad is not None
    assert not conv.training
    assert linear.training
    conv(torch.randn(1, 3, 5)), linear(torch.randn(1, 4))
    assert calls == ["conv", "linear"]
    assert vars(conv).keys() == vars(nn.Conv1d(3, 4, 3)).keys()


def test_a_shared_module_is_baked_once_and_stays_shared():
    shared = WSConv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.Sequential(shared, spectral_norm(nn.Conv2d(3, 3, 3)))).eval()
    x = torch.randn(1, 3, 6, 6)
    before = model(x)
    assert bake(model) == [Baked("0.weight", "weight standardization"), Baked("1.1.weight", "spectral norm")]
    assert model[0] is model[1][0]
    assert torch.equal(model(x), before)


def test_the_model_itself_and_other_names():
    cell = spectral_norm(nn.LSTMCell(3, 4), "weight_hh").eval()
    x = torch.randn(2, 3)
    before = cell(x)
    assert bake(cell) == [Baked("weight_hh", "spectral norm")]
    assert_close(cell(x), before, rtol=0, atol=0)
    conv = WSConv2d(3, 4, 3)
    assert bake(conv) == [Baked("weight", "weight standardization")]
    assert type(conv) is nn.Conv2d


def test_copies_of_a_baked_model_keep_working():
    """Deep copies share the class that carries the parametrized property."""
    model = nn.Sequential(spectral_norm(nn.Linear(4, 4))).eval()
    x = torch.randn(2, 4)
    before = model(x)
    bake(copy.deepcopy(model))
    assert torch.equal(model(x), before)
    assert parametrize.is_parametrized(model[0])


class Halve(nn.Module):
    def forward(self, weight):
        return weight / 2


def test_other_parametrizations():
    """Another's tensor of the same module stays parametrized; another's change of our tensor is refused."""
    layer = spectral_norm(nn.Linear(4, 3)).eval()
    parametrize.register_parametrization(layer, "bias", Halve())
    halved = parametrize.register_parametrization(nn.Linear(3, 3), "weight", Halve())
    model = nn.Sequential(layer, halved)
    x = torch.randn(2, 4)
    before = model(x)
    assert bake(model) == [Baked("0.weight", "spectral norm")]
    assert_close(model(x), before, rtol=0, atol=0)
    assert parametrize.is_parametrized(layer, "bias")
    assert not parametrize.is_parametrized(layer, "weight")
    assert parametrize.is_parametrized(model[1], "weight")
    mixed = nn.Sequential(WSConv2d(3, 4, 3), spectral_norm(nn.Conv2d(4, 4, 3)))
    parametrize.register_parametrization(mixed[1], "weight", Halve())
    with pytest.raises(ValueError, match=r"1\.weight is also parametrized by Halve.*remove that parametrization"):
        bake(mixed)
    assert type(mixed[0]) is WSConv2d


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("normalize", "kind"),
    [
        (torchs.weight_norm, "torch weight norm"),
        (lambda layer: torchs.weight_norm(layer, dim=None), "torch weight norm"),
        (nn.utils.weight_norm, "torch weight norm"),
        (nn.utils.spectral_norm, "torch spectral norm"),
    ],
    ids=["parametrization", "whole", "hook", "spectral-hook"],
)
@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 4, 3), lambda: nn.ConvTranspose2d(3, 4, 3, groups=1)])
def test_torchs_own_weight_and_spectral_norm(normalize, kind, make):
    model = nn.Sequential(normalize(make()))
    handle = model[0].register_forward_pre_hook(lambda *_: None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 9, 9)).square().mean().backward()
    optimizer.step()
    model.eval()
    x = torch.randn(2, 3, 9, 9)
    before = model(x).detach()
    assert bake(model) == [Baked("0.weight", kind)]
    assert torch.equal(model(x), before)
    assert sorted(model.state_dict()) == ["0.bias", "0.weight"]
    assert set(map(id, model.parameters())) <= {id(p) for p in optimizer.param_groups[0]["params"]}
    fresh = nn.Sequential(make())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), before)
    handle.remove()
    assert not model[0]._forward_pre_hooks


def test_models_that_share_with_this_one_keep_their_values():
    """By a copy's class, a parameter held twice, memory held twice, or a state_dict that was kept."""
    model = nn.Sequential(spectral_norm(nn.Linear(4, 4)), WSConv2d(3, 4, 3)).eval()
    twin = nn.Linear(4, 4)
    twin.weight = model[0].parametrizations.weight.original
    assigned = copy.deepcopy(model)
    assigned.load_state_dict(model.state_dict(), assign=True)
    kept = model.state_dict()
    before = copy.deepcopy([twin.state_dict(), assigned.state_dict(), kept])
    x = torch.randn(2, 4)
    expected = model[0](x)
    bake(model)
    assert_close([twin.state_dict(), assigned.state_dict(), kept], before, rtol=0, atol=0)
    assert torch.equal(model[0](x), expected)
    assert torch.equal(assigned[0](x), expected)


def test_a_failure_half_way_leaves_the_model_as_it_was(monkeypatch):
    model = everything().eval()
    kept, kinds = copy.deepcopy(model.state_dict()), [type(m) for m in model]
    hooks = nn.utils.spectral_norm(nn.Linear(20, 20))
    model.append(hooks)

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(next(iter(hooks._forward_pre_hooks.values())), "compute_weight", fail)
    with pytest.raises(KeyboardInterrupt):
        bake(model)
    assert [type(m) for m in model][:-1] == kinds
    assert_close({k: v for k, v in model.state_dict().items() if k in kept}, kept, rtol=0, atol=0)
    assert [k for k in model.state_dict() if not k.startswith("9.")] == [*kept]


def test_shared_tensors_are_refused_and_nothing_changes():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), WSConv2d(3, 3, 3))
    model[1].weight = model[0].weight
    spectral_norm(model[1])
    kept = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"shared by 0\.weight and 1\.weight"):
        bake(model)
    assert_close(model.state_dict(), kept, rtol=0, atol=0)
    assert type(model[2]) is WSConv2d
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), spectral_norm(nn.Linear(2, 2)))
    tied[1].weight = tied[0].weight  # tied weights that nothing normalizes are no obstacle
    assert bake(tied) == [Baked("2.weight", "spectral norm")]


def test_subclasses_and_other_arguments_are_refused():
    class Doubled(WSConv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match=r"0 is a Doubled, a subclass with behaviour of its own"):
        bake(nn.Sequential(Doubled(3, 3, 3)))
    with pytest.raises(TypeError, match="bake expects a module, received list"):
        bake([nn.Linear(2, 2)])


@pytest.mark.onnx
@pytest.mark.parametrize("baked", [pytest.param(True, marks=pytest.mark.slow), False], ids=["baked", "as-it-is"])
def test_onnx_runtime_agrees_and_the_graph_has_no_training_nodes(baked, tmp_path):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = everything().eval()
    if not baked:
        model = nn.Sequential(*(model[i] for i in (0, 1, 2, 3, 4, 5, 8))).eval()  # ONNX has no eigenvalues
    x = torch.randn(2, 3, 20, 20)
    expected = model(x).detach().numpy()
    if baked:
        bake(model)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    types = [node.op_type for node in onnx.load(path).graph.node]
    if baked:
        assert set(types) == {"Conv", "ConvTranspose", "Relu"}
    assert not {"BatchNormalization", "InstanceNormalization", "Dropout"} & set(types)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(torch.from_numpy(actual), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)

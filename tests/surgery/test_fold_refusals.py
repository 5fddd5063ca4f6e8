"""What fold leaves alone, with which reason, and models and examples that it cannot take."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from surgery_nets import SharedConv, Twice, TwoReaders, error, in_fp64, outcomes, reasons, trained
from torch import nn
from torch.nn.utils import parametrize

import normwise as nw

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def conv_and_norm(**options):
    return trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **options)))


def with_(change, **options):
    net = conv_and_norm(**options)
    change(net)
    return net


class Halve(nn.Module):
    def forward(self, weight):
        return weight / 2


class OwnForward(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).abs()


class Plain(nn.Module):
    """A convolution and a normalizer, and a subclass that does something between them."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)


class Stashing(Plain):
    def forward(self, x):
        self.features = self.conv(x)
        return self.norm(self.features)


class Returning(Plain):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y), y


class InPlace(Plain):
    def forward(self, x):
        return self.norm(F.relu(self.conv(x), inplace=True))


class Functional(Plain):
    def forward(self, x):
        return self.norm(self.conv(x)) + F.conv2d(x, self.conv.weight)


class Attribute(Plain):
    """Reads what only the normalizer has."""

    def forward(self, x):
        return self.norm(self.conv(x)) * self.norm.num_features


class Direct(Plain):
    def forward(self, x):
        return self.norm.forward(self.conv(x))


class Label(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nw.ConditionalBatchNorm2d(4, 3)

    def forward(self, x):
        return self.norm(self.conv(x), torch.zeros(len(x), dtype=torch.long))


KEPT = {
    "training": (lambda: with_(lambda net: net.train()), "training mode"),
    "no statistics": (lambda: conv_and_norm(track_running_stats=False), "no running statistics"),
    "instance": (lambda: trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4))), "no running statistics"),
    "nan": (lambda: with_(lambda net: net[1].running_mean.fill_(float("nan"))), "not finite"),
    "infinite": (lambda: with_(lambda net: net[1].running_var.fill_(float("inf"))), "not finite"),
    "negative": (lambda: with_(lambda net: net[1].running_var.fill_(-1.0)), "negative"),
    "gradient": (lambda: with_(lambda net: net[1].running_mean.requires_grad_()), "require a gradient"),
    "hook on the norm": (lambda: with_(lambda net: net[1].register_forward_hook(lambda *_: None)), "hooks"),
    "backward hook": (lambda: with_(lambda net: net[0].register_full_backward_hook(lambda *_: None)), "hooks"),
    "pre-hook": (lambda: with_(lambda net: net[0].register_forward_pre_hook(lambda *_: None)), "hooks"),
    "own forward": (lambda: trained(nn.Sequential(nn.Conv2d(3, 4, 3), OwnForward(4))), "OwnForward has a forward"),
    "own conv": (lambda: trained(nn.Sequential(OwnConv(3, 4, 3), nn.BatchNorm2d(4))), "OwnConv has a forward"),
    "patched": (lambda: with_(lambda net: vars(net[0]).update(forward=net[0].forward)), "forward of its own"),
    "parametrized": (
        lambda: with_(lambda net: parametrize.register_parametrization(net[0], "weight", Halve())),
        "Halve",
    ),
    "shared conv": (SharedConv, "called 2 times"),
    "two readers": (TwoReaders, "also read by"),
    "stashed": (Stashing, "keeps it after the run"),
    "returned": (Returning, "the caller, as the model's output"),
    "in place": (InPlace, "also read by relu"),
    "weight read": (Functional, "also read by convolution"),
    "attribute": (Attribute, "without it the model fails: AttributeError"),
    "direct call": (Direct, "the example never calls it"),
    "condition": (Label, "comes with each call"),
    "mixture": (
        lambda: trained(nn.Sequential(nn.Conv2d(3, 4, 3), nw.SwitchableNorm2d(4))),
        "also uses the statistics of its input",
    ),
}


@pytest.mark.parametrize("case", KEPT)
@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "in-place"])
def test_a_fold_that_would_change_something_is_left_with_its_reason(case, inplace):
    make, reason = KEPT[case]
    torch.manual_seed(0)
    net = trained(make()) if isinstance(make, type) else make()
    before = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    modes, children = [m.training for m in net.modules()], [*net.modules()]
    result = nw.fold(net, X, inplace=inplace)
    assert set(outcomes(result).values()) == {"kept"}
    assert all(reason in said for said in reasons(result).values()), reasons(result)
    assert [m.training for m in net.modules()] == modes
    assert [*net.modules()] == children
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0, equal_nan=True)
    assert (result.model is net) == inplace


def test_tied_weights_called_twice_and_other_dimensions():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    net[2].weight = net[0].weight
    assert "shares its parameters" in reasons(nw.fold(trained(net), torch.randn(2, 4, 9, 9)))["1"]
    assert "called 2 times" in reasons(nw.fold(trained(Twice()), torch.randn(2, 4, 9, 9)))["bn"]
    alone = trained(nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)))
    sample = torch.randn(3, 8)  # one sample without a batch: BatchNorm1d takes it for six samples
    assert "dimension 0" in reasons(nw.fold(alone, sample))["1"]
    unbatched = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)))
    assert outcomes(nw.fold(unbatched, torch.randn(3, 8, 8))) == {"1": "folded"}


def test_a_hook_that_sees_the_signal_on_its_way():
    body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))
    net = trained(body)
    assert outcomes(nw.fold(net, X)) == {"1": "folded"}
    net[0].register_forward_hook(lambda *_: None)
    assert "the hooks of 0" in reasons(nw.fold(net, X))["1"]


def test_a_weight_that_would_overflow():
    net = conv_and_norm().half()
    net[1].running_var.fill_(0)
    with torch.no_grad():
        net[1].weight.fill_(6e4)
    assert "not be finite" in reasons(nw.fold(net, X.half()))["1"]


def test_a_second_example_that_goes_another_way():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) if len(x) > 1 else y

    net = trained(Branch())
    assert outcomes(nw.fold(net, X)) == {"norm": "folded"}
    assert "output would move" in reasons(nw.fold(net, X, check=X[:1]))["norm"]


class Noisy(Plain):
    """Draws from a generator of its own, which nobody can seed from outside."""

    generator = np.random.default_rng(0)

    def forward(self, x):
        return self.norm(self.conv(x)) + float(self.generator.random())


class Packed(torch.Tensor):
    """A weight that is kept in a form of its own, as quantized ones are."""


def test_a_model_that_does_not_repeat_itself_and_a_weight_of_another_kind():
    assert outcomes(nw.fold(trained(Noisy()), X)) == {"norm": "folded"}
    net = conv_and_norm()
    net[0].weight = nn.Parameter(net[0].weight.detach().as_subclass(Packed))
    assert "its weight is a Packed" in reasons(nw.fold(net, X, inplace=True))["1"]


def test_others_are_folded_where_one_cannot_be():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
            self.strange, self.last = Attribute(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
            self.strange.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.last(self.strange(self.first(x)))

    net = trained(Net())
    result = nw.fold(net, X)
    assert outcomes(result) == {"first.1": "folded", "strange.norm": "kept", "last.1": "folded"}
    assert error(result.model(X), in_fp64(net, X)) < 1e-5


class Unrunnable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.interrupted = False

    def forward(self, x):
        if self.interrupted:
            raise KeyboardInterrupt
        return self.body(x)


@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "in-place"])
def test_an_example_that_the_model_does_not_take_and_an_interruption(inplace):
    net = trained(Unrunnable())
    before = copy.deepcopy(net.state_dict())
    wrong = X.repeat(1, 2, 1, 1)
    generator, hooks = torch.get_rng_state(), [len(m._forward_hooks) for m in net.modules()]
    with pytest.raises(ValueError, match=r"Unrunnable does not take the example: RuntimeError: .*expected input"):
        nw.fold(net, wrong, inplace=inplace)
    for example, kind in (("text", "str"), (None, "NoneType"), ((), "tuple")):
        with pytest.raises(ValueError, match=f"fold: the example must be a tensor, a tuple .* received {kind}"):
            nw.fold(net, example, inplace=inplace)
    net.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        nw.fold(net, X, inplace=inplace)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [len(m._forward_hooks) for m in net.modules()] == hooks
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("at", range(1, 9))
def test_an_interruption_at_any_run_leaves_the_model_as_it_was(at, monkeypatch):
    net = trained(Unrunnable())
    net.body.append(nw.spectral_norm(nn.Conv2d(4, 4, 3)).eval()).append(nn.BatchNorm2d(4).eval())
    kinds, before = [type(m) for m in net.modules()], copy.deepcopy(net.state_dict())
    runs = iter(range(at))

    def forward(module, x):
        if next(runs, None) is None:
            raise KeyboardInterrupt
        return module.body(x)

    monkeypatch.setattr(Unrunnable, "forward", forward)
    with pytest.raises(KeyboardInterrupt):
        nw.fold(net, X, inplace=True)
    assert [type(m) for m in net.modules()] == kinds
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"into": "behind"}, ValueError, "into must be 'before', 'after' or both, received 'behind'"),
        ({"standalone": "scale"}, ValueError, "standalone must be 'keep' or 'affine', received 'scale'"),
    ],
)
def test_wrong_options(options, kind, said):
    with pytest.raises(kind, match=said):
        nw.fold(conv_and_norm(), X, **options)


def test_models_that_cannot_be_worked_on():
    net = conv_and_norm()
    with pytest.raises(TypeError, match="wraps the model for several devices"):
        nw.fold(nn.DataParallel(net), X)
    with pytest.raises(ValueError, match="on the meta device"):
        nw.fold(copy.deepcopy(net).to("meta"), X)
    with pytest.raises(TypeError, match="is compiled; pass the model from before"):
        nw.fold(torch.compile(net, backend="eager"), X)


def test_a_model_without_normalizers_and_one_that_cannot_be_copied():
    result = nw.fold(nn.Sequential(nn.Conv2d(3, 4, 3)), X)
    assert (result.rows, result.max_error) == ([], 0.0)
    net = conv_and_norm()
    net.cache = (n for n in range(3))
    with pytest.raises(ValueError, match=r"Sequential cannot be copied .*; write inplace=True"):
        nw.fold(net, X)
    assert outcomes(nw.fold(net, X, inplace=True)) == {"1": "folded"}


def test_an_example_with_nan_and_an_empty_batch():
    net = conv_and_norm()
    x = X.clone()
    x[0, 0, 0, 0] = float("nan")
    assert outcomes(nw.fold(net, x)) == {"1": "folded"}
    assert outcomes(nw.fold(net, X[:0])) == {"1": "folded"}

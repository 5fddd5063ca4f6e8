"""Models with transforms of torch.func inside, and models that are graphs of operations."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw

# torch itself compiles its forward-mode rules with torch.jit.script on their first use, and unflattens with its own old
# names.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]


class Mapped(nn.Module):
    """A module for each sample by itself, in the middle of a model."""

    def __init__(self):
        super().__init__()
        self.first, self.each, self.last = (
            nn.Conv2d(3, 4, 3),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()),
            nn.Linear(4, 2),
        )

    def forward(self, x):
        x = self.first(x)
        return self.last((torch.vmap(self.each)(x) + x).mean((2, 3)))


class Energy(nn.Module):
    """The gradient of a module, in forward and reverse mode."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nw.LayerNorm(3)

    def forward(self, x):
        def energy(x):
            return self.norm(self.linear(x)).square().sum()

        return x + torch.func.grad(energy)(x) + torch.func.jvp(self.norm, (x,), (x,))[1]


@pytest.fixture(params=[Mapped, Energy])
def model_and_input(request):
    return request.param(), torch.randn(4, 3, 6, 6) if request.param is Mapped else torch.randn(5, 3)


@pytest.mark.parametrize("backward", [False, True])
def test_trace(model_and_input, backward):
    model, x = model_and_input
    result = nw.trace(model, x, backward=backward)
    if isinstance(model, Mapped):
        assert [tap.name for tap in result.layers] == ["first", "last"]
        assert result.notes == ("Inside torch.vmap nothing is measured: each.",)
        with torch.no_grad():
            y = model.first(x)
        assert result.layers[0].squared_mean == pytest.approx(y.mean((0, 2, 3)).square().mean().item(), rel=1e-4)


def test_diagnose(model_and_input):
    nw.diagnose(*model_and_input)


def test_watch_lets_the_training_go_on(model_and_input):
    model, x = model_and_input
    twin, seen = copy.deepcopy(model), []
    with nw.watch(model, lambda step, trace: seen.append(trace), every=1):
        model(x).square().sum().backward()
    twin(x).square().sum().backward()
    assert len(seen) == 1
    assert bool(seen[0].notes) == isinstance(model, Mapped)
    assert_close([p.grad for p in model.parameters()], [p.grad for p in twin.parameters()])


@pytest.mark.parametrize("norm", [lambda: nw.BatchNorm2d(4), lambda: nw.spectral_norm(nn.Conv2d(4, 4, 1))])
def test_vmap_of_a_watched_model(norm):
    model, xs = nn.Sequential(nn.Conv2d(3, 4, 3), norm()), torch.randn(2, 5, 3, 6, 6)
    model[1].eval()
    expected, seen = torch.stack([model(x) for x in xs]), []
    with nw.watch(model, lambda step, trace: seen.append(trace), every=1):
        assert_close(torch.vmap(model)(xs), expected, rtol=1e-4, atol=1e-5)


def test_an_exported_graph_of_operations_has_no_layers_to_listen_to():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nw.BatchNorm2d(4)).eval(), torch.randn(2, 3, 6, 6)
    program = torch.export.export(model, (x,))
    for call in (nw.trace, nw.diagnose):
        with pytest.raises(TypeError, match=r"GraphModule is a graph of operations.*torch\.export\.unflatten"):
            call(program.module(), x)
    assert [tap.name for tap in nw.trace(torch.export.unflatten(program), x).layers] == ["0", "1"]
    assert [tap.name for tap in nw.trace(torch.fx.symbolic_trace(model), x).layers] == ["0", "1"]

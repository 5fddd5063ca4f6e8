"""Shared modules, odd inputs and outputs, wrapped models, NaN: right, or an error that says what to do."""

import collections
import json

import pytest
import signal_nets as nets
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import normwise as nw


def test_shared_modules_are_taps_of_their_own():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer, layer).double()
    batch = torch.randn(16, 4).double()
    result = nw.trace(model, batch)
    assert [tap.name for tap in result.layers] == ["0", "1", "0#2", "0#3"]
    with torch.no_grad():
        assert result.layers[3].variance == pytest.approx(model(batch).var(0, correction=0).mean().item(), rel=1e-12)


def test_dictionaries_and_keywords():
    model = nets.Dictionaries()
    batch = {"left": torch.randn(8, 4), "right": torch.randn(8, 3)}
    result = nw.trace(model, batch, backward=True)
    assert [tap.name for tap in result.layers] == ["a", "b"]
    assert all(tap.gradient > 0 for tap in result.layers)
    assert nw.trace(model, collections.OrderedDict(batch, options=[1, "x"])).taps == nw.trace(model, batch).taps


def test_a_dictionary_as_one_argument():
    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, batch):
            return (self.layer(batch["x"]), [batch["y"]])

    assert nw.trace(Takes(), {"x": torch.randn(3, 4), "y": 5}).layers[0].shape == (3, 2)


def test_named_tuples_stay_named():
    Pair = collections.namedtuple("Pair", "x y")

    class Takes(nn.Module):
        def forward(self, pair):
            return pair.x + pair.y

    assert nw.trace(Takes(), (Pair(torch.ones(2, 3), torch.ones(2, 3)),)).layers[0].shape == (2, 3)


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(3, 4, 5)

    def forward(self, a, b, scale=1.0):
        return self.layer(a, b) * scale


def test_several_inputs():
    pair = torch.randn(8, 3), torch.randn(8, 4)
    expected = nw.trace(Bilinear(), pair)
    assert expected.layers[0].shape == (8, 5)
    assert nw.trace(Bilinear(), (*pair, 2.0)).batches == 1
    # A loader's list: the arguments that the model requires, without the targets.
    assert nw.trace(Bilinear(), [*pair, torch.arange(8)]).layers[0].shape == (8, 5)


def test_loaders():
    x, y = torch.randn(20, 6), torch.arange(20)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).double()
    loader = DataLoader(TensorDataset(x.double(), y), batch_size=8)
    state = torch.get_rng_state()
    result = nw.trace(model, loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert (result.batches, result.input) == (3, "a loader")
    with torch.no_grad():
        expected = model(x.double()).var(0, correction=0).mean().item()
    assert result.layers[1].variance == pytest.approx(expected, rel=1e-12)
    assert nw.trace(model, loader, batches=2).batches == 2
    endless = (x[:4].double() for _ in iter(int, 1))
    assert nw.trace(model, endless).batches == 8
    labels = nw.trace(model, loader, forward=lambda m, batch: nn.functional.cross_entropy(m(batch[0]), batch[1] % 4))
    assert labels.layers[1].variance == result.layers[1].variance


def test_batches_of_changing_shape():
    """Lengths may change, channels may not."""
    conv = nn.Conv1d(3, 4, 1)
    result = nw.trace(conv, iter([torch.randn(2, 3, 5), torch.randn(2, 3, 9)]))
    assert result.layers[0].shape == (2, 4, 5)
    assert result.notes == ()
    flat = nn.Flatten()
    result = nw.trace(flat, iter([torch.randn(2, 3, 5), torch.randn(2, 3, 9)]))
    assert result.notes == ("Only the first batch counts where channels change: Flatten.",)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(nn.Conv1d(3, 4, 3)), "Gaussian 8×3×1024"),
        (nn.Sequential(nn.Conv2d(1, 4, 3, 8)), "Gaussian 8×1×224×224"),
        (nn.Sequential(nn.Conv3d(1, 2, 3, 8)), "Gaussian 8×1×16×112×112"),
        (nn.Sequential(nn.Linear(5, 4)), "Gaussian 64×5"),
        (nn.GRU(5, 4), "Gaussian 8×32×5"),
        (nn.TransformerEncoderLayer(8, 2, 16), "Gaussian 8×32×8"),
        (nn.Embedding(7, 3), "random tokens 8×32"),
    ],
)
def test_default_input(model, expected):
    result = nw.trace(model)
    assert result.input == expected
    assert result.layers


def test_default_input_of_timm():
    model = nn.Conv2d(4, 4, 3)
    model.default_cfg = {"input_size": (4, 10, 12)}
    assert nw.trace(model).input == "Gaussian 8×4×10×12"


def test_inputs_that_cannot_be_chosen():
    with pytest.raises(ValueError, match="cannot find the input shape of ReLU; pass a batch as input"):
        nw.trace(nn.ReLU())
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(
        ValueError, match=r"chose noise as the input of Sequential \(Gaussian 8×3×224×224\).*pass input="
    ):
        nw.trace(small)
    with pytest.raises(TypeError, match=r"input must be a tensor, .* received int"):
        nw.trace(small, 3)
    with pytest.raises(TypeError, match="received str"):
        nw.trace(small, "images")
    with pytest.raises(ValueError, match="The loader has no batches"):
        nw.trace(small, iter([]))


def test_errors_of_the_model_are_its_own():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        nw.trace(nn.Linear(3, 4), torch.randn(2, 5))


def test_one_value_per_channel():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nw.trace(nn.BatchNorm1d(3), torch.randn(1, 3))
    assert nw.trace(nn.Linear(3, 3), torch.randn(1, 3)).layers[0].dead_share == 0


def test_no_output_to_start_from():
    with pytest.raises(ValueError, match=r"trace\(backward=True\): no output of Linear has a gradient"):
        nw.trace(nn.Linear(3, 3), (4, 3), backward=True, forward=lambda model, x: model(x).argmax())


def test_values_that_are_not_finite():
    class Breaks(nn.Module):
        def forward(self, x):
            x = x.clone()
            x[0, 0], x[1, 1] = float("nan"), float("inf")
            return x

    model = nn.Sequential(Breaks(), nn.Linear(3, 3), nn.ReLU())
    result = nw.trace(model, (50, 3), backward=True, histograms=True)
    first, broken = result.layers[:2]
    assert first.nonfinite == 2
    assert first.variance == pytest.approx(1, abs=0.5)
    assert broken.nonfinite == 6
    assert broken.variance > 0
    assert sum(first.histogram.counts) == 148
    assert "2 NaN" in result.table()
    assert nw.Trace.from_json(result.to_json()) == result
    everywhere = nw.trace(model, torch.full((4, 3), float("nan"))).layers[0]
    assert everywhere.variance != everywhere.variance
    json.loads(nw.trace(model, torch.full((4, 3), float("nan"))).to_json(), parse_constant=pytest.fail)


def test_dead_units():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with torch.no_grad():
        model[0].bias[:] = torch.tensor([-100.0, 0, 0, 0])
    assert [tap.dead_share for tap in nw.trace(model).layers] == [0, 0.25]


def test_compiled_models_run_uncompiled():
    compiled = []

    def backend(graph, example):
        compiled.append(graph)
        return graph.forward

    model = nets.NormFreeNet()
    batch = torch.randn(2, 3, 8, 8)
    expected = nw.trace(model, batch).taps
    whole = torch.compile(model, backend=backend)
    assert nw.trace(whole, batch).taps == expected
    assert compiled == []
    whole(batch)
    before = len(compiled)
    assert before > 0
    assert nw.trace(whole, batch, backward=True).blocks[0].name == "blocks.0"
    whole(batch)
    assert len(compiled) == before, "the hooks are gone, so nothing has to be compiled again"
    model.blocks[1] = torch.compile(model.blocks[1], backend=backend)
    assert nw.trace(model, batch).taps == expected
    model.compile(backend=backend)
    assert nw.trace(model, batch).taps == expected
    assert len(compiled) == before, "parts that are compiled run as they were written, too"


def test_wrapped_in_parallel():
    model = nets.ResNet()
    expected = nw.trace(model, (2, 3, 16, 16)).taps
    assert nw.trace(nn.DataParallel(model), (2, 3, 16, 16)).taps == expected


def test_wrapped_in_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nets.ResNet()
        expected = nw.trace(model, (2, 3, 16, 16), backward=True).taps
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert nw.trace(wrapped, (2, 3, 16, 16), backward=True).taps == expected
        # Neither waits for other processes, nor asks for a GPU as in training.
        synchronized = nw.trace(nn.SyncBatchNorm.convert_sync_batchnorm(model), (2, 3, 16, 16))
        assert [t.variance for t in synchronized.taps] == [t.variance for t in expected]
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
def test_scripted_models():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(TypeError, match=r"runs in TorchScript, .* trace the model from before torch.jit.script"):
        nw.trace(scripted, (2, 3))
    inside = nn.Sequential(
        nn.Linear(3, 3), torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))), nn.ReLU()
    )
    inside.train()
    result = nw.trace(inside, (8, 3))
    assert [tap.name for tap in result.layers] == ["0", "2"]
    assert result.notes == ("3 modules run in TorchScript and are not examined inside.",)
    assert inside[1].training


def test_exported_and_traced_graphs():
    model = nets.NormFreeNet()
    batch = torch.randn(2, 3, 8, 8)
    graph = torch.fx.symbolic_trace(model.eval())
    assert [t.variance for t in nw.trace(graph, batch).blocks] == [t.variance for t in nw.trace(model, batch).blocks]


def test_models_without_values():
    with pytest.raises(ValueError, match="weight is not initialized yet; run the lazy model once"):
        nw.trace(nn.LazyLinear(3), (2, 3))
    with pytest.raises(ValueError, match="weight is on the meta device"):
        nw.trace(nn.Linear(3, 3, device="meta"), (2, 3))
    with pytest.raises(TypeError, match=r"trace expects a torch.nn.Module, received function"):
        nw.trace(lambda x: x, (2, 3))


def test_parametrized_weights_are_no_layers():
    model = nn.Sequential(nw.scaled_weight_standardization(nn.Conv2d(3, 4, 3)), nn.ReLU())
    result = nw.trace(model, (4, 3, 8, 8))
    assert [(tap.name, tap.type) for tap in result.layers] == [("0", "Conv2d"), ("1", "ReLU")]


def test_checkpointed_blocks():
    class Checkpointed(nets.NormFreeNet):
        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
            return self.fc(x.mean((2, 3)))

    model = Checkpointed()
    plain = nets.NormFreeNet()
    plain.load_state_dict(model.state_dict())
    expected = nw.trace(plain, (2, 3, 8, 8))
    result = nw.trace(model, (2, 3, 8, 8), backward=True)
    assert [t.name for t in result.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    assert [t.variance for t in result.blocks] == [t.variance for t in expected.blocks]
    assert all(t.gradient > 0 for t in result.blocks)


def test_a_model_that_catches_its_own_errors():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.broken = nn.Linear(9, 9)
            self.good = nn.Linear(3, 3)

        def forward(self, x):
            try:
                return self.broken(x)
            except RuntimeError:
                return x + self.good(x)

    result = nw.trace(Careful(), (4, 3))
    assert [tap.name for tap in result.taps] == ["good", "Careful", "Careful"]


def test_memory_does_not_grow_with_the_input():
    """What a trace keeps of an activation are tables of its channels."""
    from normwise.signal.forward_pass import ForwardPass

    model = nets.UNet()
    with torch.no_grad(), ForwardPass(model, {}) as watched:
        model(torch.randn(4, 1, 32, 32))
    held = [
        t.numel()
        for sighting in watched.sightings
        for t in (*sighting.reading.table[:2],)
        if isinstance(t, torch.Tensor)
    ]
    assert max(held) == 8
    alive = [ref() for ref, _, _ in watched._flow._known.values()]
    constants = {id(t) for t in watched._flow._constants}
    assert all(t is None or id(t) in constants or t.numel() < 4 * 32 * 32 for t in alive)

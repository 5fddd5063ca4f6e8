"""What `recalibrate` leaves alone, takes back and refuses."""

import copy
import warnings

import pytest
import torch
from recalibration import fingerprint, net, photographs, surroundings, unwarned
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

import normwise as nw


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def used_net():
    model = net()
    model[5] = spectral_norm(model[5])  # its vectors move with each forward pass in training
    model(photographs(8))
    model[1].eval()
    model[6].register_forward_hook(lambda module, arguments, output: None)
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("upstream", ["batch", "running"])
def test_only_the_norm_buffers_change(upstream):
    model, x = used_net(), photographs(20, seed=1)
    before, around, old = fingerprint(model), surroundings(), state(model)
    with unwarned(), torch.enable_grad():
        nw.recalibrate(model, DataLoader(TensorDataset(x), batch_size=6, shuffle=True), upstream=upstream)
    assert fingerprint(model) == before
    assert surroundings() == around
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, old[name])}
    assert changed == {f"{n}.{key}" for n in (1, 6) for key in ("running_mean", "running_var", "num_batches_tracked")}
    assert all(p.grad is None for p in model.parameters())


def test_the_batches_are_not_changed():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(3))
    loader = [photographs(8)]
    before = loader[0].clone()
    with unwarned():
        nw.recalibrate(model, loader, upstream="running")
    assert_close(loader[0], before, rtol=0, atol=0)


@pytest.mark.parametrize("upstream", ["batch", "running"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["loader", "model", "warning"])
def test_after_any_exception_all_is_as_it_was(error, place, upstream):
    model = used_net()

    class Loader(list):
        def __iter__(self):
            yield from super().__iter__()
            if place == "loader":
                raise error

    calls = []

    def forward(model, batch):
        torch.rand(1)
        calls.append(1)
        if place == "model" and len(calls) == 2:
            raise error
        return model(batch)

    before, around, old = fingerprint(model), surroundings(), state(model)
    kind = UserWarning if place == "warning" else error
    loader = Loader([photographs(8), photographs(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("error" if place == "warning" else "ignore")
        with pytest.raises(kind):
            nw.recalibrate(model, loader, forward=forward, upstream=upstream)
    assert fingerprint(model) == before
    assert surroundings() == around
    assert_close(state(model), old, rtol=0, atol=0)


def test_undo_gives_the_old_statistics_back_once():
    model = used_net()
    old = state(model)
    with unwarned():
        first = nw.recalibrate(model, [photographs(20)])
        second = nw.recalibrate(model, [photographs(20, seed=3)])
    with pytest.raises(ValueError, match=r"recalibrate cannot be undone: 1.running_mean has been changed since"):
        first.undo()
    second.undo()
    assert first.undo() is model
    assert_close(state(model), old, rtol=0, atol=0)
    with pytest.raises(ValueError, match="nothing left to undo"):
        first.undo()


def test_wrecked_statistics_are_mended_and_not_blended():
    model, x = used_net(), photographs(30)
    for layer in (model[1], model[6]):
        layer.running_var.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"old statistics of 1 hold NaN .* write blend=1"):
        nw.recalibrate(model, [x], blend=0.5)
    for upstream in ("batch", "running"):
        twin = copy.deepcopy(model)
        with unwarned():
            nw.recalibrate(twin, [x], upstream=upstream)
        assert twin.eval()(x).isfinite().all()


def test_it_warns_in_words_of_few_samples_and_of_a_large_drift():
    layer = nn.BatchNorm1d(2)
    layer(torch.randn(500, 2))
    layer.num_batches_tracked.fill_(1000)
    with pytest.warns(UserWarning, match="recalibrate") as seen:
        result = nw.recalibrate(layer, [torch.randn(10, 2) + 100])
    few, drift = (str(warning.message) for warning in seen)
    assert "Few samples: after 10 the mean" in few
    assert "Large drift: the statistics of layer" in drift
    assert result.notes == (few.removeprefix("recalibrate: "), drift.removeprefix("recalibrate: "))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nw.recalibrate(layer, [torch.randn(4000, 2) + 100]).converged


def test_the_report():
    model = nn.Sequential(nn.BatchNorm1d(2))
    model.unused = nn.BatchNorm1d(2)
    model.forward = lambda x: model[0](x)
    with unwarned():
        result = nw.recalibrate(model, [torch.randn(9, 2)])
    assert [(row.name, row.outcome, row.reason) for row in result.rows] == [
        ("0", "recalibrated", None),
        ("unused", "kept", "was not called"),
    ]
    assert "1 of 2 layers recalibrated by 9 samples in 1 batch" in str(result)
    assert torch.equal(model.unused.running_mean, torch.zeros(2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrapped_models_are_recalibrated_inside():
    x = torch.randn(40, 3) + 2
    inner = nn.Sequential(nn.BatchNorm1d(3))
    with unwarned():
        nw.recalibrate(nn.DataParallel(inner), [x])
        assert_close(inner[0].running_mean, x.mean(0))
        nw.recalibrate(torch.compile(inner, backend="eager"), [x + 1])
    assert_close(inner[0].running_mean, x.mean(0) + 1)


def quantized():
    torch.backends.quantized.engine = "onednn"
    model = nn.Sequential(torch.ao.nn.quantized.Quantize(0.1, 0, torch.quint8), torch.ao.nn.quantized.BatchNorm2d(3))
    return model.eval()


REFUSED = {
    "no module": (lambda: "net", TypeError, "expects a torch.nn.Module, received str"),
    "no layer": (lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), ValueError, "no layer with running statist"),
    "without memory": (lambda: nn.BatchNorm2d(3, track_running_stats=False), ValueError, "no layer with running"),
    "scripted": (lambda: torch.jit.script(nn.BatchNorm2d(3)), TypeError, "TorchScript"),
    "meta": (lambda: nn.BatchNorm2d(3, device="meta"), ValueError, "meta device"),
    "lazy": (lambda: nn.LazyBatchNorm2d(), ValueError, "not initialized yet"),
    "quantized": (quantized, TypeError, "quantized values; pass the model from before quantization"),
    "never called": (lambda: Idle(), ValueError, "none of the 1 layers with running statistics was called"),
}


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per:UserWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_models_that_cannot_be_recalibrated(case):
    make, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        nw.recalibrate(make(), [photographs(4)])


NOT_FINITE = photographs(4)
NOT_FINITE[2, 1, 0, 0] = float("nan")
HUGE = photographs(4).fill_(0)
HUGE[0, 0, 0, 0] = 3e38
ARGUMENTS = {
    "a tensor": (photographs(4), {}, TypeError, r"iterable of batches, received Tensor; write \[batch\]"),
    "a dict": ({"x": photographs(4)}, {}, TypeError, "iterable of batches, received dict"),
    "a number": (3, {}, TypeError, "iterable of batches, received int"),
    "empty": ([], {}, ValueError, "the loader has no batches"),
    "an iterator twice": (iter([photographs(4)]), {"upstream": "running"}, TypeError, r"write list\(loader\)"),
    "NaN": ([photographs(4), NOT_FINITE], {}, ValueError, "batch 2 at 0 holds values that are NaN or infinite"),
    "squares": ([HUGE], {}, ValueError, "batch 1 at 0 holds .* or whose squares are"),
    "channels": ([torch.randn(4, 5, 2, 2)], {}, ValueError, r"0 remembers 3 channels .* is given \[4, 5, 2, 2\]"),
    "method": (
        [NOT_FINITE],
        {"method": "mean"},
        ValueError,
        "method must be 'population' or 'evalnorm', rec",
    ),
    "upstream": ([NOT_FINITE], {"upstream": "old"}, ValueError, "upstream must be 'batch' or 'running', received"),
    "blend": ([NOT_FINITE], {"blend": 1.5}, ValueError, "blend must be from 0 to 1, received 1.5"),
    "steps": ([NOT_FINITE], {"steps": 0}, ValueError, "steps must be at least 1"),
    "forward": ([NOT_FINITE], {"forward": "x"}, TypeError, r"callable as forward\(model, batch\)"),
    "group": ([NOT_FINITE], {"process_group": "all"}, ValueError, "process_group must be 'world'"),
    "single": ([torch.randn(1, 3, 1, 1)], {}, ValueError, "one value per channel.*use larger batches, or upstream"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_do_not_fit(case):
    loader, options, kind, words = ARGUMENTS[case]
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    with pytest.raises(kind, match=words), unwarned():
        nw.recalibrate(model, loader, **options)
    assert torch.equal(model[0].running_mean, torch.zeros(3))


def test_statistics_that_the_buffers_cannot_hold():
    layer = nn.BatchNorm1d(2).half()
    with pytest.raises(ValueError, match=r"do not fit into torch.float16"):
        nw.recalibrate(layer, [(torch.randn(9, 2) * 1000).half()])

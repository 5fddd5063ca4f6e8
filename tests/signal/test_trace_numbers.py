"""Every number of a trace against a direct computation in NumPy on stored fp64 activations, at every tap."""

import copy
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import signal_nets as nets
import torch
from torch import Tensor, nn

import normwise as nw

LAST_INSIDE = r"(norm|pwconv\d|act)$"
# A model, the shape of its input, and the layers whose channels are not on axis 1 of 4 (2 and 1 of 3 and 2) dimensions.
CASES = {
    "resnet": (nets.ResNet, (4, 3, 32, 32), None),
    "channels_last": (lambda: nets.ResNet().to(memory_format=torch.channels_last), (4, 3, 32, 32), None),
    "norm_free": (nets.NormFreeNet, (3, 3, 9, 7), None),
    "convnext": (lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), nets.ConvNextBlock(8)), (4, 3, 16, 16), LAST_INSIDE),
    "vit": (nets.ViT, (4, 3, 16, 16), None),
    "post_norm": (lambda: nn.Sequential(nn.Linear(3, 6), nets.PostNormMlp(6)), (16, 3), None),
    "unet": (nets.UNet, (2, 1, 12, 12), None),
    "lstm": (nets.Tagger, None, None),
    "reversible": (nets.Reversible, (4, 8, 11), r"[fg]$|Reversible"),
    "video": (lambda: nn.Sequential(nn.Conv3d(2, 3, 3), nn.InstanceNorm3d(3), nn.Flatten()), (2, 2, 5, 6, 7), None),
}


def oracle_axis(name, x, unusual):
    if unusual and re.search(unusual, name):
        return 3 if x.ndim == 4 else 1
    return {2: 1, 3: 2}.get(x.ndim, 1)


def oracle_model(model):
    """What the paper measures: everything in evaluation, BatchNorm by the batch."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    return model


def stored_activations(model, batch):
    """(kind, name) -> activation of one plain forward pass, by hooks of our own."""
    found, times, handles = {}, Counter(), []

    def hook_of(name):
        def hook(module, args, output):
            times[name] += 1
            shown = name if times[name] == 1 else f"{name}#{times[name]}"
            for i, x in enumerate(_flat(output)):
                found["layer", f"{shown}[{i}]" if i else shown] = x.detach().clone().numpy()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) or not list(module.children()):
            handles.append(module.register_forward_hook(hook_of(name)))
    with torch.no_grad():
        notes = nets.noted(model, lambda: model(batch))
    for handle in handles:
        handle.remove()
    times.clear()
    for kind, name, x in notes:
        times[kind, name] += 1
        found[kind, name if times[kind, name] == 1 else f"{name}#{times[kind, name]}"] = x.numpy()
    return found


def _flat(output):
    return [output] if isinstance(output, Tensor) else [x for item in output if item is not None for x in _flat(item)]


def channels(x, axis):
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def random_input(shape, samples=None):
    if shape is None:
        return torch.randint(20, (samples or 4, 7))
    return torch.randn(samples or shape[0], *shape[1:], dtype=torch.float64) * 2 + 1


@pytest.fixture(autouse=True)
def _slow_transformer():
    """The fused kernel of torch's encoder layer calls no module, and the oracle listens to modules."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batches", [1, 3])
def test_all_taps(case, batches):
    make, shape, unusual = CASES[case]
    model = make().double()
    data = [random_input(shape, 2 + i) for i in range(batches)]
    result = nw.trace(model, iter(data))

    stored = defaultdict(list)
    reference = oracle_model(model)
    for batch in data:
        for key, x in stored_activations(reference, batch).items():
            stored[key].append(x)
    expected = set(stored)
    if case in ("vit",):
        expected |= {(tap.kind, tap.name) for tap in result.blocks + result.branches}
    assert {(tap.kind, tap.name) for tap in result.taps} == expected
    assert result.batches == batches
    for tap in result.taps:
        if (tap.kind, tap.name) not in stored:
            continue
        parts = stored[tap.kind, tap.name]
        axis = oracle_axis(tap.name if tap.kind == "layer" else "", parts[0], unusual)
        if case == "convnext" and tap.kind == "branch":
            axis = 3
        if case == "reversible":
            axis = 1
        assert tap.shape == parts[0].shape
        assert tap.channel_axis == axis, tap.name
        values = np.concatenate([channels(x, axis) for x in parts], 1)
        np.testing.assert_allclose(
            tap.squared_mean, (values.mean(1) ** 2).mean(), rtol=1e-11, atol=1e-28, err_msg=tap.name
        )
        np.testing.assert_allclose(tap.variance, values.var(1).mean(), rtol=1e-11, atol=1e-28, err_msg=tap.name)
        assert tap.dead_share == pytest.approx(np.mean(np.ptp(values, 1) == 0))
        assert tap.nonfinite == 0
        assert tap.gradient is None


def test_transformer_blocks_by_hand():
    """torch's own encoder layer cannot take notes; its two sums are written out here."""
    model = nets.ViT().double().eval()
    batch = random_input((4, 3, 16, 16))
    seen = {}
    layer = model.encoder.layers[0]
    layer.register_forward_hook(lambda module, args, output: seen.update(x=args[0].clone(), y=output.clone()))
    with torch.no_grad():
        model(batch)
        x = seen["x"]
        y = layer.norm1(x)
        attention = layer.self_attn(y, y, y, need_weights=False)[0]
        middle = x + attention
        mlp = layer.linear2(torch.relu(layer.linear1(layer.norm2(middle))))
    torch.testing.assert_close(middle + mlp, seen["y"])
    result = nw.trace(model, batch)
    for tap, x in zip(result.blocks[:2] + result.branches[:2], (middle, seen["y"], attention, mlp), strict=True):
        values = channels(x.numpy(), 2)
        np.testing.assert_allclose(tap.variance, values.var(1).mean(), rtol=1e-11)
        np.testing.assert_allclose(tap.squared_mean, (values.mean(1) ** 2).mean(), rtol=1e-11)
    assert [tap.name for tap in result.blocks[:2]] == ["encoder.layers.0", "encoder.layers.0#2"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_types_are_measured_as_they_are(dtype):
    """The statistics of bf16 activations are those of their values, accumulated in fp32."""
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU()).to(dtype)
    batch = torch.randn(64, 5, dtype=dtype)
    with torch.no_grad():
        expected = model(batch).double().numpy()
    tap = nw.trace(model, batch).layers[1]
    assert tap.variance == pytest.approx(expected.var(0).mean(), rel=1e-5)
    assert tap.squared_mean == pytest.approx((expected.mean(0) ** 2).mean(), rel=1e-5)


def test_running_statistics_instead_of_the_batch():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double().eval()
    model[1].running_mean.fill_(2)
    model[1].running_var.fill_(4)
    batch = random_input((8, 3, 5, 5))
    with torch.no_grad():
        expected = channels(model(batch).numpy(), 1)
    by_memory = nw.trace(model, batch, batch_statistics=False).layers[1]
    assert by_memory.variance == pytest.approx(expected.var(1).mean(), rel=1e-11)
    by_batch = nw.trace(model, batch).layers[1]
    assert by_batch.variance == pytest.approx(1, rel=1e-3)
    assert by_batch.squared_mean < 1e-20


@pytest.mark.parametrize("norm", ["batch", "sync", "renorm", "switchable", "instance", "evo-b0"])
def test_our_normalizers_measure_the_batch(norm):
    """As in training: the oracle is the layer itself in training mode."""
    layer = nw.make_norm(norm, 4, rank=2)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layer)
    batch = torch.randn(8, 3, 5, 5) * 3 + 1
    result = nw.trace(model.eval(), batch).layers[1]
    reference = copy.deepcopy(model).train()
    if norm == "sync":
        reference[1].process_group = None  # alone
    with torch.no_grad():
        expected = channels(reference(batch).numpy().astype(np.float64), 1)
    assert result.variance == pytest.approx(expected.var(1).mean(), rel=1e-5)
    assert not layer.training
    if layer.running_mean is not None:
        assert layer.running_mean.eq(0).all()


def test_our_normalizers_remember_nothing_of_a_trace():
    """Neither what they saw nor that it was not finite, and later batches are measured as the first."""
    model, broken = nn.Sequential(nw.BatchRenorm2d(4)), torch.full((4, 4, 2, 2), float("nan"))
    nw.trace(model, broken)
    assert model[0].policy.skipped == 0
    batch = torch.randn(8, 4, 3, 3) * 3 + 1
    model[0].running_mean.fill_(0.5)
    model[0].num_batches_tracked.fill_(100_000)  # past its warm-up, where the memory takes part
    once, often = nw.trace(model, batch), nw.trace(model, iter([batch] * 5))
    assert once.layers[0].variance == pytest.approx(often.layers[0].variance, rel=1e-6)


def test_a_frozen_normalizer_stays_frozen():
    layer = nw.BatchNorm2d(3)
    nw.freeze(layer)
    batch = torch.randn(8, 3, 4, 4) * 5
    tap = nw.trace(nn.Sequential(layer), batch).layers[0]
    assert tap.variance == pytest.approx(batch.var((0, 2, 3), correction=0).mean().item(), rel=1e-4)


def test_skip_gain():
    model = nets.NormFreeNet().double()
    batch = random_input((4, 3, 8, 8))
    zero, one = nw.trace(model, batch), nw.trace(model, batch, skip_gain=1)
    assert zero.branches[0].variance == one.branches[0].variance
    assert zero.blocks[2].variance == zero.blocks[0].variance
    changed = copy.deepcopy(model)
    for block in changed.blocks:
        block.skip_gain.gain.data.fill_(1)
    assert one.taps == nw.trace(changed, batch).taps
    assert nw.trace(nets.ResNet(), (2, 3, 16, 16), skip_gain=1).notes == (
        "skip_gain=1: the model has no SkipInit gain.",
    )


def test_stochastic_depth_and_dropout():
    model = nn.Sequential(nets.NormFreeBlock(3, 3, 1.0, False), nn.Dropout(0.5)).train()
    batch = torch.randn(64, 3, 4, 4)
    off = nw.trace(model, batch, skip_gain=1)
    assert off.taps == nw.trace(model, batch, skip_gain=1).taps
    assert off.layers[-1].variance == off.blocks[0].variance
    on = nw.trace(model, batch, skip_gain=1, stochastic_depth=True)
    assert on.branches[0] == off.branches[0]
    assert on.blocks[0].variance != off.blocks[0].variance
    assert on.layers[-1].variance == on.blocks[0].variance


def test_gradients():
    model = nets.ResNet().double()
    batch, target = random_input((4, 3, 32, 32)), torch.tensor([0, 1, 2, 3])

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    result = nw.trace(model, (batch, target), forward=loss, backward=True)
    reference, kept = oracle_model(model), {}
    for module in reference.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # an activation overwritten in place keeps no gradient of its own
    names = {m: n for n, m in reference.named_modules()}

    def keep(module, args, output):
        key = names[module]
        key = f"{key}#{sum(k.split('#')[0] == key for k in kept) + 1}" if key in kept else key
        output.retain_grad()
        kept[key] = output

    for module in reference.modules():
        if not list(module.children()):
            module.register_forward_hook(keep)
    loss(reference, (batch, target)).backward()
    assert len(result.layers) == len(kept)
    for tap in result.layers:
        if not re.search(r"bn3$", tap.name):  # overwritten by `out += identity` there, too
            np.testing.assert_allclose(tap.gradient, kept[tap.name].grad.square().mean().item(), rtol=1e-10)
    for name in ("layer1.0", "layer1.1"):
        # The gradient of a sum is that of its summands.
        block, branch = (next(t for t in taps if t.name == name) for taps in (result.blocks, result.branches))
        assert branch.gradient == pytest.approx(block.gradient, rel=1e-12)
    downsampled = kept["layer1.0.downsample.1"].grad.square().mean().item()
    assert result.blocks[0].gradient == pytest.approx(downsampled, rel=1e-10)


def test_gradients_of_the_default_cotangent():
    """A linear map: the gradient's mean square is that of the weights times a standard normal cotangent."""
    model = nn.Sequential(nn.Linear(40, 30, bias=False), nn.Linear(30, 200, bias=False)).double()
    result = nw.trace(model, (2000, 40), backward=True)
    expected = model[1].weight.square().sum(0).mean().item()
    assert result.layers[1].gradient == pytest.approx(1, rel=0.02)
    assert result.layers[0].gradient == pytest.approx(expected, rel=0.05)


def test_gradients_over_batches_are_pooled():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    data = [random_input((1, 3), n) for n in (2, 5)]
    pooled = nw.trace(model, iter(data), backward=True, forward=lambda m, x: m(x).sum())
    together = nw.trace(model, torch.cat(data), backward=True, forward=lambda m, x: m(x).sum())
    for a, b in zip(pooled.taps, together.taps, strict=True):
        assert a.gradient == pytest.approx(b.gradient, rel=1e-12)
        assert a.variance == pytest.approx(b.variance, rel=1e-12)


def test_frozen_parameters_and_integer_inputs_have_gradients():
    model = nets.Tagger().requires_grad_(False)
    result = nw.trace(model, backward=True)
    assert all(tap.gradient > 0 for tap in result.layers if tap.name in ("tokens", "lstm", "out"))


def test_gradients_begin_before_an_operation_in_place():
    model = nn.Sequential(nn.Embedding(9, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).requires_grad_(False)
    result = nw.trace(model, torch.randint(9, (3, 5)), backward=True)
    assert all(tap.gradient > 0 for tap in result.layers)


def test_vanishing_and_exploding_signals():
    """Far outside of what fp32 can square."""
    for scale in (1e-25, 1e25):
        model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
        with torch.no_grad():
            model[0].weight.mul_(scale)
            expected = model[0](batch := torch.randn(32, 8)).double().var(0, correction=0).mean().item()
        tap = nw.trace(model, batch).layers[0]
        assert tap.variance == pytest.approx(expected, rel=1e-5)
        assert tap.dead_share == 0
        assert tap.nonfinite == 0


def test_gradients_too_small_to_square():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
    result = nw.trace(model, (4, 8), backward=True, forward=lambda m, x: m(x).sum() * 1e-30)
    assert 0 < result.layers[1].gradient == pytest.approx(1e-60, rel=1e-4)

"""`mask=`: a padded batch has the statistics, running statistics and gradients of the data without padding."""

import pytest
import torch
from layer_cases import MAP_CASES, by_the_paper, gradients, ids, randomize
from torch import nn
from torch.testing import assert_close

import normwise as nw

SPATIAL = [case for case in MAP_CASES if case.rank > 0]
PER_SAMPLE = [case for case in SPATIAL if case.family != "BatchNorm"]


def random_mask(case):
    """At least two values in each sample; a different number in each."""
    mask = torch.rand(case.shape[0], *case.shape[2:]) < torch.linspace(0.3, 0.8, case.shape[0]).reshape(
        (-1,) + (1,) * case.rank
    )
    mask.view(case.shape[0], -1)[:, :2] = True
    return mask


def masked_input(case, mask, padding):
    x = torch.randn(case.shape, dtype=torch.float64)
    return x.masked_fill(~mask.unsqueeze(1), padding).requires_grad_()


def without_padding(case, mask):
    """The same layer from torch on the valid values alone, one call for each pool of samples: (layer, calls).

    A call takes x and gives the valid values as torch's layer wants them, [samples, C, values].
    """
    if case.family == "BatchNorm":
        return [lambda x: x.movedim(1, -1)[mask].t()[None]]
    return [lambda x, n=n: x[n, :, mask[n]][None] for n in range(case.shape[0])]


def twin_of(case, ours):
    """torch's layer for [N, C, L], in float64, with the parameters and buffers of ours."""
    one_d = {"BatchNorm": nn.BatchNorm1d, "InstanceNorm": nn.InstanceNorm1d, "GroupNorm": nn.GroupNorm}[case.family]
    twin = one_d(*case.args, **case.options).double()
    twin.load_state_dict(ours.state_dict())
    return twin


PADDING = pytest.mark.parametrize("padding", [0.0, 1e30, torch.inf, torch.nan], ids=str)


@PADDING
@pytest.mark.parametrize("channel_dimension", [False, True], ids=["[N,*]", "[N,1,*]"])
@pytest.mark.parametrize("case", SPATIAL, ids=ids)
def test_outputs_and_gradients_are_those_of_the_unpadded_data(case, channel_dimension, padding, backend):
    ours = randomize(case.build()).double()
    twin = twin_of(case, ours)
    mask = random_mask(case)
    x = masked_input(case, mask, padding)
    with backend():
        y = ours(x, mask=mask.unsqueeze(1) if channel_dimension else mask)
    calls = without_padding(case, mask)
    found = torch.cat([call(y).flatten(1) for call in calls], dim=-1) if len(calls) == 1 else None
    expected = [twin(call(x)) for call in calls]
    for call, truth in zip(calls, expected, strict=True):
        assert_close(call(y), truth, rtol=1e-9, atol=1e-9)
    assert found is None or torch.isfinite(found).all()

    cotangent = torch.randn(case.shape, dtype=torch.float64) * mask.unsqueeze(1)
    found = gradients(y, [x, *ours.parameters()], cotangent)
    inputs = [x, *twin.parameters()]
    parts = [gradients(truth, inputs, call(cotangent)) for call, truth in zip(calls, expected, strict=True)]
    for grad, truth in zip(found, map(sum, zip(*parts, strict=True)), strict=True):
        assert_close(grad, truth, rtol=1e-8, atol=1e-8)


@PADDING
@pytest.mark.parametrize("case", [case for case in SPATIAL if case.remembers], ids=ids)
def test_running_statistics_are_those_of_the_unpadded_data(case, padding, backend):
    ours = randomize(case.build()).double()
    twin = twin_of(case, ours)
    for _ in range(3):
        mask = random_mask(case)
        x = masked_input(case, mask, padding)
        calls = without_padding(case, mask)
        with backend():
            ours(x, mask=mask)
        if len(calls) == 1:
            twin(calls[0](x))
        else:  # the average over the samples of what each alone would bring
            _average_of_samples(twin, [call(x) for call in calls])
    assert_close(ours.running_mean, twin.running_mean, rtol=1e-10, atol=1e-10)
    assert_close(ours.running_var, twin.running_var, rtol=1e-10, atol=1e-10)
    assert ours.num_batches_tracked == 3


def _average_of_samples(twin, samples):
    before = {name: buffer.clone() for name, buffer in twin.named_buffers()}
    after = []
    for sample in samples:
        twin.load_state_dict(before, strict=False)
        twin(sample)
        after.append((twin.running_mean.clone(), twin.running_var.clone()))
    twin.running_mean, twin.running_var = (torch.stack(t).mean(0) for t in zip(*after, strict=True))


@pytest.mark.parametrize("case", SPATIAL, ids=ids)
def test_all_values_are_normalized(case, backend):
    """The padding, too, by the statistics of the valid values: the paper's equation with another pool."""
    ours = randomize(case.build()).double()
    mask = random_mask(case)
    x = torch.randn(case.shape, dtype=torch.float64)
    with backend():
        assert_close(ours(x, mask=mask), torch.from_numpy(by_the_paper(case, ours, x, mask)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "gelu", "softplus"])
@pytest.mark.parametrize("case", SPATIAL, ids=ids)
def test_nothing_leaks_through_the_residual_and_the_activation(case, activation, backend):
    layer = randomize(case.build(activation=activation)).double()
    mask = random_mask(case)
    results = []
    for padding in (0.0, torch.nan):
        torch.manual_seed(1)
        x, residual = masked_input(case, mask, padding), masked_input(case, mask, padding)
        with backend():
            y = layer(x, residual, mask)
        cotangent = torch.randn(case.shape, dtype=torch.float64) * mask.unsqueeze(1)
        grads = gradients(y, [x, residual, *layer.parameters()], cotangent)
        results.append([y * mask.unsqueeze(1) if padding == 0 else y.masked_fill(~mask.unsqueeze(1), 0), *grads])
    assert_close(results[1], results[0])


@pytest.mark.parametrize("case", SPATIAL, ids=ids)
def test_a_mask_of_ones_changes_nothing(case, backend):
    masked, plain = randomize(case.build()).double(), None
    plain = case.build().double()
    plain.load_state_dict(masked.state_dict())
    x = torch.randn(case.shape, dtype=torch.float64)
    with backend():
        y = masked(x, mask=torch.ones(case.shape[0], *case.shape[2:], dtype=torch.bool))
        assert_close(y, plain(x), rtol=1e-10, atol=1e-10)
    assert_close(masked.state_dict(), plain.state_dict())


@pytest.mark.parametrize("case", SPATIAL, ids=ids)
def test_nothing_valid(case, backend):
    """Finite everywhere, and a batch without a single value is not remembered."""
    layer = case.build()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    x = torch.randn(case.shape, requires_grad=True)
    with backend():
        y = layer(x, mask=torch.zeros(case.shape[0], *case.shape[2:], dtype=torch.bool))
    assert torch.isfinite(y).all()
    for grad in gradients(y, [x, *layer.parameters()], torch.randn(case.shape)):
        assert torch.isfinite(grad).all()
    assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("case", SPATIAL, ids=ids)
def test_a_sample_of_padding_alone_takes_no_part(case, backend):
    layer, kept = (case.build(**({"momentum": 1.0} if case.remembers else {})).double() for _ in range(2))
    mask = random_mask(case)
    mask[-1] = False
    x = torch.randn(case.shape, dtype=torch.float64)
    with backend():
        y = layer(x, mask=mask)
        expected = kept(x[:-1], mask=mask[:-1])
    assert_close(y[:-1], expected, rtol=1e-10, atol=1e-10)
    assert torch.isfinite(y).all()
    assert_close(layer.state_dict(), kept.state_dict(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", [case for case in SPATIAL if case.remembers], ids=ids)
def test_evaluation_needs_no_mask(case, backend):
    """Known statistics: the mask changes nothing, but a wrong one is still an error."""
    layer = randomize(case.build()).eval()
    x = torch.randn(case.shape)
    with backend():
        assert torch.equal(layer(x, mask=random_mask(case)), layer(x))
        with pytest.raises(ValueError, match=r"mask must be \[N, \*space\]"):
            layer(x, mask=torch.ones(2, 2, dtype=torch.bool))
        with pytest.raises(TypeError, match="mask must be a boolean tensor"):
            layer(x, mask=torch.ones(case.shape[0], *case.shape[2:]))


@PADDING
@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("case", [case for case in SPATIAL if case.remembers], ids=ids)
def test_nothing_leaks_in_evaluation(case, activation, padding, backend):
    """Fine-tuning with frozen statistics: the parameters' gradients sum over the padding, too."""
    layer = randomize(case.build(activation=activation)).double().eval()
    mask = random_mask(case)
    x = masked_input(case, mask, padding)
    clean = x.detach().masked_fill(~mask.unsqueeze(1), 0).requires_grad_()
    cotangent = torch.randn(case.shape, dtype=torch.float64) * mask.unsqueeze(1)
    with backend():
        found = gradients(layer(x, mask=mask), [x, *layer.parameters()], cotangent)
        expected = gradients(layer(clean), [clean, *layer.parameters()], cotangent)
    assert_close(found, expected)


@pytest.mark.parametrize("case", SPATIAL, ids=ids)
def test_maps_refuse_a_mask_that_does_not_fit(case):
    x = torch.randn(case.shape)
    for mask in (torch.ones(case.shape[0], *case.shape[2:]), torch.ones(case.shape[0], *case.shape[2:]).long()):
        with pytest.raises(TypeError, match=r"mask must be a boolean tensor.*write mask\.bool\(\)"):
            case.build()(x, mask=mask)
    with pytest.raises(TypeError, match=r"mask must be a boolean tensor.*received list"):
        case.build()(x, mask=[True])
    for shape in (case.shape, case.shape[2:], (case.shape[0] + 1, *case.shape[2:]), (case.shape[0], 1)):
        with pytest.raises(ValueError, match=r"mask must be \[N, \*space\]"):
            case.build()(x, mask=torch.ones(shape, dtype=torch.bool))


def test_vectors_have_a_mask_of_samples(backend):
    """[N, C]: one flag for each sample."""
    layer = nw.BatchNorm1d(3, momentum=1.0).double()
    x, mask = torch.randn(6, 3, dtype=torch.float64), torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    with backend():
        y = layer(x, mask=mask)
    assert_close(y[mask], nn.BatchNorm1d(3).double()(x[mask]))
    assert_close(layer.running_var, x[mask].var(0))

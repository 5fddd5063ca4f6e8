"""What the experiments measure with, against values known from elsewhere."""

import numpy as np
import pytest
import torch
from torch import nn

from normwise import nets
from normwise.evidence import (
    e07_spectral_gan,
    e10_ranks,
    e14_processes,
    e19_translation,
    e20_memory,
)
from normwise.evidence.classifying import accuracy, fit, hits, in_training, perceptron
from normwise.evidence.experiment import Results
from normwise.evidence.photographs import WEATHERS, weather
from normwise.evidence.sequences import (
    BATCH,
    BATCH_LENGTHS,
    GROUP,
    INSTANCE,
    LAYER,
    OF_A_STEP,
    SequenceNorm,
    draw,
)
from normwise.evidence.sheets import sheet


def test_fit_learns_and_in_training_normalizes_by_the_batch():
    torch.manual_seed(0)
    x = torch.randn(96, 4)
    y = (x[:, 0] > 0).long() * 9
    net = perceptron("batch", 4, 16, 1, 10)
    losses = fit(net, x, y, size=8, epochs=6, rate=0.1, seed=0)
    assert len(losses) == 6 * 12
    assert accuracy(net.eval(), x, y) > 0.9
    before = net[1].running_mean.clone()
    outputs = in_training(net, x, 10)
    assert outputs.isnan().any(1).sum() == 6  # which fill no mini-batch
    assert hits(outputs, y) > 0.8
    assert torch.equal(net[1].running_mean, before)
    assert not net.training
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))[:10]
    normalized = nn.BatchNorm1d(16, affine=False)(net[0](x[order]))
    expected = net[3](torch.relu(normalized * net[1].weight + net[1].bias))
    torch.testing.assert_close(outputs[order], expected, rtol=1e-4, atol=1e-5)


def test_banks_and_groups_of_mini_batches():
    groups = torch.arange(64) % 2
    x = torch.randn(64, 3) + 10 * groups[:, None]
    y = (x[:, 0] > 10 * groups).long()
    torch.manual_seed(0)
    net = perceptron("batch", 3, 16, 1, 10)
    fit(net, x, y, size=8, epochs=20, rate=0.3, seed=0, groups=groups, banked=True)
    assert accuracy(net, x, y, groups, banked=True) > 0.9
    assert accuracy(net, x, y) < 0.8  # the memory of neither group


def test_pieces_in_every_weather():
    x, y, x_test, y_test = weather(by_weather=True)
    _, scene, _, scene_test = weather(by_weather=False)
    assert x.shape[1:] == (3, 16, 16)
    assert set(y.tolist()) == set(range(len(WEATHERS)))
    assert set(scene.tolist()) == set(scene_test.tolist()) == {0, 1}
    assert len(x) == len(scene) > 2 * len(x_test)
    means = [float(x_test[y_test == kind].mean()) for kind in range(len(WEATHERS))]
    day, haze, night, glare = means
    assert night < day < glare
    assert haze > day


def test_sequences_end_where_their_length_says():
    images = torch.arange(1, 6).view(5, 1, 1, 1) * torch.ones(5, 1, 8, 8)
    drawn = draw(images, torch.arange(5), 20, 1, 3)
    for x, length, y in zip(*drawn, strict=True):
        assert (x[length - 1] == y + 1).all()
        assert (x[length:] == 0).all()
    assert set(drawn.lengths.tolist()) == {8, 16, 24}


@pytest.mark.parametrize("name", [LAYER, BATCH_LENGTHS, GROUP, INSTANCE])
def test_what_lies_behind_an_end_does_not_count(name):
    torch.manual_seed(0)
    x, lengths = torch.randn(3, 8, 16), torch.tensor([8, 5, 2])
    kept = (torch.arange(8) < lengths[:, None])[..., None]
    found = [SequenceNorm(name, 16)(torch.where(kept, x, filled), lengths) * kept for filled in (0.0, 50.0)]
    torch.testing.assert_close(*found)
    plain = [SequenceNorm(BATCH, 16)(torch.where(kept, x, filled), lengths) * kept for filled in (0.0, 50.0)]
    assert (plain[0] - plain[1]).abs().max() > 0.1


def test_of_a_single_step_nothing_is_left():
    layer = SequenceNorm(OF_A_STEP, 4)
    with torch.no_grad():
        layer.layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (layer(torch.randn(2, 3, 4), torch.tensor([3, 3])) == torch.tensor([1.0, 2.0, 3.0, 4.0])).all()


def test_frechet_distance_of_known_gaussians():
    """‖m − m'‖² + tr(S + S' − 2 (S S')^½), here with S' = s² S: tr S (1 − s)², over tr S."""
    torch.manual_seed(0)
    x = torch.randn(4000, 1, 5, 4, dtype=torch.float64) * torch.linspace(1, 2, 20).view(1, 1, 5, 4)
    center = x.mean(0, keepdim=True)
    assert e07_spectral_gan.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert e07_spectral_gan.frechet_distance(x, center + 0.5 * (x - center)) == pytest.approx(0.25, rel=1e-6)
    total = np.cov(x.flatten(1).numpy().T).trace()
    assert e07_spectral_gan.frechet_distance(x, x + 1) == pytest.approx(20 / total, rel=1e-6)
    grey = center.expand(10, -1, -1, -1)
    assert e07_spectral_gan.frechet_distance(x, grey) == pytest.approx(1, rel=1e-6)


def test_ranks_share_the_better_place():
    rows = [
        {"norm": f"{norm}: wine", "batch_size": 1, "seed": 0, "status": "finished", "value": value, "metrics": {}}
        for norm, value in {"BatchNorm": 0.9, "LayerNorm": 0.9, "GroupNorm": 0.8, "none": 0.95}.items()
    ]
    expected = {"none": 1, "BatchNorm": 2, "LayerNorm": 2, "GroupNorm": 4}
    assert e10_ranks.ranks(Results(rows), "wine") == expected


def test_domains_are_what_the_formulas_say():
    x = torch.rand(3, 1, 2, 2)
    made = e19_translation.in_domains(x, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(made, torch.stack([x[0], -x[1], 0.25 * x[2] + 0.25]))


def test_what_is_kept_for_the_backward_pass():
    """conv → BatchNorm → linear: the input of each, and the 2·C numbers of the statistics."""
    net = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nets.resnet(8).stem.norm.__class__(4), nn.Flatten())
    x = torch.randn(2, 1, 8, 8)
    with e20_memory.counted(net) as kept:
        net(x).sum().backward()
    maps = 2 * 4 * 8 * 8 * 4
    assert maps <= kept["normalizers"] <= maps + 512
    assert kept["others"] >= x.numel() * 4


@pytest.mark.slow
def test_processes_together_are_one_process():
    from normwise.comparison import TrainingRun

    def found(kind, count):
        run = TrainingRun(
            "none",
            e14_processes.case_of(kind, count),
            batch_size=1,
            seed=0,
            epochs=1,
            learning_rate=None,
            device="cpu",
            on_report=lambda *_: None,
        )
        torch.manual_seed(0)
        return e14_processes.measure(run)["accuracy"]

    together, alone = found(e14_processes.TOGETHER, 2), found(e14_processes.ALONE, 2)
    assert together == pytest.approx(alone, abs=0.01)
    assert found(e14_processes.LOCAL, 2) < alone


def test_rows_of_pictures():
    made = sheet({"grey": torch.full((3, 1, 4, 4), 0.5), "white": torch.ones(2, 3, 4, 4)}, 20)
    assert made.width >= 3 * 24
    assert made.getpixel((15, 15)) == (128, 128, 128)

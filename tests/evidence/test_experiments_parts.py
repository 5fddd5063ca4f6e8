"""What the experiments measure with, against values known from elsewhere."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from normwise import nets
from normwise.evidence import (
    e07_spectral_gan,
    e09b_few_positions,
    e10_ranks,
    e10b_tasks,
    e11_operations,
    e11b_photographs,
    e14_processes,
    e19_translation,
    e19b_style,
    e20_memory,
    painting,
)
from normwise.evidence.charts import bars, headed, lines, stacked
from normwise.evidence.classifying import Task, accuracy, at_best_rate, fit, hits, in_training, perceptron
from normwise.evidence.experiment import Results, more_than_half
from normwise.evidence.photographs import WEATHERS, scene_and_weather, weather
from normwise.evidence.sequences import (
    BATCH,
    BATCH_LENGTHS,
    GROUP,
    INSTANCE,
    LAYER,
    OF_A_STEP,
    PER_STEP,
    SHARED,
    SequenceNorm,
    StepNorm,
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


def test_error_bars_and_pictures_below_each_other():
    picture = lines("a title", "x", "y", {"one": [(1, 5.0, 2.0), (2, math.nan), (4, 6.0, 0.5)]})
    assert picture.count("<path") == 2
    assert "± 2" in picture
    assert "nan" not in picture
    both = stacked(picture, lines("another", "x", "y", {"two": [(1, 1.0), (2, 3.0)]}))
    assert both.count("<svg") == 3
    assert 'height="640"' in both
    assert "a title" in both.partition(">")[0]


def test_rows_of_pictures():
    made = sheet({"grey": torch.full((3, 1, 4, 4), 0.5), "white": torch.ones(2, 3, 4, 4)}, 20)
    assert made.width >= 3 * 24
    assert made.getpixel((15, 15)) == (128, 128, 128)


def test_the_best_rate_is_chosen_on_samples_that_are_kept_back():
    torch.manual_seed(0)
    x = torch.randn(160, 4)
    y = (x[:, 0] > 0).long()
    task = Task(x[:80], y[:80], x[80:], y[80:])
    seen = []

    def make():
        seen.append(torch.rand(()).item())
        return perceptron("layer", 4, 16, 1, task.classes)

    found, rate = at_best_rate(make, task, (1e-6, 0.1), size=8, epochs=6, seed=3)
    assert rate == 0.1
    assert found > 0.9
    assert seen[0] == seen[1]  # every rate has the same start
    flipped = task._replace(y_test=1 - task.y_test)
    assert at_best_rate(make, flipped, (1e-6, 0.1), size=8, epochs=6, seed=3) == (pytest.approx(1 - found), 0.1)


def test_pieces_by_scene_and_weather():
    both, scenes = scene_and_weather(), weather(by_weather=False)
    assert set(both.y.tolist()) == set(range(2 * len(WEATHERS)))
    assert torch.equal(both.x, scenes.x)
    assert torch.equal(both.y // len(WEATHERS), scenes.y)


def test_more_than_half_is_a_binomial_tail():
    from scipy.stats import binom  # comes with scikit-learn

    for total in (5, 6, 10, 12, 20):
        least = more_than_half(total)
        assert binom.sf(least - 1, total, 0.5) <= 0.05 < binom.sf(least - 2, total, 0.5)


def test_nemenyis_difference_is_students_range():
    from scipy.stats import studentized_range  # comes with scikit-learn

    q = studentized_range.ppf(0.95, len(e10b_tasks.NORMS), 1e6) / math.sqrt(2)
    assert pytest.approx(q, abs=2e-3) == e10b_tasks.NEMENYI


def test_equal_ones_share_the_mean_of_their_places():
    task = next(iter(e10b_tasks.TASKS))
    rows = [
        {"norm": f"{norm}: {task}", "batch_size": 1, "seed": 0, "status": "finished", "value": value, "metrics": {}}
        for norm, value in {"BatchNorm": 0.9, "LayerNorm": 0.9, "GroupNorm": 0.8, "none": 0.95}.items()
    ]
    expected = {"none": 1, "BatchNorm": 2.5, "LayerNorm": 2.5, "GroupNorm": 4}
    assert e10b_tasks.ranks(Results(rows), task) == expected


@pytest.mark.parametrize("task", e10b_tasks.TASKS)
def test_every_task_has_its_net(task):
    data, kind = e10b_tasks.TASKS[task]
    samples = e10b_tasks.task_of(data)
    x = samples.x if (data, kind) in e10b_tasks.PAIRS[e10b_tasks.CONVOLUTIONAL] else samples.x.flatten(1)
    net = e10b_tasks.KINDS[kind].make("batch", samples._replace(x=x))
    assert net(x[:3]).shape == (3, samples.classes)


@pytest.mark.parametrize("name", [PER_STEP, SHARED])
def test_batch_norm_of_a_step_pools_over_what_goes_on(name):
    torch.manual_seed(0)
    norm, x = StepNorm(name, 4, 3), torch.randn(6, 4)
    going_on = torch.tensor([True, False, True, True, False, True])
    found = norm(x, 1, going_on)
    torch.testing.assert_close(found[going_on], nn.functional.batch_norm(x[going_on], None, None, training=True))
    assert (found[~going_on] == 0).all()
    layer = norm.steps[1 if name == PER_STEP else 0]
    torch.testing.assert_close(layer.running_mean, 0.1 * x[going_on].mean(0))
    alone = norm(x, 1, torch.arange(6) == 2)  # what is remembered serves a single sequence
    torch.testing.assert_close(alone, (x - layer.running_mean) / (layer.running_var + 1e-5).sqrt())
    norm.eval()
    last = norm.steps[-1]
    expected = (x - last.running_mean) / (last.running_var + 1e-5).sqrt()
    torch.testing.assert_close(norm(x, 7, going_on), expected)  # a step that no training sequence had


def test_the_last_maps_have_one_position():
    """There BatchNorm has one value for each sample."""
    net = e09b_few_positions.net_of("BN-ResNet", e09b_few_positions.DEPTH, e09b_few_positions.WIDTH)
    sizes = []
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0][0, 0].numel()))
    net(torch.randn(2, 1, 8, 8))
    assert min(sizes) == 1
    assert sizes.count(1) >= 5


def test_nets_of_equally_many_operations():
    macs = [nets.count_macs(make(), (1, 3, 8, 8)) for make in e11b_photographs.FAMILIES.values()]
    assert max(macs) <= (1 + e11b_photographs.EQUAL) * min(macs)


def test_the_small_efficientnet_starts_as_unsure_as_the_others():
    torch.manual_seed(0)
    x, y = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
    net = e11_operations.small_efficientnet(10, 1, 0.5)
    assert nn.functional.cross_entropy(net(x), y) < math.log(10) + 0.3
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_the_objective_of_painting():
    """It is smaller for the photograph in the style's colours than as it is, and statistics are put back."""
    place = painting.places()[0][None]
    in_colors = painting._in_colors(place)
    assert painting.from_colors(in_colors, place) == 0
    assert painting.objective(in_colors, place) < painting.objective(place, place)
    assert e19b_style._left(nn.Identity()) == pytest.approx(1)
    net = nn.BatchNorm2d(3)
    e19b_style._left(net)
    assert torch.equal(net.running_mean, torch.zeros(3))
    assert net.num_batches_tracked == 0


def test_groups_of_bars_stand_below_their_name():
    values = {f"{norm}: {net}": (1.0, 0.0) for net in ("RNN", "Transformer") for norm in ("LayerNorm", "BatchNorm")}
    picture = bars("title", "x", values, group=": ")
    shown = re.findall(r">([^<>]+)</text>", picture)
    assert shown[1:8] == ["RNN", "LayerNorm", "1", "BatchNorm", "1", "Transformer", "LayerNorm"]
    colors = re.findall(r'<rect [^>]*fill="([^"]+)"', picture)
    assert colors[:2] == colors[2:]
    assert colors[0] != colors[1]


def test_a_heading_is_wrapped_and_the_picture_stands_below_it():
    picture = lines("title", "x", "y", {"one": [(1, 5.0), (2, 6.0)]})
    claim = "a < b, " + "word " * 30
    both = headed(picture, claim.strip(), "holds", "±: standard deviation over 5 seeds")
    parts = re.findall(r'font-weight:bold">([^<]*)</text>', both)
    assert len(parts) == 3
    assert " ".join(parts) == claim.strip().replace("<", "&lt;")
    assert "Found: holds." in both
    height = int(re.search(r'height="(\d+)"', both)[1])
    assert re.search(rf'<svg y="{height - 320}"', both)

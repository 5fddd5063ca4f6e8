"""What the second protocols measure with, against values known from elsewhere."""

import math

import pytest
import torch
from torch import nn

from normwise import nets
from normwise.evidence import (
    e09b_few_positions,
    e10b_tasks,
    e11_operations,
    e11b_photographs,
    e19b_style,
    painting,
)
from normwise.evidence.classifying import Task, at_best_rate, perceptron
from normwise.evidence.experiment import Results, more_than_half
from normwise.evidence.photographs import WEATHERS, scene_and_weather, weather
from normwise.evidence.sequences import (
    PER_STEP,
    SHARED,
    StepNorm,
)


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

"""Metrics, losses and chance of each task, against scikit-learn and against NumPy."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.nn import functional as F

from normwise.comparison import InputError, compare
from normwise.comparison.data.in_memory import Data
from normwise.comparison.metric import ACCURACY
from normwise.comparison.tasks import IGNORED, TASKS, find_task, statistics_of
from normwise.comparison.training.loop import chance_values
from normwise.comparison.verdicts.cells import cells_of
from normwise.comparison.verdicts.judging import resolution, verdicts_of

CLASSES = ("a", "b", "c", "never")


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def objective(task, y, classes=CLASSES):
    return TASKS[task](classes, statistics_of([y], len(classes)))


def values_in_pieces(task, output, y):
    """The metrics of the whole, from sums of uneven batches."""
    sums = [task.sums(output[part], y[part]) for part in (slice(0, 3), slice(3, None))]
    return task.values(torch.cat(sums).sum(0))


@pytest.mark.parametrize("targets", [1, 3])
def test_regression_is_scikit_learns(targets):
    y = 40 + 7 * torch.randn(20, targets, generator=random())
    task = objective("regression", y, tuple("abc"[:targets]))
    output = torch.randn(20, targets, generator=random(1))
    std, mean = y.double().std(0, correction=0), y.double().mean(0)
    predicted = (output.double() * std + mean).numpy()
    found = values_in_pieces(task, output, y)
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(y.numpy(), predicted), rel=1e-5)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(y.numpy(), predicted), rel=1e-5)
    assert found["r2"] == pytest.approx(metrics.r2_score(y.numpy(), predicted), rel=1e-4)
    expected = F.mse_loss(output, ((y - mean) / std).float())
    torch.testing.assert_close(task.loss(output, y), expected)
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_one_target_may_come_without_its_dimension():
    y = torch.randn(6, 1, generator=random())
    task, output = objective("regression", y, ("a",)), torch.randn(6, generator=random(1))
    torch.testing.assert_close(task.loss(output, y), task.loss(output[:, None], y))


@pytest.mark.parametrize("space", [(5, 7), (3, 4, 2)])
def test_dice_and_iou_are_means_over_the_classes_that_occur(space):
    y = torch.randint(3, (6, *space), generator=random())
    y[0] = IGNORED
    output = torch.randn(6, 4, *space, generator=random(1))
    output[:, 3] = -100.0  # never answered, never right
    answers, right = output.argmax(1).numpy(), y.numpy()
    answers, right = answers[right != IGNORED], right[right != IGNORED]
    found = values_in_pieces(objective("segmentation", y), output, y)
    assert found["dice"] == pytest.approx(metrics.f1_score(right, answers, average="macro"))
    assert found["iou"] == pytest.approx(metrics.jaccard_score(right, answers, average="macro"))
    assert found["loss"] == pytest.approx(float(F.cross_entropy(output, y, ignore_index=IGNORED)), rel=1e-5)


def test_labels_that_are_padded_do_not_count():
    y = torch.randint(3, (6, 9), generator=random())
    y[2, 4:] = y[5, 1:] = IGNORED
    output = torch.randn(6, 9, 4, generator=random(1))
    output[..., 3] = -100.0
    counted = y != IGNORED
    right, answers = y[counted].numpy(), output.argmax(-1)[counted].numpy()
    task = objective("labelling", y)
    found = values_in_pieces(task, output, y)
    assert found["f1"] == pytest.approx(metrics.f1_score(right, answers, average="macro"))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(right, answers))
    # What stands where nothing counts changes nothing.
    other = torch.where(counted[..., None], output, torch.randn(6, 9, 4, generator=random(2)))
    assert values_in_pieces(task, other, y) == found
    torch.testing.assert_close(task.loss(other, y), task.loss(output, y))


def test_perplexity_is_the_exponential_of_the_mean_cross_entropy():
    y = torch.randint(4, (5, 8), generator=random())
    output = torch.randn(5, 8, 4, generator=random(1))
    p = output.double().softmax(-1).numpy().reshape(-1, 4)[np.arange(40), y.numpy().ravel()]
    found = values_in_pieces(objective("language", y), output, y)
    assert found["perplexity"] == pytest.approx(np.exp(-np.log(p).mean()), rel=1e-5)


def test_what_a_model_gives_may_be_wrapped():
    y = torch.randint(4, (5, 8), generator=random())
    output, task = torch.randn(5, 8, 4, generator=random(1)), objective("language", y)
    wrapped = type("Output", (), {"logits": output})()
    torch.testing.assert_close(task.loss(wrapped, y), task.loss(output, y))
    y = torch.randint(4, (2, 3, 3), generator=random())
    torch.testing.assert_close(
        objective("segmentation", y).loss({"out": torch.zeros(2, 4, 3, 3)}, y), torch.tensor(4.0).log()
    )


def test_chance_is_the_best_answer_without_looking():
    x, half = torch.zeros(4, 2), torch.tensor([[1.0], [3.0], [1.0], [3.0]])
    data = Data("d", x, half, x[:2], torch.tensor([[2.0], [5.0]]), ("y",), task="regression")
    assert chance_values(data) == pytest.approx({"rmse": 4.5**0.5, "mae": 1.5, "r2": 1 - 4.5 / 2.25})
    y = torch.tensor([[0, 0, 1, 0]])
    data = Data("d", y, y, y, torch.tensor([[0, 1, IGNORED, 1]]), ("a", "b"), task="labelling")
    assert chance_values(data) == pytest.approx({"f1": (2 * 1 / 4 + 0) / 2, "accuracy": 1 / 3})
    data = Data("d", y, y, y, torch.tensor([[0, 1, 0, 1]]), ("a", "b"), task="language")
    assert chance_values(data)["perplexity"] == pytest.approx((0.75 * 0.25) ** -0.5)


def test_the_interval_is_that_of_the_mean_where_the_metric_is_one():
    """Of a mean absolute error over many samples the jackknife is 1.96 σ / √n, as far as twenty pieces tell."""
    y = torch.randn(4000, 1, generator=random())
    task = objective("regression", y, ("y",))
    output = torch.randn(4000, 1, generator=random(1))
    sums = task.sums(output, y)
    errors = sums[:, 1]
    expected = 1.96 * float(errors.std()) / 4000**0.5
    assert task.interval(sums, "mae") == pytest.approx(expected, rel=0.5)
    assert task.interval(sums[:1], "mae") is None


def rows(metric, values, chance, interval):
    return [
        {
            **{"norm": norm, "batch_size": 8, "seed": seed, "status": "finished", "task": "t", "metric": metric},
            **{"direction": "min", f"test_{metric}": value, f"chance_{metric}": chance, "test_interval": interval},
            **{"step_ms": 1.0, "peak_memory_bytes": 1, "test_samples": 10},
        }
        for norm, runs in values.items()
        for seed, value in enumerate(runs)
    ]


def test_a_lead_counts_where_it_is_more_than_the_samples_show():
    apart = {"batch": [1.0, 1.02, 1.01], "group": [1.2, 1.21, 1.22]}
    for interval, clear in ((0.1, True), (0.3, False)):
        made = rows("rmse", apart, 3.0, interval)
        cells = cells_of(made)
        assert resolution(cells[0]) == pytest.approx(interval)
        (verdict,) = verdicts_of(made, cells)
        assert (verdict.leader, verdict.clear) == ("batch", clear)


def test_nothing_trained_where_nobody_is_better_than_chance():
    made = rows("rmse", {"batch": [1.0, 1.02], "group": [1.1, 0.99]}, 1.05, 0.1)
    (verdict,) = verdicts_of(made, cells_of(made))
    assert not verdict.trained
    assert "no normalizer is better than always answering the mean of the training targets" in verdict.sentence


def test_a_tasks_metrics_are_asked_for_by_name():
    assert find_task("classification").metric(None, None) is ACCURACY
    assert find_task("segmentation").metric("iou", "max").name == "iou"
    with pytest.raises(InputError, match="metric='dice': regression has rmse, mae, r2"):
        find_task("regression").metric("dice", None)
    with pytest.raises(InputError, match="of rmse less is better; leave direction out"):
        find_task("regression").metric("rmse", "max")
    with pytest.raises(InputError, match="task='detection' is unknown; write classification, regression"):
        find_task("detection")


def test_the_metric_is_one_of_the_task_that_the_data_are_for():
    (row,) = compare(data="diabetes", metric="mae", norms=["none"], batch_sizes=[64], seeds=1, epochs=1)
    assert (row["task"], row["metric"], row["direction"]) == ("regression", "mae", "min")
    assert row["test_mae"] == row["metrics"]["mae"]
    with pytest.raises(
        InputError,
        match=r"metric='dice': regression has rmse, mae, r2; write one of these, or return any other from train=",
    ):
        compare(data="diabetes", metric="dice", norms=["none"], seeds=1)

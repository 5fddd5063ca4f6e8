"""A learning rate for each contestant, chosen without the held-out split."""

import pytest
import small_problems
import torch

from normwise.comparison import RateTried, SweepStarted, compare
from normwise.comparison.data.validation import validation_part
from normwise.comparison.experiments.tuning import Try, best_rate

SMALL = {
    "model": "small_problems:net",
    "data": "small_problems:blobs",
    "norms": ("batch", "none"),
    "batch_sizes": (8,),
    "seeds": 1,
    "epochs": 2,
}
RATES = (1e-4, 0.3)


def test_the_validation_part_is_a_fifth_of_each_class_of_the_training_split():
    data = small_problems.blob_data()
    part = validation_part(data, 8)
    assert [int((part.y_test == label).sum()) for label in range(3)] == [3, 3, 3]
    assert len(part.x_train) == 39
    both = torch.cat([part.x_train, part.x_test]).flatten(1)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, data.x_train.flatten(1).tolist()))


def test_the_best_rate_is_the_most_accurate_then_the_one_with_the_smallest_loss():
    def tried(rate, accuracy, loss):
        return Try("batch", 2, rate, accuracy, loss)

    assert best_rate([tried(0.1, 0.9, 0.5), tried(0.2, 0.8, 0.1)]) == 0.1
    assert best_rate([tried(0.1, 0.9, 0.5), tried(0.2, 0.9, 0.1), tried(0.3, 0.9, None)]) == 0.2


def test_each_run_has_the_rate_that_was_best_on_the_validation_part():
    events = []
    rows = compare(**SMALL, lrs=RATES, on_event=events.append)
    tries = [event.tried for event in events if isinstance(event, RateTried)]
    assert [(t.norm, t.rate) for t in tries] == [("batch", 1e-4), ("batch", 0.3), ("none", 1e-4), ("none", 0.3)]
    about = next(event.about for event in events if isinstance(event, SweepStarted))
    for row, norm in zip(rows, ("batch", "none"), strict=True):
        best = best_rate([t for t in tries if t.norm == norm])
        assert row["learning_rate"] == pytest.approx(best * 8 / 32)
        assert [norm, 8, best] in about["chosen_rates"]
    # A run at the chosen rate is the run that this rate alone gives.
    alone = compare(**(SMALL | {"norms": ["batch"]}), learning_rate=about["chosen_rates"][0][2])
    assert alone[0]["key"] == rows[0]["key"]
    assert alone[0]["curve"] == rows[0]["curve"]


def test_rates_that_were_tried_are_not_tried_again(tmp_path, monkeypatch):
    first = compare(**SMALL, lrs=RATES, out=tmp_path)
    monkeypatch.setattr("normwise.comparison.experiments.task_training.TaskTraining._try", None)
    assert compare(**SMALL, lrs=RATES, out=tmp_path) == first
    assert len((tmp_path / "learning_rates.jsonl").read_text().splitlines()) == 4


def test_the_held_out_split_has_no_part_in_the_choice():
    (x, y), (x_test, y_test) = small_problems.blobs()

    def chosen(labels):
        events = []
        compare(**(SMALL | {"data": lambda: ((x, y), (x_test, labels))}), lrs=RATES, on_event=events.append)
        return [event.tried for event in events if isinstance(event, RateTried)]

    assert chosen(y_test) == chosen((y_test + 1) % 3)

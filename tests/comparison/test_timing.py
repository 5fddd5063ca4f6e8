"""Step times are taken side by side, and Batch Renormalization's schedule fits the run."""

from contextlib import contextmanager

import pytest
import small_problems
import torch

from normwise.comparison import Run, compare
from normwise.comparison.contestants.models import Network
from normwise.comparison.isolation import isolated
from normwise.comparison.settings import make_settings
from normwise.comparison.training.loop import Trainer
from normwise.comparison.training.timing import LEAST_ROUNDS, ROUNDS, WARM_UP_ROUNDS, side_by_side
from normwise.layers import BatchRenorm2d, make_norm
from normwise.layers.batch_renorm import value_at


class Clocked:
    """Takes the seconds that `times` gives, one after another."""

    def __init__(self, name, times, order):
        self.name, self.times, self.order, self.timed = name, list(times), order, []

    first_batch = ()

    def timed_step(self):
        self.order.append(self.name)
        self.timed.append(self.times[len(self.order) // 2 % len(self.times)])


def test_steps_are_taken_in_rounds_whose_order_turns():
    order = []
    found = side_by_side({"a": Clocked("a", [0.001], order), "b": Clocked("b", [0.003], order)})
    assert found == {"a": pytest.approx(1.0), "b": pytest.approx(3.0)}
    assert len(order) == 2 * (WARM_UP_ROUNDS + ROUNDS)
    assert "".join(order).startswith("abbaab")


def test_slow_steps_take_few_rounds():
    order = []
    side_by_side({"a": Clocked("a", [9.0], order)})
    assert len(order) == WARM_UP_ROUNDS + LEAST_ROUNDS


def test_step_times_are_the_side_by_side_ones(monkeypatch):
    asked = []

    def times(trainers):
        asked.append(list(trainers))
        return dict.fromkeys(trainers, 7.0)

    monkeypatch.setattr("normwise.comparison.experiments.task_training.side_by_side", times)
    small = {"model": "small_problems:net", "data": "small_problems:blobs", "epochs": 1, "seeds": 2}
    rows = compare(**small, norms=["batch", "none"], batch_sizes=[8, 16])
    assert asked == [["batch", "none"]] * 4
    assert {row["step_ms"] for row in rows} == {7.0}


def chosen(**changes):
    plain = {"model": "m", "data": "d", "norms": ["renorm"], "batch_sizes": [8], "seeds": 1, "learning_rate": 0.1}
    return make_settings(**(plain | {"weight_decay": 0.0, "image_size": 8, "device": "cpu", "epochs": 3} | changes))


@pytest.mark.parametrize("epochs", [3, 50])
def test_the_schedule_of_batch_renorm_is_as_long_as_the_run(epochs):
    data, settings = small_problems.blob_data(), chosen(epochs=epochs)
    net = small_problems.Net("renorm")
    with isolated(0, "cpu"):
        trainer = Trainer(Network(net, ("norm1", "a_norm")), data, Run("renorm", 8, 0), settings)
    steps = torch.tensor([0.05, 0.3, 0.5, 1.0]) * trainer.total_steps
    assert trainer.total_steps == 6 * epochs
    for layer in (net.norm1, net.a_norm):
        assert isinstance(layer, BatchRenorm2d)
        assert [float(value_at(layer.r_max, step)) for step in steps] == pytest.approx([1.0, 2.0, 3.0, 3.0])
        assert [float(value_at(layer.d_max, step)) for step in steps] == pytest.approx([0.0, 5.0, 5.0, 5.0])


def test_a_short_run_of_batch_renorm_is_not_batch_norm():
    """Its schedule once began after step 100: every shorter run was BatchNorm to the last bit."""
    small = {"model": "small_problems:net", "data": "small_problems:blobs", "epochs": 3, "seeds": 1}
    batch, renorm = compare(**small, norms=["batch", "renorm"], batch_sizes=[8])
    assert batch["curve"][0] != renorm["curve"][0] or batch["curve"][-1] != renorm["curve"][-1]


def test_a_normalizer_of_the_callers_own_keeps_its_schedule():
    def own(channels):
        return BatchRenorm2d(channels, r_max=2.0, d_max=1.0)

    net = torch.nn.Sequential(make_norm(own, 4))
    Trainer(Network(net, ("0",)), small_problems.blob_data(), Run("own", 8, 0), chosen())
    assert (net[0].r_max, net[0].d_max) == (BatchRenorm2d(4, r_max=2.0).r_max, BatchRenorm2d(4, d_max=1.0).d_max)


def test_step_times_are_taken_once_and_not_while_another_process_has_the_runs(monkeypatch, tmp_path):
    asked, refused = [], iter([False] * 6)

    def times(trainers):
        asked.append(list(trainers))
        return dict.fromkeys(trainers, 7.0)

    @contextmanager
    def claim(store, place):
        yield next(refused, True)

    monkeypatch.setattr("normwise.comparison.experiments.task_training.side_by_side", times)
    monkeypatch.setattr("normwise.comparison.sweeping.sweep.WAIT", 0.0)
    monkeypatch.setattr("normwise.comparison.storage.Store.claim", claim)
    small = {"model": "small_problems:net", "data": "small_problems:blobs", "epochs": 1, "seeds": 1}
    rows = compare(**small, norms=["batch", "none"], batch_sizes=[8], out=tmp_path)
    assert [row["step_ms"] for row in rows] == [7.0, 7.0]
    assert asked == [["batch", "none"]]

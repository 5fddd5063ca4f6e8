"""The small nets that each task can be tried with."""

import pytest
import torch

from normwise.comparison import InputError
from normwise.comparison.contestants.zoo import open_model
from normwise.comparison.tasks import TASKS

IDS = torch.arange(24).view(2, 12) % 5


@pytest.mark.parametrize(
    ("name", "task", "example", "channels", "shape"),
    [
        ("mlp", "regression", torch.randn(2, 4), 4, (2, 3)),
        ("mlp", "classification", torch.randn(2, 4), 4, (2, 3)),
        ("unet", "segmentation", torch.randn(2, 1, 9, 13), 1, (2, 3, 9, 13)),
        ("unet", "segmentation", torch.randn(2, 2, 5, 8, 6), 2, (2, 3, 5, 8, 6)),
        ("tagger", "labelling", IDS, 5, (2, 12, 3)),
        ("tagger", "labelling", torch.randn(2, 12, 4), 4, (2, 12, 3)),
        ("gpt", "language", IDS, 5, (2, 12, 3)),
    ],
)
def test_each_gives_what_its_task_takes(name, task, example, channels, shape):
    example = example % 3 if task == "language" else example
    recipe = open_model(name, example, 3, task=TASKS[task], in_channels=channels)
    norm = "token-rms" if name == "gpt" else "group"
    network = recipe.build(norm, 0)
    assert network.module(example).shape == shape
    assert network.of_tokens == (name == "gpt")
    assert len(network.sites) == {"mlp": 2, "unet": 10, "tagger": 3, "gpt": 5}[name]


def test_a_gpt_does_not_look_ahead():
    module = open_model("gpt", IDS, 5, task=TASKS["language"], in_channels=5).build("token-layer", 0).module.eval()
    changed = IDS.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 5
    before, after = module(IDS), module(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize(
    ("name", "task", "example"),
    [
        ("mlp", "segmentation", torch.randn(2, 1, 8, 8)),
        ("gpt", "classification", torch.randn(2, 4)),
        ("tagger", "regression", torch.randn(2, 4)),
    ],
)
def test_data_of_another_kind_are_refused(name, task, example):
    with pytest.raises(InputError, match=f"{name} takes .*, the data have samples of shape"):
        open_model(name, example, 3, task=TASKS[task])

"""The recipe of docs/train_without_normalizers.md, run as it stands there."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "train_without_normalizers.md"


def test_the_recipe_trains_the_network(capsys):
    recipe, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(compile(recipe, PAGE.name, "exec"), names)
    assert names["accuracy"] > 0.93
    assert "not clipped: classifier.weight" in capsys.readouterr().out
    gains = [p for name, p in names["net"].named_parameters() if name.endswith("skip_gain.gain")]
    assert len(gains) == 3
    assert all(torch.isfinite(p) and p != 1 for p in gains)

"""timm with random weights, or the visible reason why it is not there."""

import importlib.util

import pytest
import torch
from torch import nn

_libraries = []


def create(name: str, **options) -> nn.Module:
    """timm's model in evaluation, with every parameter random (timm starts gains at 0, which would hide a branch)."""
    for package in ("timm", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    _import_torchvision()
    import timm

    model = timm.create_model(name, **options)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("gain", "bias")):
                parameter.copy_(torch.randn_like(parameter) * 0.2 + key.endswith("gain"))
    return model.eval()

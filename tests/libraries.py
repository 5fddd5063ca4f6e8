"""torchvision, timm, transformers and Lightning, or the visible reason why they are not there."""

import importlib.util
import sys

import pytest
import torch
from torch import nn

_declared = []


def torchvision():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        import torchvision
    except RuntimeError as error:
        # A CUDA build of torchvision beside a CPU build of torch stops at operators that it could not load. Its
        # models need none of them: a signature is enough.
        if "does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)  # the declarations live as long as this object
        import torchvision
    return torchvision


def timm():
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    torchvision()  # which timm imports
    import timm

    return timm


def transformers():
    """Hugging Face's; it looks for torchvision by itself, which must be whole by then."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    if importlib.util.find_spec("torchvision") is not None:
        torchvision()
    import transformers

    return transformers


def lightning():
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("lightning is not installed")
    if importlib.util.find_spec("torchvision") is not None:
        torchvision()  # which torchmetrics imports
    import lightning.pytorch

    return lightning.pytorch


def timm_model(name: str, **options) -> nn.Module:
    """In evaluation, with every gain and bias random: timm starts them at values that hide a branch."""
    model = timm().create_model(name, **options)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("gain", "bias")):
                parameter.copy_(0.2 * torch.randn_like(parameter) + key.endswith("gain"))
    return model.eval()

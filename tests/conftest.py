"""Fixtures of the whole suite."""

import contextlib

import pytest
import torch

from normwise import use_backend


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["automatic", "reference"])
def backend(request):
    """A factory of contexts: the automatic choice, and each backend that runs on this machine."""
    name = request.param
    return lambda: contextlib.nullcontext() if name == "automatic" else use_backend(name)

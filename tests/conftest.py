"""Fixtures of the whole suite."""

import contextlib
import os

import pytest
import torch

if not torch.cuda.is_available():
    # Triton decides when it is imported whether it interprets its kernels: before anything of it is.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from triton_interpreter import prepare

from normwise import use_backend
from normwise.backends import available_backends
from normwise.backends.triton_kernels.device import interpreted


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Interpreted, the kernels are some hundred times slower than anything else here.
@pytest.fixture(params=["automatic", "reference", pytest.param("triton", marks=pytest.mark.slow)])
def backend(request):
    """A factory of contexts: the automatic choice, and each backend that runs on this machine."""
    name = request.param
    reason = None if name == "automatic" else available_backends()[name]
    if reason is not None:
        pytest.skip(reason)
    if name == "triton":
        if not interpreted():
            pytest.skip("on a GPU the layers are tested by tests/backends/triton; TRITON_INTERPRET=1 tests them here")
        prepare()
    return lambda: contextlib.nullcontext() if name == "automatic" else use_backend(name)

"""Code that runs with its own random numbers and leaves the caller's process and model as they were."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def isolated(seed: int, device: str, threads: int | None = None) -> Iterator[None]:
    """Seeded random numbers (torch, NumPy, `random`), float32 by default, gradients on, `threads` threads and
    deterministic cuDNN; all of it is the caller's own again afterwards."""
    kind = torch.device(device).type
    with (
        _random_numbers_kept(kind),
        _modes_kept(),
        torch.inference_mode(False),
        torch.enable_grad(),
        warnings.catch_warnings(),
    ):
        # A diverging run says so itself.
        warnings.filterwarnings("ignore", message=".*non-finite statistics", category=RuntimeWarning)
        # Not torch.manual_seed: it would also seed the accelerators that this code does not use.
        torch.default_generator.manual_seed(seed)
        if kind != "cpu":
            torch.get_device_module(kind).manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads or torch.get_num_threads())
        _set_cudnn(deterministic=True, benchmark=False)
        yield


@contextmanager
def _random_numbers_kept(kind: str) -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    on_cpu = kind == "cpu"
    devices = [] if on_cpu else list(range(torch.get_device_module(kind).device_count()))
    try:
        with torch.random.fork_rng(devices, device_type="cuda" if on_cpu else kind):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def _modes_kept() -> Iterator[None]:
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        _set_cudnn(deterministic, benchmark)


def _set_cudnn(deterministic: bool, benchmark: bool) -> None:
    torch.backends.cudnn.deterministic = deterministic  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = benchmark  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def listening(modules: Mapping[str, nn.Module], hear: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Calls `hear(name, input)` whenever one of the modules runs."""

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: hear(name, inputs[0])

    hooks = [module.register_forward_pre_hook(hook_of(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restores each module's training mode and each buffer, the object and its values."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, values in buffers:
                module._buffers[name] = buffer.copy_(values)

"""Code that runs with its own random numbers and leaves the caller's process as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..signal.protection import random_numbers_kept


@contextmanager
def isolated(seed: int, device: str, threads: int | None = None) -> Iterator[None]:
    """Inside the block: seeded random numbers (torch, NumPy, `random`), default dtype float32, gradients on, `threads`
    threads and deterministic cuDNN. Afterwards all of these are as the caller had set them."""
    with (
        random_numbers_kept({torch.device(device)}, seed),
        _modes_kept(),
        torch.inference_mode(False),
        torch.enable_grad(),
        warnings.catch_warnings(),
    ):
        # Ignored here because a run reports its own divergence.
        warnings.filterwarnings("ignore", message=".*non-finite statistics", category=RuntimeWarning)
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads or torch.get_num_threads())
        _set_cudnn(deterministic=True, benchmark=False)
        yield


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

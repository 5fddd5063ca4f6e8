"""Size of a network: parameters and multiply-accumulate operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """The number of values in a model's parameters; a parameter with several names counts once, buffers do not count.

    ``trainable`` counts only parameters that require a gradient.

    Raises TypeError for anything but a module, ValueError for lazy modules that have not seen an input.

    >>> count_parameters(nn.Linear(3, 5))
    20
    """
    _check(model, "count_parameters")
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def count_macs(model: nn.Module, *inputs: Any) -> int:
    r"""Multiply-accumulate operations of one forward pass in evaluation, without running it.

    A convolution counts outputs × fan-in, a matrix product of ``[n, k]`` and ``[k, m]`` n·k·m; attention and
    recurrent layers count their products. Everything else (activations, normalizers, pooling, biases) counts 0.

    ``inputs`` are the arguments of the model's forward: tensors, or the full shape of one, such as
    ``(1, 3, 224, 224)``, which becomes a tensor of the parameters' dtype and device. The count is that of the whole
    batch.

    The forward runs on tensors without values, so that it takes neither arithmetic nor memory, and parameters,
    buffers, training flags and the random state do not change, even after errors. The model's own hooks run.

    Raises ValueError for lazy modules that have not seen an input, and for a forward whose path depends on values.

    Trap: papers on convolutional networks call this number FLOPs; counted in multiplications and additions it is
    twice as much.

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1), (1, 3, 32, 32)) == 32 * 32 * 8 * 27
    True
    """
    # If Triton is installed this imports it, which takes longer than importing all of normwise.
    from torch.utils.flop_counter import FlopCounterMode

    _check(model, "count_macs")
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    like = next((t for t in named.values() if t.is_floating_point()), torch.empty(0))
    with _countable(model), FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        given = tuple(_as_tensor(value, like) for value in inputs)
        fake, arguments = tree_map(lambda v: mode.from_tensor(v) if isinstance(v, Tensor) else v, (named, given))
        with FlopCounterMode(display=False) as counter:
            try:
                functional_call(model, fake, arguments)
            except DataDependentOutputException as error:
                raise ValueError(
                    f"count_macs: the forward of {type(model).__name__} asks for a value of a tensor, on which its "
                    "path may depend; count the parts whose path is fixed."
                ) from error
    return counter.get_total_flops() // 2


def _check(model: nn.Module, caller: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller} expects a module, received {type(model).__name__}.")
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(f"{caller}: lazy modules have no shape yet; run one forward first.")


def _as_tensor(value: Any, like: Tensor) -> Any:
    if isinstance(value, (tuple, list)) and value and all(isinstance(n, int) for n in value):
        return torch.empty(tuple(value), dtype=like.dtype, device=like.device)
    return value


@contextmanager
def _countable(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with attention and recurrent layers reduced to their matrix products."""
    training = {module: module.training for module in model.modules()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    mkldnn, cudnn = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    try:
        for module in training:
            module.training = False
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.mkldnn.enabled = torch.backends.cudnn.enabled = False  # type: ignore[assignment]
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
        torch.backends.mha.set_fastpath_enabled(fastpath)
        torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled = mkldnn, cudnn  # type: ignore[assignment]

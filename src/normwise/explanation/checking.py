"""A trial call that tells whether a layer can be explained; the error says why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..core.module_tree import module_tree
from ..errors import InputError
from .measuring import Function
from .samples import CHANNELS, SAMPLES, SPACE, sample_shapes
from .subject import MOST, Subject, smaller

_MIXING = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.MultiheadAttention, nn.Bilinear)


class ModelError(InputError):
    """A model was given instead of a layer."""


def shape_taken(subject: Subject, make: Callable[..., Any], device: torch.device) -> tuple[int, ...]:
    """The first of the sample shapes that the subject accepts and keeps."""
    if subject.is_formula or subject.layer is None:
        return (SAMPLES, CHANNELS, *SPACE[2])
    failures: list[str] = []
    for shape in sample_shapes(subject.layer):
        if torch.Size(shape).numel() > MOST:
            shape = smaller(shape)
        try:
            with torch.no_grad():
                y = make(shape)(torch.randn(shape, dtype=torch.float64, device=device))
        except Exception as error:  # a user's module may raise any error for an unsuitable shape
            failures.append(_sentence(error))
            continue
        if isinstance(y, Tensor) and tuple(y.shape) == shape:
            return shape
        failures.append(f"gives {list(y.shape)} for {list(shape)}" if isinstance(y, Tensor) else "gives no tensor")
    raise InputError(
        f"explain found no input whose shape {subject.name} keeps ({failures[0]}). {_inside(subject)}Give x, a small "
        "batch that it takes, as in nw.explain(layer, x)."
    )


def checked(subject: Subject, function: Function, every: Sequence[Tensor]) -> Function:
    """The function, after a check that it returns finite tensors of x's shape, always the same, for each of ``every``.

    A layer that does not accept fp64, because it makes narrower tensors inside, is called in fp32.
    """
    try:
        _check(subject, function, every)
    except ModelError:
        raise
    except InputError as error:
        if subject.layer is not None:
            raise

        def narrow(x: Tensor, sign: float = 1.0) -> Any:
            y = function(x.float(), sign)
            return y.double() if isinstance(y, Tensor) else y

        try:
            _check(subject, narrow, every)
        except InputError:
            raise error from error.__cause__
        return narrow
    return function


def _check(subject: Subject, function: Function, every: Sequence[Tensor]) -> None:
    """Raise the error for a subject that cannot be explained at these inputs."""
    x = every[0]
    try:
        y, again = _twice(subject, function, x)
        others = [function(other.clone(), 1.0) for other in every[1:]]
    except ModelError:
        raise
    except Exception as error:
        raise InputError(f"{subject.name} does not take x {list(x.shape)}: {_sentence(error)}.") from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        got = f"of shape {list(y.shape)}" if isinstance(y, Tensor) else f"that is a {type(y).__name__}"
        raise InputError(
            f"explain takes a layer whose output has the shape of its input; {subject.name} gives one {got} for "
            f"{list(x.shape)}. {_inside(subject)}"
        )
    if not torch.equal(y.nan_to_num(), again.nan_to_num()):
        raise InputError(
            f"{subject.name} is random: two calls on the same values differ{_drops(subject)}. Put it in evaluation "
            "with .eval(), or take out what draws random numbers."
        )
    if not all(bool(one.isfinite().all()) for one in (y, *others)):
        raise InputError(
            f"{subject.name} gives NaN or inf at random values with x's mean and standard deviation; give an x that "
            "lies where it is defined."
        )


def _twice(subject: Subject, function: Function, x: Tensor) -> tuple[Any, ...]:
    """Two outputs, with different random numbers; the first call also watches the modules that x passes."""
    seen: list[str] = []
    with ExitStack() as stack, torch.no_grad():
        if subject.layer is not None:
            for name, module in subject.layer.named_modules():
                if isinstance(module, _MIXING):
                    hook = module.register_forward_pre_hook(_note(name or type(module).__name__, x, seen))
                    stack.callback(hook.remove)
        with torch.enable_grad():
            y = function(x.clone().requires_grad_(), 1.0)
    if seen:
        raise ModelError(
            f"explain takes one layer, and {subject.name} is a model: its {seen[0]!r} mixes the values of x besides. "
            f"{_inside(subject)}"
        )
    # With a graph like the first: without one a layer may be computed by another way, which rounds otherwise.
    with torch.enable_grad():
        again = function(x.clone().requires_grad_(), 1.0)
    return tuple(one.detach() if isinstance(one, Tensor) else one for one in (y, again))


def _note(name: str, x: Tensor, seen: list[str]) -> Callable[..., None]:
    """A hook that notes a convolution or the like of x itself, but not one of its statistics or of a condition."""

    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        given = inputs[0] if inputs else None
        if isinstance(given, Tensor) and given.requires_grad and 2 * given.numel() >= x.numel():
            seen.append(name)

    return hook


def _inside(subject: Subject) -> str:
    """Which layer to name instead, if the subject contains one."""
    if subject.layer is None:
        return ""
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    names = [
        node.name for module, node in module_tree(subject.layer).items() if node.name and isinstance(module, kinds)
    ]
    return f'Write nw.explain(model.get_submodule("{names[0]}")) for its first normalizer. ' if names else ""


def _drops(subject: Subject) -> str:
    modules = () if subject.layer is None else subject.layer.named_modules()
    names = [name or "itself" for name, module in modules if "drop" in type(module).__name__.lower()]
    return f" ({names[0]!r} drops values)" if names else ""


def _sentence(error: Exception) -> str:
    """The first line of an error's message, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(".")

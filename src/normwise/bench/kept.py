"""The bytes that a layer keeps for its backward pass, against torch's norm and the activation behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import layers
from ..comparison.settings import InputError
from ..core.activations import MODULES
from .cases import DTYPES
from .subjects import SUBJECTS

#: A block of a net for photographs.
SHAPE = (8, 64, 56, 56)
COLUMNS = ("layer", "activation", "dtype", "shape", "torch", "torch_in_place", "ours", "lean")
NAMES = ("batch", "group", "instance")
_IN_PLACE = ("relu", "leaky_relu", "silu")


class Subject(NamedTuple):
    """A normalizer and the activation behind it; ``lean`` if ours can keep the output alone."""

    name: str
    native: Callable[[int], nn.Module]
    ours: Callable[..., nn.Module]
    activation: str | None
    lean: bool


def _subjects() -> Iterator[Subject]:
    """Every normalizer with every activation."""
    norms: tuple[tuple[str, Callable[[int], nn.Module], Callable[..., nn.Module]], ...] = (
        ("batch", nn.BatchNorm2d, layers.BatchNorm2d),
        (
            "group",
            lambda c: nn.GroupNorm(layers.default_groups(c), c),
            lambda c, **o: layers.GroupNorm(layers.default_groups(c), c, **o),
        ),
        (
            "instance",
            lambda c: nn.InstanceNorm2d(c, affine=True),
            lambda c, **o: layers.InstanceNorm2d(c, affine=True, **o),
        ),
    )
    for name, native, ours in norms:
        for activation in (None, "leaky_relu", "relu", "silu"):
            yield Subject(name, native, ours, activation, activation in (None, "leaky_relu"))


def kept_bytes(run: Callable[[Tensor], Tensor], x: Tensor, *parameters: Tensor) -> int:
    """The bytes that the graph of ``run(x)`` keeps alive for the backward pass, without those of the parameters.

    Counted are the storages that autograd saves, each once, and the tables that this package's passes also keep.

    >>> x = torch.ones(8, requires_grad=True)
    >>> kept_bytes(torch.exp, x), kept_bytes(lambda x: x.exp().sin(), x)   # exp keeps its output, which is sin's input
    (32, 32)
    """
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = run(x)
    saved += _beside(y.grad_fn)
    own = {p.untyped_storage().data_ptr() for p in parameters}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    return sum(size for place, size in storages.items() if place not in own)


def _beside(node: Any) -> list[Tensor]:
    """The tables that this package's passes keep in the graph of a node."""
    found: list[Tensor] = []
    waiting, seen = [node], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        kept = getattr(getattr(node, "call", None), "kept", None)
        found += [t for t in (kept if isinstance(kept, tuple) else (kept,)) if isinstance(t, Tensor)]
    return found


def rows(
    shape: Sequence[int] = SHAPE, dtypes: Sequence[str] = ("fp32", "bf16"), names: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """A row for each subject and dtype: bytes for each value of x, including the input of a convolution behind it.

    A convolution keeps its input anyway: if the layer keeps that same tensor, the layer costs nothing.

    Raises `InputError` for a shape that does not have four dimensions and for layers that are not measured here.
    """
    subjects = [subject for subject in _subjects() if subject.name in (names or NAMES)]
    if len(shape) != 4 or set(names) - set(NAMES):
        raise InputError(
            f"bench memory looks at {', '.join(NAMES)} on maps such as 8x64x56x56, received the shape "
            f"{'x'.join(map(str, shape))} and the layers {', '.join(names) or 'by default'}."
        )
    for name in dtypes:
        x = torch.randn(tuple(shape)).to(DTYPES[name]).requires_grad_()
        for subject in subjects:
            channels = shape[1]
            variants = {
                "torch": _native(subject, channels, in_place=False),
                "torch_in_place": _native(subject, channels, in_place=True),
                "ours": [subject.ours(channels, activation=subject.activation)],
                "lean": [subject.ours(channels, activation=subject.activation, lean=True)] if subject.lean else None,
            }
            about = {"layer": SUBJECTS[subject.name].title, "activation": subject.activation or "none", "dtype": name}
            sizes = {key: "" if net is None else f"{_of_block(net, x):.3f}" for key, net in variants.items()}
            yield about | {"shape": "x".join(map(str, shape))} | sizes


def _native(subject: Subject, channels: int, *, in_place: bool) -> list[nn.Module] | None:
    """torch's norm and activation; None if the activation cannot be computed in place."""
    norm = subject.native(channels)
    if subject.activation is None:
        return None if in_place else [norm]
    activation = MODULES[subject.activation]()
    if in_place:
        if subject.activation not in _IN_PLACE:
            return None
        activation.inplace = True  # type: ignore[assignment]
    return [norm, activation]


def _of_block(net: list[nn.Module], x: Tensor) -> float:
    block = nn.Sequential(*net, nn.Conv2d(x.shape[1], 8, 1, bias=False)).to(x.dtype)
    return kept_bytes(block, x, *block.parameters(), *block.buffers()) / x.numel()

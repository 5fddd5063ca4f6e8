"""The values that one layer takes from its group of a foreign state."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers.remembering import Memory, memory_of
from .foreign_matching import default_eps, kernel_of, tensor_of
from .foreign_names import SOURCES, Source
from .foreign_state import Group

_NAME = "load_foreign"


class Write(NamedTuple):
    """A tensor of the model, its name in the layer, and its new values."""

    tensor: Tensor
    name: str
    values: Tensor


class Reading:
    """The new values of a layer: ``writes``, ``eps`` and ``momentum`` if the state has them, and ``notes``.

    Raises ValueError if something is missing or does not fit; nothing is written here.
    """

    def __init__(self, layer: nn.Module, name: str, group: Group, source: Source, last: bool) -> None:
        self.writes: list[Write] = []
        self.notes: list[str] = []
        self.eps: float | None = None
        self.momentum: float | None = None
        self._layer, self._group, self._source, self._last = layer, group, source, last
        self._name = f"{name} ({type(layer).__name__})" if name else type(layer).__name__

    def norm(self) -> Reading:
        """As a normalization layer."""
        names = self._source.norm
        eps = self._group.number(names.get("eps", ()), 0.0, 1.0)
        momentum = self._group.number(names["momentum"], 0.0, 1.0)
        if eps is not None and hasattr(self._layer, "eps"):
            self.eps = eps
        self._affine("weight", 1.0)
        self._affine("bias", 0.0)
        memory = memory_of(self._layer)
        self._statistics(memory)
        if memory is not None and hasattr(self._layer, "momentum"):
            if momentum is not None:  # 1 - 0.99 is 0.01, and not 0.010000000000000009
                self.momentum = round(1 - momentum, 12) if self._source.counts_old else momentum
            self._note_missing("momentum", self.momentum, self._source.momentum)
        self._note_missing("eps", self.eps, default_eps(self._layer, self._source))
        self._note_unread({name for known in names.values() for name in known})
        return self

    def kernel(self) -> Reading:
        """As a convolution or linear layer."""
        names = self._source.kernel
        weight = tensor_of(self._layer, "weight")
        kernel = kernel_of(self._group, self._source, self._last, None if weight is None else weight.shape)
        if kernel is None or weight is None:
            raise self._missing(names["weight"])
        if kernel.shape != weight.shape:
            raise ValueError(
                f"{_NAME}: the kernel of {self._group.name or 'the state'} is {list(kernel.shape)} as torch has it, "
                f"and the weight of {self._name} is {list(weight.shape)}; check the names, and the layout, which was "
                f"read as {'channels_last' if self._last else 'channels_first'}."
            )
        self._write(weight, "weight", kernel)
        bias, values = tensor_of(self._layer, "bias"), self._group.array(names["bias"])
        if bias is not None and values is None:
            raise self._missing(names["bias"], "build the layer with bias=False if there is none")
        if bias is not None and values is not None:
            self._write(bias, "bias", self._vector(values, bias, names["bias"]))
        elif values is not None and values.any():
            raise self._nowhere(names["bias"], "bias=True")
        if isinstance(self._layer, nn.Linear) and self._last:
            self.notes.append("after a Flatten of [*space, C] the columns are in that order, torch's in [C, *space]")
        self._note_unread({name for known in names.values() for name in known})
        return self

    def _affine(self, role: str, neutral: float) -> None:
        tensor, names = tensor_of(self._layer, role), self._source.norm[role]
        values, flag = self._group.array(names), self._source.norm[f"has_{role}"]
        if tensor is None:
            if values is not None and not values.eq(neutral).all():
                raise self._nowhere(names, "affine=True")
            return
        if values is None:
            if not self._group.denies(flag):
                raise self._missing(names, f"where it was built without, say '{flag[0]}': False in the state")
            self.notes.append(f"{role} is {neutral:g}: the state says that there is none")
            self._write(tensor, role, torch.full_like(tensor, neutral))
            return
        self._write(tensor, role, self._vector(values, tensor, names))

    def _statistics(self, memory: Memory | None) -> None:
        names = self._source.norm
        mean, (role, var) = self._group.array(names["mean"]), self._variance()
        if memory is None:
            if mean is not None or var is not None:
                raise self._nowhere(names["mean"] if mean is not None else names[role], "track_running_stats=True")
            return
        if mean is None and var is None and self._source.affine_only:
            mean, var = (
                torch.zeros(memory.mean.shape),
                torch.full(memory.var.shape, 1 - self._own_eps(), dtype=torch.float64),
            )
            self.notes.append("the state has no statistics, they went into γ and β: mean 0 and variance 1 - eps")
        if mean is None or var is None:
            raise self._missing(names["mean"] if mean is None else names[role])
        self._write(memory.mean, "running_mean", self._vector(mean, memory.mean, names["mean"]))
        self._write(memory.var, "running_var", self._vector(var, memory.var, names[role]))
        if memory.batches is not None:
            batches = self._group.number(names.get("batches", ()), 0, 2**53) or 0.0
            self._write(memory.batches, "num_batches_tracked", torch.full_like(memory.batches, int(batches)))

    def _variance(self) -> tuple[str, Tensor | None]:
        """The running variance that, with the layer's eps, gives the framework's standard deviation."""
        role = "std" if "std" in self._source.norm else "var"
        names = self._source.norm[role]
        values = self._group.array(names)
        if values is not None and values.lt(0).any():
            raise ValueError(
                f"{_NAME}: {self._group.called(names)} of {self._name} is negative in {int(values.lt(0).sum())} "
                f"channels (down to {values.min().item():.3g}), and a variance must be at least 0; compute the "
                "statistics again with nw.recalibrate."
            )
        if values is None or role == "var":
            return role, values
        eps = self._own_eps()
        if values.square().lt(eps).any():
            raise ValueError(
                f"{_NAME}: running_std of {self._name} goes down to {values.min().item():.3g}, and with eps={eps:g} "
                "the layer divides by at least the root of eps; build the layer with a smaller eps."
            )
        return role, values.square() - eps

    def _own_eps(self) -> float:
        eps = self.eps if self.eps is not None else getattr(self._layer, "eps", None)
        if eps is None:
            raise ValueError(f"{_NAME}: {self._name} has no eps, which the variance depends on; give it one.")
        return float(eps)

    def _vector(self, values: Tensor, tensor: Tensor, names: Sequence[str]) -> Tensor:
        """The values in the tensor's shape: ``[1, 1, 1, C]`` becomes ``[C]``; the order of several axes must match."""
        along = [size for size in values.shape if size != 1]
        fits = values.shape == tensor.shape and (tensor.dim() == 1 or not self._last or len(along) < 2)
        if tensor.dim() == 1 and values.dim() > 0 and values.numel() == tensor.numel() and len(along) < 2:
            fits = True
        if not fits:
            raise ValueError(
                f"{_NAME}: {self._group.called(tuple(names))} of {self._group.name or 'the state'} has the shape "
                f"{list(values.shape)}, and {self._name} needs {list(tensor.shape)}"
                f"{' in the order of torch, with layout=' + repr('channels_first') if tensor.dim() > 1 else ''}."
            )
        return values.reshape(tensor.shape)

    def _write(self, tensor: Tensor, name: str, values: Tensor) -> None:
        if tensor.is_inference():
            raise ValueError(f"{_NAME}: {name} of {self._name} was made in inference mode; build the layer outside it.")
        cast = values.to(tensor.dtype)
        if not cast.isfinite().all():
            raise ValueError(f"{_NAME}: {name} of {self._name} is too large for {tensor.dtype}; load in fp32.")
        self.writes.append(Write(tensor, name, cast))

    def _note_missing(self, setting: str, stated: float | None, default: float | None) -> None:
        own = getattr(self._layer, setting, None)
        if stated is None and default is not None and own != default:
            shown = "None" if own is None else f"{own:g}"
            self.notes.append(f"the state has no {setting}: the source's default is {default:g}, the layer has {shown}")

    def _note_unread(self, known: set[str]) -> None:
        unread = [name for name in self._group.values if name not in known]
        if unread:
            self.notes.append(f"not read: {', '.join(unread)}")

    def _missing(self, names: Sequence[str], remedy: str = "pass the whole layer") -> ValueError:
        held = list(self._group.values)
        strange = [name for name in held if name not in self._source.names]
        near = [name for wanted in names for name in get_close_matches(wanted, strange, n=1)]
        others = {name: len({*held} & {*s.listed}) for name, s in SOURCES.items() if {*strange} & {*s.listed}}
        if others:
            nearest = [repr(name) for name, count in others.items() if count == max(others.values())]
            remedy = f"these are the names of source={' or '.join(nearest)}"
        elif near:
            remedy = f"is {near[0]} meant?"
        return ValueError(
            f"{_NAME}: the state has no {names[0]} for {self._name}, only {', '.join(held)}; "
            f"{remedy}{'' if remedy.endswith('?') else '.'}"
        )

    def _nowhere(self, names: Sequence[str], remedy: str) -> ValueError:
        return ValueError(
            f"{_NAME}: the state has a {self._group.called(tuple(names))} that is not neutral, and {self._name} "
            f"has no such parameter; build the layer with {remedy}."
        )

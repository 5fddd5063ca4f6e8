"""Buffers that stay in fp32 when their module becomes narrower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from .moments import statistics_dtype


class WideBuffers(nn.Module):
    """A module that keeps its ``wide`` buffers in at least fp32 (fp64 under fp64), whatever its own dtype.

    This holds for buffers that are created with ``dtype=torch.bfloat16``, cast by ``.half()`` or ``.to(dtype)`` (no
    digit is lost), loaded with ``assign=True``, or assigned. Tensors that are passed for one call, as by
    `torch.func.functional_call`, are used as narrow as they are.
    """

    wide: ClassVar[tuple[str, ...]] = ()

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        super().register_buffer(name, _widened(tensor) if name in self.wide else tensor, persistent)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = {name: self._buffers.get(name) for name in self.wide}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers.get(name)
            if new is not None and _is_narrow(new):
                source = new if old is None or old.is_meta else old
                self._buffers[name] = source.to(new.device, statistics_dtype(new.dtype))
        return self


def _is_narrow(t: Tensor) -> bool:
    return t.is_floating_point() and t.dtype is not statistics_dtype(t.dtype)


def _widened(t: Tensor | None) -> Tensor | None:
    return t.to(statistics_dtype(t.dtype)) if t is not None and _is_narrow(t) else t

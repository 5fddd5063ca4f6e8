"""torch's eager quantization, `fuse_modules` and `fuse_modules_qat`: our plain batch norms fuse as torch's own do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.ao.quantization import fuser_method_mappings

from normwise.layers.torch_twin import TWINS, torch_twin

#: torch's fusion methods, by the classes that they fuse.
Table = dict[tuple[type, ...], Callable[..., Any]]

_OURS: dict[type, type] = {theirs: ours for ours, theirs in TWINS.items()}


def register() -> None:
    """Repeat every entry of torch's table that has a batch norm, with ours."""
    table: Table = fuser_method_mappings._DEFAULT_OP_LIST_TO_FUSER_METHOD
    for types, method in list(table.items()):
        ours = tuple(_OURS.get(kind, kind) for kind in types)
        if ours != types:
            table[ours] = partial(_fuse, table, method)


def _fuse(table: Table, method: Callable[..., Any], is_qat: bool, *given: Any) -> Any:
    """Fuse with torch's twins of our layers, whose relu becomes a module behind them."""
    modules: list[nn.Module] = []
    for module in given:
        if not isinstance(module, tuple(TWINS)):
            modules.append(module)
            continue
        twin = torch_twin(module)
        modules.append(twin)
        if module.activation is None:
            continue
        if module.activation != "relu" or module is not given[-1]:
            raise ValueError(
                f"fuse_modules: {type(module).__name__}(activation={module.activation!r}) cannot be fused, only 'relu' "
                "at the end can; put the activation behind it as a module of its own."
            )
        modules.append(nn.ReLU().train(module.training))
    if len(modules) == len(given):
        return method(is_qat, *modules)
    types = tuple(type(module) for module in modules)
    if types not in table:
        raise ValueError(f"fuse_modules: torch fuses no {' + '.join(kind.__name__ for kind in types)}.")
    return table[types](is_qat, *modules)

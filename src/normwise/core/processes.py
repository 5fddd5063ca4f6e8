"""Tables of moments over the processes of a group: one small collective, differentiable any number of times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from .tables import called

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup as ProcessGroup
else:
    ProcessGroup: TypeAlias = Any


def gather(table: Tensor, group: ProcessGroup) -> Tensor:
    """The ``table`` of every process, stacked on a new first axis in the order of their ranks."""
    return _Gather.apply(table, group)


def check_group(caller: object, group: Any) -> None:
    """Require a ``process_group``: a group, the name "world" for all processes, or None."""
    if group is None or group == "world":
        return
    if not (torch.distributed.is_available() and isinstance(group, torch.distributed.ProcessGroup)):
        error = ValueError if isinstance(group, str) else TypeError
        raise error(f"{called(caller)}: process_group must be 'world', a ProcessGroup or None, received {group!r}.")


def resolve_group(group: ProcessGroup | str | None) -> ProcessGroup | None:
    """The group that a layer pools over now; None where there is none, or where it has only one process.

    Raises RuntimeError where a group is given and `torch.distributed` is not initialized.
    """
    if group is None:
        return None
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError(
            "The layer synchronizes its statistics over processes, but torch.distributed is not initialized; "
            "call torch.distributed.init_process_group() first (torchrun starts the processes), or use the "
            "layer without process_group."
        )
    found = distributed.group.WORLD if isinstance(group, str) else group
    return found if distributed.get_world_size(found) > 1 else None


class _Gather(torch.autograd.Function):
    """Gather tables; the backward pass sums, over the processes, their gradients for this process' table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        table = table.contiguous()
        rows = [torch.empty_like(table) for _ in range(torch.distributed.get_world_size(group))]
        torch.distributed.all_gather(rows, table, group=group)
        return torch.stack(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _SumOfMine.apply(grad, ctx.group), None


class _SumOfMine(torch.autograd.Function):
    """The backward pass of `_Gather`, whose own backward pass is `_Gather`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        total = rows.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=group)
        return total[torch.distributed.get_rank(group)]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(grad, ctx.group), None

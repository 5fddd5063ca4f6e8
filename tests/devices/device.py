"""A device without fp64, in Python: tensors on it compute on the CPU, and none of them may be fp64.

It stands in for Apple's GPUs, which refuse every fp64 tensor, and for the accelerators that do the same. The tensors
are on torch's spare device type, so that everything sees a device other than the CPU: `device`, `is_cpu`, autograd, the
functions that make tensors. As on a real one, tensors of two devices do not mix, and what leaves for the CPU is
converted before it leaves.
"""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

SINGLE = "single"
REFUSED = (torch.float64, torch.complex128)
_aten = torch.ops.aten


class OnDevice(Tensor):
    """A tensor on the device; its values are in ``host``, and a view of it is a view of them."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> OnDevice:
        refuse(host.dtype)
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset(), "dtype": host.dtype}
        made = Tensor._make_wrapper_subclass(cls, host.size(), device=torch.device(SINGLE, 0), **layout)
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, operator, _types, args=(), kwargs=None):
        return run(operator, *args, **(kwargs or {}))

    # What torch's own methods refuse, or tell of the empty shell.
    def tolist(self):
        return self.detach().host.tolist()

    def untyped_storage(self):
        return self.detach().host.untyped_storage()

    def __repr__(self, **_) -> str:
        return f"OnDevice({self.detach().host})"


def refuse(dtype) -> None:
    if dtype in REFUSED:
        raise TypeError(f"The device {SINGLE!r} has no {dtype}.")


def run(operator, *args, **kwargs):
    """The operator on the CPU; what it gives is on the device but for copies to the CPU."""
    given = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
    copies = operator in (_aten.copy_.default, _aten._to_copy.default)
    if not copies and any(t.dim() > 0 for t in given if not isinstance(t, OnDevice)):
        raise RuntimeError(f"{operator}: tensors of the devices cpu and {SINGLE}.")
    refuse(kwargs.get("dtype"))
    target = kwargs.get("device")
    leaves = target is not None and target.type == "cpu"
    if operator is _aten.copy_.default:
        leaves = not isinstance(args[0], OnDevice)
    made_from = {id(t.host): t for t in given if isinstance(t, OnDevice)}
    args, kwargs = tree_map(_on_host, (args, kwargs))
    found = operator(*args, **kwargs)

    def on_device(value):
        if not isinstance(value, Tensor):
            return value
        if id(value) in made_from:
            return made_from[id(value)]  # in place: what was given
        return OnDevice(value.resolve_conj())  # down here nobody else would look at the bit

    return found if leaves else tree_map(on_device, found)


def _on_host(value):
    if isinstance(value, OnDevice):
        return value.host
    return torch.device("cpu") if isinstance(value, torch.device) else value


class _Module:
    """What `torch.get_device_module` gives: one device, whose random numbers are the CPU's."""

    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed = manual_seed_all = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: None)


@cache
def register() -> tuple[torch.library.Library, ...]:
    """Make the device known in this process, once and for all: not in one that runs other tests.

    What has no tensor of the device among its arguments, as ``torch.empty(..., device="single")``, comes by the
    libraries. `torch.tensor` calls some operators in a way that only finds what is registered for them.
    """
    _setup_privateuseone_for_python_backend(SINGLE, backend_module=_Module())
    rest, named = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    rest.fallback(run, "PrivateUse1")
    for operator in (
        *(_aten._to_copy.default, _aten.copy_.default, _aten.detach.default),
        *(_aten.empty.memory_format, _aten.empty_strided.default),
    ):
        named.impl(operator, partial(run, operator), "PrivateUse1")
    return rest, named

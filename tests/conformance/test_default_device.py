"""New tensors go where the layer's are, whatever the default device: a script may say `torch.set_default_device`."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from normwise import use_backend
from normwise.backends import available_backends

from .cases import cases, modes, trained

BACKENDS = {"automatic": nullcontext} | {
    name: lambda name=name: use_backend(name) for name in ("reference", "cpu") if available_backends()[name] is None
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in cases()])
def test_layers_do_not_look_at_the_default_device(case, training, dtype, backend):
    if training not in modes(case):
        pytest.skip("needs a process group")
    given = (case.input(dtype), case.input(dtype, seed=1), training, case.condition(dtype))
    layers = [case.layer(dtype) for _ in range(2)]
    with BACKENDS[backend]():
        expected = trained(layers[0], *given)
        with torch.device("meta"):
            found = trained(layers[1], *given)
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        assert torch.equal(found[name], want), name

"""Is a layer right? Output and gradients are compared with fp64 before anything is timed."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .cases import DTYPES, LAYOUTS, Case
from .subjects import Composed

#: The largest error, relative to the largest magnitude, that still counts as right: a few roundings of the dtype, and
#: the rounding errors of long sums.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
#: Values this close to a jump of the derivative get no gradient, since rounding would decide for one side.
_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
#: A sum this much smaller than its terms is 0 except for fp64's rounding.
_NOTHING = 1e-10
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Data(NamedTuple):
    """The tensors of one case."""

    x: Tensor
    residual: Tensor | None
    grad_y: Tensor


def make_data(case: Case, device: torch.device) -> Data:
    """Random data in the case's dtype and layout; ``x`` and the residual require gradients."""
    generator = torch.Generator().manual_seed(0)
    shape, last = case.shape, case.layout == LAYOUTS[1]
    layout = _CHANNELS_LAST[len(shape)] if last else torch.contiguous_format

    def tensor(mean: float) -> Tensor:
        values = torch.randn(shape, generator=generator).add_(mean).to(DTYPES[case.dtype])
        return values.to(device).contiguous(memory_format=layout)

    x, grad_y = tensor(0.5).requires_grad_(), tensor(0.0)
    return Data(x, tensor(0.0).requires_grad_() if case.residual else None, grad_y)


def randomize(layer: nn.Module) -> None:
    """Give every parameter and running statistic a random value: with γ = 1 and β = 0 an error may not show.

    A gate stays below 1; above, its gradient is not the paper's.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, t in (*layer.named_parameters(), *layer.named_buffers()):
            if t.is_floating_point():
                noise = torch.randn(t.shape, generator=generator) * 0.1
                t.add_({"running_var": noise.abs(), "gate": -noise.abs()}.get(name, noise))


def take_over(layer: nn.Module, source: nn.Module) -> None:
    """Copy the state of ``source`` into ``layer``, which may lack some of it."""
    state = source.state_dict()
    layer.load_state_dict({name: state[name] for name in layer.state_dict()})


class Oracle(NamedTuple):
    """The expected output and gradients in fp64, by name, for the data with this ``grad_y``.

    ``sizes`` are the magnitudes to which the errors are relative.
    """

    wanted: dict[str, Tensor]
    grad_y: Tensor
    sizes: dict[str, float]


def oracle(case: Case, exact: Composed, data: Data) -> Oracle:
    """The results of the layer ``exact`` in fp64 on contiguous copies of the data."""
    exact.double()
    x, grad_y = _widened(data.x), _widened(data.grad_y)
    residual = None if data.residual is None else _widened(data.residual)
    with torch.no_grad():
        distance = copy.deepcopy(exact).distance_to_kink(x, residual)
    if distance is not None:
        grad_y[distance.abs() < _CLOSE[data.x.dtype]] = 0
    for t in (x, residual):
        if t is not None:
            t.requires_grad_()
    wanted = results(case, exact, Data(x, residual, grad_y))
    sizes = {name: t.abs().max().item() for name, t in wanted.items()}
    for name in wanted.keys() - {"y", "x", "residual"}:
        # A parameter's gradient is a sum of many terms of the size of grad_y · y. Where they cancel to 0, as for a gate
        # between two equal branches, rounding errors are compared with the terms; comparing them with the rounding of
        # the sum would say nothing.
        terms = ((grad_y * wanted["y"]).square().sum() / wanted[name].numel()).sqrt().item()
        if sizes[name] <= _NOTHING * terms:
            sizes[name] = terms
    return Oracle(wanted, torch.empty_like(data.grad_y).copy_(grad_y), sizes)


def _widened(t: Tensor) -> Tensor:
    return t.detach().to(torch.float64, copy=True).contiguous()


def results(case: Case, layer: nn.Module, data: Data) -> dict[str, Tensor]:
    """The output and, unless only the forward pass is measured, the gradients of the inputs and parameters."""
    inputs = {"x": data.x} if data.residual is None else {"x": data.x, "residual": data.residual}
    y = layer(*inputs.values())
    found = {"y": y.detach()}
    if case.direction != "forward":
        parameters = {name.rpartition(".")[2]: p for name, p in layer.named_parameters() if p.requires_grad}
        leaves = inputs | parameters
        found |= dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), data.grad_y), strict=True))
    return found


def error(case: Case, layer: nn.Module, data: Data, exact: Oracle) -> float:
    """The largest error of output and gradients, each relative to the `Oracle`'s size; inf if one is not finite."""
    found = results(case, layer, data._replace(grad_y=exact.grad_y))
    worst = 0.0
    for name, wanted in exact.wanted.items():
        largest = ((found[name].double() - wanted).abs().max() / exact.sizes[name]).item()
        worst = max(worst, largest if math.isfinite(largest) else math.inf)
    return worst

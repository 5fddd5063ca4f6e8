"""The cells of the conformance matrix: one function per column, each of which proves its cell or says why not.

A cell's outcome is "works" (the result was compared and agrees), "-" (the question does not arise for the layer) or
"error" (a clear ValueError or TypeError). Anything else is a defect and raises. The yardstick inside the matrix is the
layer itself in fp64, contiguous, on the reference backend; that *it* is right is proven, layer by layer, against
torch.nn and NumPy in tests/layers.
"""

from __future__ import annotations

import copy
import inspect
import io
import warnings
from collections.abc import Sequence
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch.testing import assert_close

from normwise import use_backend
from normwise.layers import NORMALIZERS

WORKS, NOT_APPLICABLE, ERROR = "works", "-", "error"
SAMPLES, CHANNELS = 4, 8
SPACE = {0: (), 1: (7,), 2: (5, 6), 3: (3, 4, 5)}
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
# Roundings of the output's own type on values of order one, and for the gradients on sums of a few dozen of them.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 6e-3}


class Case(NamedTuple):
    """A layer of the table at one rank."""

    name: str
    rank: int

    def layer(self, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
        torch.manual_seed(0)
        row = NORMALIZERS[self.name]
        layer = row.make(CHANNELS, self.rank, None)
        for k, parameter in enumerate(layer.parameters()):
            with torch.no_grad():  # away from the special points 0 and 1, inside every valid range
                parameter.copy_(torch.linspace(0.3 + 0.1 * k, 0.9, max(parameter.numel(), 1)).view_as(parameter))
        return layer.to(dtype)

    @property
    def factors(self) -> tuple[str, int]:
        """What a covering subset must combine with other arguments: not each layer at each rank."""
        return self.name, self.rank

    @property
    def maps(self) -> bool:
        """Whether the layer takes [N, C, *space], not rows [*, C]."""
        return NORMALIZERS[self.name].of_maps

    def condition(self, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
        """The further inputs of a conditional layer."""
        kind = NORMALIZERS[self.name].condition
        if kind == "labels":
            return (torch.arange(SAMPLES) % 2,)
        if kind == "style":
            return (self.input(dtype, seed=7) * 2,)
        if kind == "segmentation":
            labels = torch.arange(SAMPLES * 30).view(SAMPLES, 1, 5, 6) % 2
            return (torch.cat([labels, 1 - labels], 1).to(dtype),)
        if kind == "vector":
            return (torch.linspace(-1, 1, 2 * SAMPLES).view(SAMPLES, 2).to(dtype),)
        if kind == "gate":
            return (self.input(dtype, seed=7),)
        return ()

    def input(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (SAMPLES, CHANNELS, *SPACE[self.rank])
        x = torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5 + 0.5
        if not self.maps:
            x = x.movedim(1, -1).contiguous()
        # Values that every dtype holds exactly, so that a comparison sees the layer's rounding and not the input's.
        return x.bfloat16().to(torch.float16).to(dtype)


#: One layer of each way to a table and from it: what takes long and has one mechanism is tried with these.
ONE_OF_EACH_WAY = {"batch", "group", "ghost", "renorm", "switchable", "evo-b0", "filter-response", "global-response"}
ONE_OF_EACH_WAY |= {"pixel-layer", "token-rms", "tanh", "adaptive-layer", "conditional-batch"}


def cases() -> list[Case]:
    """Every layer of the table at every rank it serves; synchronized layers are proven over real processes."""
    found = []
    for name, row in NORMALIZERS.items():
        if name == "none":
            continue
        ranks = (1, 2, 3) if 0 in row.layers else tuple(row.layers)
        found += [Case(name, rank) for rank in ranks]
    return found


def values(case: Case, dtype: str, layout: str, training: bool) -> str:
    """Output, gradients and buffers in a dtype and layout, against fp64 contiguous."""
    if layout == "channels_last" and (case.rank not in LAYOUTS or not case.maps):
        return NOT_APPLICABLE
    if needs_processes(case) and training:
        return NOT_APPLICABLE
    kind = DTYPES[dtype]
    x, cotangent = case.input(), case.input(seed=1)
    if layout == "channels_last":
        x, cotangent = (t.to(memory_format=LAYOUTS[case.rank]) for t in (x, cotangent))
    got = trained(case.layer(kind), x.to(kind), cotangent.to(kind), training, case.condition(kind))
    assert got["y"].dtype == kind
    assert got["y"].stride() == x.stride(), "the memory layout changed"
    assert_near(got, truth(case, kind, training), TOLERANCE[kind])
    return WORKS


def truth(case: Case, dtype: torch.dtype, training: bool) -> dict[str, torch.Tensor]:
    """What `trained` gives in fp64, contiguous, on the reference backend; parameters are first rounded to ``dtype``."""
    with use_backend("reference"):
        return trained(case.layer(dtype).double(), case.input(), case.input(seed=1), training, case.condition())


def assert_near(got: dict[str, torch.Tensor], truth: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every tensor of ``got`` within ``tolerance`` times the size of its terms, whose sums may cancel: the largest."""
    for name, value in got.items():
        want = truth[name]
        scale = max(1.0, want.abs().max().item()) if want.is_floating_point() else 1.0
        value = value.to(want.dtype)
        if name == "x.grad" and "tau.grad" in truth:
            value = without_ties(value, want, tolerance * scale)
        said = f"{name}: {{}}".format
        assert_close(value / scale, want / scale, atol=tolerance, rtol=tolerance, msg=said)


def without_ties(value, want, tolerance):
    """Forgive one value in a hundred: rounding to a narrow type puts some exactly on the threshold's kink."""
    off = (value - want).abs() > tolerance
    assert off.float().mean() <= 0.01
    return torch.where(off, want, value)


def trained(layer, x, cotangent, training, condition=(), **options):
    """Output, gradients and buffers of one forward and backward pass."""
    return results_of(layer.train(training), layer, x, cotangent, condition, **options)


def results_of(call, layer, x, cotangent, condition=(), **options):
    """The same of ``layer`` that runs by ``call``."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = call(x, *condition, **options)
    y.backward(cotangent)
    result = {"y": y.detach(), "x.grad": x.grad}
    result |= {f"{n}.grad": p.grad for n, p in layer.named_parameters() if p.grad is not None}
    return result | dict(layer.named_buffers())


def masked(case: Case) -> str:
    """What lies under the mask changes nothing outside of it, not even as NaN; a full mask is no mask."""
    layer = case.layer()
    if "mask" not in inspect.signature(layer.forward).parameters:
        return NOT_APPLICABLE
    if needs_processes(case):
        layer.process_group = None
    x, condition = case.input(), case.condition()
    shape = (SAMPLES, *SPACE[case.rank]) if case.maps else x.shape
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.7
    kept = (mask.unsqueeze(1) if case.maps else mask).expand_as(x)
    cotangent = torch.where(kept, case.input(seed=1), 0)
    results = []
    for filling in (0.0, torch.nan):
        padded = torch.where(kept, x, filling)
        got = trained(copy.deepcopy(layer), padded, cotangent, True, condition, mask=mask)
        got["y"], got["x.grad"] = got["y"][kept], got["x.grad"][kept]
        results.append(got)
    for name, want in results[0].items():
        assert_close(results[1][name], want)
    plain = trained(copy.deepcopy(layer), x, cotangent, True, condition)
    full = trained(copy.deepcopy(layer), x, cotangent, True, condition, mask=torch.ones_like(mask))
    for name, want in plain.items():
        assert_close(full[name], want)
    return WORKS


def compiled(case: Case) -> str:
    """torch.compile(fullgraph=True): output, gradients and buffers, in training and evaluation."""
    if needs_processes(case):
        return NOT_APPLICABLE
    x, cotangent = case.input(torch.float32), case.input(torch.float32, seed=1)
    condition = case.condition(torch.float32)
    for training in (True, False):
        layer = case.layer(torch.float32).train(training)
        torch._dynamo.reset()
        graph = torch.compile(layer, fullgraph=True, backend="aot_eager")
        got = results_of(graph, layer, x, cotangent, condition)
        assert_near(got, truth(case, torch.float32, training), TOLERANCE[torch.float32])
    return WORKS


def exported(case: Case) -> str:
    """torch.export of the evaluated layer."""
    layer, inputs = case.layer(torch.float32).eval(), (case.input(torch.float32), *case.condition(torch.float32))
    program = torch.export.export(layer, inputs)
    assert_near({"y": program.module()(*inputs)}, truth(case, torch.float32, False), TOLERANCE[torch.float32])
    return WORKS


class Together(torch.nn.Module):
    """Layers side by side, each with inputs of its own; the outputs are theirs."""

    def __init__(self, layers: Sequence[torch.nn.Module], inputs: Sequence[int]):
        super().__init__()
        self.layers, self.inputs = torch.nn.ModuleList(layers), inputs

    def forward(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        rest = iter(tensors)
        return [layer(*islice(rest, count)) for layer, count in zip(self.layers, self.inputs, strict=True)]


def onnx_runtime(*found: Case) -> str:
    """ONNX export of the evaluated layers in one model, since an export takes seconds; run by ONNX Runtime."""
    import onnxruntime

    given = [(case.input(torch.float32), *case.condition(torch.float32)) for case in found]
    model = Together([case.layer(torch.float32) for case in found], [len(inputs) for inputs in given]).eval()
    inputs, file = tuple(chain(*given)), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(model, inputs, dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    named = {slot.name: t.numpy() for slot, t in zip(session.get_inputs(), inputs, strict=True)}
    names = [f"{case.name}-{case.rank}d" for case in found]
    want = {name: truth(case, torch.float32, False)["y"] for name, case in zip(names, found, strict=True)}
    got = {name: torch.from_numpy(y) for name, y in zip(names, session.run(None, named), strict=True)}
    assert_near(got, want, TOLERANCE[torch.float32])
    return WORKS


def mapped(case: Case) -> str:
    """torch.func.vmap of the evaluated layer, and of its gradient."""
    module, condition = case.layer().eval(), case.condition()

    def layer(x):
        return module(x, *condition)

    xs = torch.stack([case.input(seed=s) for s in range(3)])
    assert_close(torch.func.vmap(layer)(xs), torch.stack([layer(x) for x in xs]))
    gradient = torch.func.grad(lambda x: layer(x).tanh().sum())
    assert_close(torch.func.vmap(gradient)(xs), torch.stack([gradient(x) for x in xs]))
    return WORKS


def twice_differentiable(case: Case) -> str:
    """Second derivatives by finite differences, in training."""
    layer, condition = case.layer().train(not needs_processes(case)), case.condition()
    x = case.input()
    parameters = {n: p.detach().clone().requires_grad_() for n, p in layer.named_parameters()}

    def call(x, *tensors):
        named = dict(zip(parameters, tensors, strict=True))
        return torch.func.functional_call(copy.deepcopy(layer), named, (x, *condition))

    leaves = (x.requires_grad_(), *parameters.values())
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)
    return WORKS


def needs_processes(case: Case) -> bool:
    """Alone SyncBatchNorm is BatchNorm; tests/distributed proves what it is with processes."""
    return case.name == "sync"

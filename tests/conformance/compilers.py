"""Promises about compilers and exporters: torch.compile, torch.export and ONNX Runtime compute what the layer does."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from normwise import use_backend

from .cases import (
    NOT_APPLICABLE,
    TOLERANCE,
    WORKS,
    Case,
    assert_near,
    modes,
    needs_processes,
    trained,
    truth,
)
from .tools import CLOSE, KIND, inputs_of


class Together(nn.Module):
    """Layers side by side, each with inputs of its own; the outputs are theirs."""

    def __init__(self, layers: Sequence[nn.Module], inputs: Sequence[Sequence[Tensor]]):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        ends = [*accumulate(map(len, inputs))]
        self.parts = [*zip((0, *ends[:-1]), ends, strict=True)]

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        return [layer(*tensors[start:end]) for layer, (start, end) in zip(self.layers, self.parts, strict=True)]


def results_of_each(call, layers, given, cotangents) -> list[dict[str, Tensor]]:
    """Output, gradients and buffers of each layer of a `Together` that runs by ``call``."""
    for layer, (x, *_) in zip(layers, given, strict=True):
        x.grad = None
        x.requires_grad_()
        layer.zero_grad()
    outputs = call(*chain(*given))
    torch.autograd.backward(outputs, cotangents)
    found = []
    for layer, (x, *_), y in zip(layers, given, outputs, strict=True):
        grads = {f"{name}.grad": p.grad for name, p in layer.named_parameters() if p.grad is not None}
        found.append({"y": y.detach(), "x.grad": x.grad, **grads, **dict(layer.named_buffers())})
    return found


def compiled(*found: Case) -> str:
    """torch.compile(fullgraph=True): outputs, gradients and buffers, in two steps of training and then evaluation."""
    if any(map(needs_processes, found)):
        return NOT_APPLICABLE
    given, cotangents = [inputs_of(case) for case in found], [case.input(KIND, seed=1) for case in found]
    layers, eager = [case.layer(KIND) for case in found], [case.layer(KIND).double() for case in found]
    torch.compiler.reset()
    model = Together(layers, given)
    graph = torch.compile(model, fullgraph=True, backend="aot_eager")
    for training in (True, True, False):
        with use_backend("reference"):
            wanted = [
                trained(one, case.input(), case.input(seed=1), training, case.condition())
                for case, one in zip(found, eager, strict=True)
            ]
        model.train(training)
        for case, got, want in zip(found, results_of_each(graph, layers, given, cotangents), wanted, strict=True):
            assert_near(got, want, TOLERANCE[KIND], of=case.id)
    return WORKS


def exported(*found: Case) -> str:
    """`torch.export` with a dynamic batch in both modes, and of maps with a dynamic space in evaluation."""
    # How many chunks there are is part of a graph in training.
    _compare_exported([case for case in found if True in modes(case) and case.name != "ghost"], training=True)
    _compare_exported(found, training=False)
    _compare_exported([case for case in found if case.maps and case.name != "adaptive-instance"], False, space=True)
    return WORKS


def _compare_exported(found: Sequence[Case], training: bool, *, space: bool = False) -> None:
    if not found:
        return
    batch, auto = torch.export.Dim("batch"), torch.export.Dim.DYNAMIC
    given = [inputs_of(case) for case in found]
    eager = Together([case.layer(KIND) for case in found], given).train(training)
    shapes = [[{0: auto if space else batch} for _ in inputs] for inputs in given]
    for of_inputs, (x, *_) in zip(shapes, given, strict=True) if space else ():
        of_inputs[0] = {dim: auto for dim in range(x.dim()) if dim != 1}
    inputs, dynamic = tuple(chain(*given)), {"tensors": tuple(chain(*shapes))}
    graph = torch.export.export(copy.deepcopy(eager), inputs, dynamic_shapes=dynamic).module()
    others = [torch.cat([t, t])[:7] for case in found for t in inputs_of(case, 1)]
    for tensors in (inputs, others):
        for case, y, want in zip(found, graph(*tensors), eager(*tensors), strict=True):
            assert_close(y, want, **CLOSE, msg=f"{case.id}: {{}}".format)
        buffers = dict(graph.named_buffers())
        assert_close({name: buffers[name] for name, _ in eager.named_buffers()}, dict(eager.named_buffers()), **CLOSE)


def onnx_runtime(*found: Case) -> str:
    """ONNX export of the evaluated layers in one model, since an export takes seconds; run by ONNX Runtime."""
    import onnxruntime

    given = [inputs_of(case) for case in found]
    model = Together([case.layer(KIND) for case in found], given).eval()
    inputs, file = tuple(chain(*given)), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(model, inputs, dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    named = {slot.name: t.numpy() for slot, t in zip(session.get_inputs(), inputs, strict=True)}
    for case, y in zip(found, session.run(None, named), strict=True):
        assert_near({"y": torch.from_numpy(y)}, truth(case, KIND, False), TOLERANCE[KIND], of=case.id)
    return WORKS

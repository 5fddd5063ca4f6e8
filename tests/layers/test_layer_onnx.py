"""ONNX: what is exported is evaluation mode, and ONNX Runtime computes what the layer computes."""

import pytest
import torch
from layer_cases import CASES, MAP_CASES, ids, randomize
from torch import nn
from torch.testing import assert_close

import normwise as nw

pytestmark = [
    pytest.mark.onnx,
    # The exporter copies a pytree of its own in a way that it deprecates.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
]
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def exported(layer, arguments, dynamic):
    """The ONNX model, and a function that runs it."""
    program = torch.onnx.export(
        layer,
        arguments,
        dynamo=True,
        verbose=False,
        dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in arguments) if dynamic else None,
    )
    model = program.model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(*tensors):
        feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), tensors, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return model, run


def nodes(model):
    """All nodes, those of the model's functions included."""
    return [*model.graph.node, *(node for function in model.functions for node in function.node)]


def assert_evaluation(model):
    for node in nodes(model):
        assert node.op_type != "Dropout"
        assert not any(a.name == "training_mode" and a.i for a in node.attribute), node.op_type


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_onnx_runtime_computes_the_same(case):
    layer = randomize(case.build(activation="relu")).eval()
    model, run = exported(layer, (torch.randn(4, *case.shape[1:]),), dynamic=True)
    assert_evaluation(model)
    for samples in (4, 3):
        x = torch.randn(samples, *case.shape[1:])
        assert_close(run(x), layer(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in MAP_CASES if case.rank > 0 and not case.remembers], ids=ids)
def test_onnx_with_a_mask(case):
    layer = randomize(case.build()).eval()

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, mask):
            return self.layer(x, mask=mask)

    def arguments():
        mask = torch.rand(case.shape[0], *case.shape[2:]) < 0.7
        mask.view(case.shape[0], -1)[:, :2] = True
        return torch.randn(case.shape), mask

    model, run = exported(Masked().eval(), arguments(), dynamic=False)
    assert_evaluation(model)
    x, mask = arguments()
    assert_close(run(x, mask), layer(x, mask=mask).detach(), rtol=1e-4, atol=1e-5)


def test_a_network_is_exported_in_plain_fp32():
    """All kinds of layers in one model, since an export takes seconds; the slow tests take them one by one."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nw.BatchNorm2d(6, activation="relu"),
        nn.Conv2d(6, 6, 3),
        nw.GroupNorm(2, 6, activation="silu"),
        nw.InstanceNorm2d(6, affine=True, track_running_stats=True),
        nw.InstanceNorm2d(6, activation="leaky_relu"),
        nn.Flatten(2),
        nw.LayerNorm(25, activation="gelu"),
        nw.RMSNorm(25),
    )
    for layer in net:
        randomize(layer)
    model, run = exported(net.eval(), (torch.randn(2, 3, 9, 9),), dynamic=True)
    assert_evaluation(model)
    # fp64 is what small devices lack.
    assert not [n for n in nodes(model) if n.op_type == "Cast" and n.attribute[0].i == onnx.TensorProto.DOUBLE]
    assert all(tensor.data_type != onnx.TensorProto.DOUBLE for tensor in model.graph.initializer)
    x = torch.randn(5, 3, 9, 9)
    assert_close(run(x), net(x).detach(), rtol=1e-4, atol=1e-4)

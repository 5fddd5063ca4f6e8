"""A normalizer-free network through torch.export and ONNX Runtime, for any batch and any size of image."""

import pytest
import torch

from normwise import bake, nets

pytestmark = [
    pytest.mark.onnx,
    # The exporter copies a pytree of its own in a way that it deprecates.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
]
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize(
    ("padding", "baked"), [("same", False), pytest.param("symmetric", True, marks=pytest.mark.slow)]
)
def test_onnx_runtime_computes_the_same(padding, baked):
    net = nets.nf_resnet(8, num_classes=3, width=4, skip_gain=1.0, padding=padding).eval()
    if baked:
        bake(net)
    # Exported in two steps: ONNX's own call cannot solve for sizes that "same" padding makes odd or even. And not a
    # named Dim with a range: torch cannot prove that branch and shortcut round an odd side alike.
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(net, (torch.randn(2, 3, 12, 16),), dynamic_shapes=(dynamic,))
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in ((2, 3, 12, 16), (3, 3, 9, 17)):
        x = torch.randn(shape)
        (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            for found in (program.module()(x), torch.from_numpy(output)):
                torch.testing.assert_close(found, net(x), rtol=1e-4, atol=1e-5)

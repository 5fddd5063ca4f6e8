"""One real model of each library: our layers in the place of its own, trained, saved, loaded, exported: the same.

The oracle is the same model with its own layers. Nothing is downloaded: the models are built from their settings.
Nets with batch norm train in fp64: on maps of one pixel a step multiplies a rounding by a thousand.
"""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise.core.inheritance import share_tensors
from normwise.core.model_change import ModelChange

sys.path.insert(0, str(Path(__file__).parents[1]))
from libraries import lightning, timm, torchvision, transformers

CLOSE = {"rtol": 1e-3, "atol": 1e-4}
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def counterpart(layer: nn.Module) -> nn.Module | None:
    """Ours with the same settings; a layer with an activation of its own is left."""
    kind = type(layer).__name__
    if type(layer) in BATCH:
        return getattr(nw, kind)(layer.num_features, layer.eps, layer.momentum)
    if type(layer) is nn.GroupNorm:
        return nw.GroupNorm(layer.num_groups, layer.num_channels, layer.eps)
    if kind == "LayerNorm":  # timm's subclass, too
        return nw.LayerNorm(layer.normalized_shape, layer.eps)
    if kind.endswith("RMSNorm"):
        return nw.RMSNorm(layer.weight.shape, getattr(layer, "variance_epsilon", None) or layer.eps)
    return None


def with_ours(model: nn.Module, at_least: int) -> nn.Module:
    """A copy in which our layers have taken the places and the tensors of the model's own."""
    with ModelChange(copy.deepcopy(model), "test") as change:
        found = [(layer, counterpart(layer)) for layer in change.model.modules()]
        found = [(layer, new) for layer, new in found if new is not None]
        for layer, new in found:
            share_tensors(new, layer)
            change.replace(layer, new)
    assert len(found) >= at_least
    assert list(change.model.state_dict()) == list(model.state_dict())
    return change.model


def twins(model: nn.Module, at_least: int) -> tuple[nn.Module, nn.Module]:
    """The model with our layers, and with its own."""
    return with_ours(model, at_least), model


def trained(model: nn.Module, x: torch.Tensor, classes: int = 5) -> nn.Module:
    """Two steps."""
    optimizer = torch.optim.SGD(model.train().parameters(), 0.01, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(len(x)) % classes).backward()
        optimizer.step()
    return model.eval()


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, dtype=torch.float64)


def check_exchange(ours: nn.Module, theirs: nn.Module, x: torch.Tensor, file: Path) -> None:
    """Trained alike; each loads the other's checkpoint and is then the other; the exported graph, too."""
    assert_close(ours.state_dict(), theirs.state_dict(), **CLOSE)
    torch.save(ours.state_dict(), file)
    theirs.load_state_dict(torch.load(file))
    y = theirs(x)
    assert_close(ours(x), y, **CLOSE)
    torch.save(theirs.state_dict(), file)
    ours.load_state_dict(torch.load(file))
    assert_close(ours(x), y, **CLOSE)
    assert_close(torch.export.export(ours, (x,)).module()(x), y, **CLOSE)


@pytest.mark.parametrize(("name", "count"), [("resnet10t", 13), ("vit_tiny_patch16_224", 9)])
def test_timm(name, count, tmp_path):
    size = {"img_size": 32, "depth": 4} if name.startswith("vit") else {}
    torch.manual_seed(0)
    models = twins(timm().create_model(name, num_classes=5, **size).double(), count)
    x = images()
    check_exchange(*(trained(model, x) for model in models), x, tmp_path / "checkpoint.pt")


def test_torchvision_and_onnx_runtime(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torchvision()
    from torchvision.models import resnet18

    torch.manual_seed(0)
    x = images()
    ours, theirs = (trained(model, x) for model in twins(resnet18(num_classes=5).double(), 20))
    check_exchange(ours, theirs, x, tmp_path / "checkpoint.pt")
    ours, theirs, x = ours.float(), theirs.float(), x.float()
    path, batch = tmp_path / "model.onnx", torch.export.Dim("batch", min=1, max=64)
    torch.onnx.export(ours, (x,), path, dynamo=True, verbose=False, dynamic_shapes=({0: batch},))
    session = onnxruntime.InferenceSession(path)
    for given in (x, x[:1]):
        (y,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
        assert_close(torch.from_numpy(y), theirs(given), **CLOSE)


class TestTransformers:
    """Hugging Face's Trainer, which goes through Accelerate, and its own way to save and load."""

    def models(self, kind):
        library = transformers()
        sizes = {"vocab_size": 61, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
        if kind == "gpt2":
            settings = library.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=32, **sizes)
            settings.resid_pdrop = settings.embd_pdrop = settings.attn_pdrop = 0.0
        else:
            shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
            settings = library.LlamaConfig(num_key_value_heads=2, max_position_embeddings=32, **shape, **sizes)
        torch.manual_seed(0)
        return library, twins(library.AutoModelForCausalLM.from_config(settings), 5)

    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_a_language_model(self, kind, tmp_path):
        pytest.importorskip("accelerate")
        library, models = self.models(kind)
        tokens = torch.randint(3, 61, (8, 12))
        rows = [{"input_ids": row, "labels": row} for row in tokens]
        for name, model in zip(("ours", "theirs"), models, strict=True):
            options = {"max_steps": 2, "per_device_train_batch_size": 4, "report_to": [], "use_cpu": True}
            settings = library.TrainingArguments(str(tmp_path / name), save_strategy="no", **options)
            library.Trainer(model, settings, train_dataset=rows).train()
            model.eval().save_pretrained(tmp_path / name / "saved")
        ours, theirs = models
        assert_close(ours.state_dict(), theirs.state_dict(), **CLOSE)
        loaded = library.AutoModelForCausalLM.from_pretrained(tmp_path / "ours" / "saved").eval()
        assert not any(type(module).__module__.startswith("normwise") for module in loaded.modules())
        for model in (loaded, with_ours(loaded, 5).eval()):
            assert_close(model(tokens).logits, ours(tokens).logits, **CLOSE)
        assert_close(theirs(tokens).logits, ours(tokens).logits, **CLOSE)
        said = [model.generate(tokens[:, :4], max_new_tokens=6, do_sample=False) for model in (ours, loaded)]
        assert torch.equal(*said)
        graph = torch.export.export(ours, (tokens,), {"use_cache": False}).module()
        assert_close(graph(tokens, use_cache=False).logits, ours(tokens).logits, **CLOSE)


def test_accelerate(tmp_path):
    """Gradient accumulation, its own checkpoints, and the model unwrapped again."""
    accelerate = pytest.importorskip("accelerate")
    torchvision()
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    models = twins(mobilenet_v3_small(num_classes=5).double(), 34)
    data, results = [(images(), torch.arange(4)) for _ in range(4)], []
    for model in models:
        model.classifier[2].p = 0.0
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        optimizer = torch.optim.SGD(model.train().parameters(), 0.01)
        loader = torch.utils.data.DataLoader(data, batch_size=None)
        wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        for x, target in loader:
            with accelerator.accumulate(wrapped):
                accelerator.backward(nn.functional.cross_entropy(wrapped(x), target))
                optimizer.step()
                optimizer.zero_grad()
        accelerator.save_state(tmp_path / str(len(results)))
        before = {name: t.clone() for name, t in model.state_dict().items()}
        wrapped(data[0][0])
        accelerator.load_state(tmp_path / str(len(results)))
        assert_close(model.state_dict(), before)
        results.append(accelerator.unwrap_model(wrapped).eval())
    check_exchange(*results, data[0][0], tmp_path / "checkpoint.pt")


def test_lightning(tmp_path):
    """Its trainer, its checkpoints, its summary, and its averaging of weights."""
    trainers = lightning()
    torchvision()
    from torchvision.models import resnet18

    class Classifier(trainers.LightningModule):
        def __init__(self, net):
            super().__init__()
            self.net, self.example_input_array = net, images(2)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    torch.manual_seed(0)
    data, nets = [(images(), torch.arange(4)) for _ in range(2)], twins(resnet18(num_classes=5).double(), 20)
    modules = [Classifier(net) for net in nets]
    for name, module in zip(("ours", "theirs"), modules, strict=True):
        options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
        options["precision"] = "64-true"
        averaging = trainers.callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=1)
        trainer = trainers.Trainer(max_epochs=3, callbacks=[averaging], default_root_dir=tmp_path, **options)
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
    ours, theirs = (module.eval() for module in modules)
    crossed = Classifier.load_from_checkpoint(tmp_path / "ours.ckpt", net=copy.deepcopy(theirs.net)).eval()
    x = data[0][0]
    assert_close(crossed(x), ours(x), **CLOSE)
    check_exchange(ours.net, theirs.net, x, tmp_path / "checkpoint.pt")


def test_opacus(tmp_path):
    """Private steps without noise: the clipped gradient of each sample."""
    opacus = pytest.importorskip("opacus")
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "num_blocks": 2, "embed_dim": 32}
    net = timm().models.mlp_mixer.MlpMixer(num_classes=5, **sizes)
    x, target = torch.randn(4, 3, 32, 32), torch.arange(4)
    results = []
    for model in twins(net, 5):
        optimizer = torch.optim.SGD(model.train().parameters(), 0.1)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, target), batch_size=4)
        private, optimizer, _ = opacus.PrivacyEngine().make_private(
            module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=0.0, max_grad_norm=1.0
        )
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(private(x), target).backward()
            optimizer.step()
        results.append(private.to_standard_module().eval())
    check_exchange(*results, x, tmp_path / "checkpoint.pt")


def test_torchao(tmp_path):
    """Trained, exported, quantized by PT2E as with torch's layers, and the linear layers by weights alone."""
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    torchvision()
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    x, net = images(), mobilenet_v2(num_classes=5, dropout=0.0).double()
    ours, theirs = (trained(model, x) for model in twins(net, 52))
    check_exchange(ours, theirs, x, tmp_path / "checkpoint.pt")
    x, quantized = x.float(), []
    for model in (ours.float(), theirs.float()):
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(torch.export.export(model, (x,)).module(), quantizer)
        prepared(x)
        graph = convert_pt2e(prepared)
        assert not any("batch_norm" in str(node.target) for node in graph.graph.nodes)
        quantize_(model, Int8WeightOnlyConfig())
        quantized.append((graph(x), model(x)))
    assert_close(*quantized, **CLOSE)

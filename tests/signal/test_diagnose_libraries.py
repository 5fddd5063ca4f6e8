"""Nets that people use, fresh and trained: nothing is found in them."""

import libraries
import pytest
import torch
import torch.nn.functional as F

import normwise as nw

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
CLASSES = 4


def from_torchvision(name, **options):
    return lambda: getattr(libraries.torchvision().models, name)(weights=None, num_classes=CLASSES, **options)


def from_timm(name, **options):
    return lambda: libraries.timm().create_model(name, num_classes=CLASSES, **options)


def from_transformers(name, **config):
    """`name` without Config; the classifier where there is one."""

    def make():
        transformers = libraries.transformers()
        kind, _, suffix = name.partition("For")
        suffix = f"For{suffix}" if suffix else "Model"
        return getattr(transformers, kind + suffix)(getattr(transformers, f"{kind}Config")(**config))

    return make


def images(size=64, batch=8):
    return (batch, 3, size, size)


def tokens(vocabulary=100):
    return torch.randint(5, vocabulary, (8, 16))


BERT = {"vocab_size": 100, "num_labels": CLASSES, **SMALL}
VIT = {"image_size": 32, "patch_size": 8, "num_labels": CLASSES, **SMALL}
HF_RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "basic", "num_labels": 4}
SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}

FRESH = {
    "torchvision resnet18": (from_torchvision("resnet18"), images),
    "torchvision mobilenet_v2": (from_torchvision("mobilenet_v2"), images),
    "torchvision efficientnet_b0": (from_torchvision("efficientnet_b0"), images),
    "torchvision regnet_y_400mf": (from_torchvision("regnet_y_400mf"), images),
    "torchvision convnext_tiny": (from_torchvision("convnext_tiny"), images),
    "torchvision densenet121": (from_torchvision("densenet121"), images),
    "torchvision swin_t": (from_torchvision("swin_t"), images),
    "timm resnet18": (from_timm("resnet18"), images),
    "timm regnetx_002": (from_timm("regnetx_002"), images),
    "timm nf_resnet26": (from_timm("nf_resnet26"), images),
    "timm nfnet_l0": (from_timm("nfnet_l0"), images),
    "timm mobilenetv3_small_100": (from_timm("mobilenetv3_small_100"), images),
    "timm repvgg_a0": (from_timm("repvgg_a0"), images),
    "timm cait_xxs24_224": (from_timm("cait_xxs24_224"), lambda: images(224, 2)),
    "timm vit_tiny": (from_timm("vit_tiny_patch16_224", **SMALL_VIT), lambda: images(32)),
    "BERT": (from_transformers("Bert", **BERT), tokens),
    "BERT by itself": (from_transformers("Bert", **BERT), lambda: None),
    "RoBERTa": (from_transformers("RobertaForSequenceClassification", **BERT), tokens),
    "ALBERT": (from_transformers("Albert", embedding_size=16, **BERT), tokens),
    "GPT-2": (from_transformers("GPT2", n_embd=32, n_layer=8, n_head=2, vocab_size=100), tokens),
    "LLaMA": (from_transformers("LlamaForCausalLM", vocab_size=100, **SMALL), tokens),
    "T5": (
        from_transformers("T5ForConditionalGeneration", d_model=32, d_kv=16, d_ff=64, num_layers=3, vocab_size=100),
        lambda: {"input_ids": tokens(), "decoder_input_ids": tokens()},
    ),
    "ViT": (from_transformers("ViT", **VIT), lambda: images(32)),
    "Hugging Face's ResNet": (from_transformers("ResNet", **HF_RESNET), images),
}


@pytest.mark.parametrize(("make", "data"), FRESH.values(), ids=FRESH)
def test_nothing_is_found_in_a_fresh_net(make, data):
    torch.manual_seed(0)
    findings = nw.diagnose(make(), data())
    assert not findings, str(findings)


def pictures(step, batch=32):
    """Patterns of their class in noise."""
    generator = torch.Generator().manual_seed(step)
    patterns = torch.randn(CLASSES, 3, 32, 32, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    return [patterns[labels] / 2 + torch.randn(batch, 3, 32, 32, generator=generator), labels]


def sentences(step, batch=32):
    """A word says the class; every second sentence is shorter."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    ids = torch.randint(10, 100, (batch, 16), generator=generator)
    ids[:, 3:6] = labels[:, None] + 3
    mask = torch.ones_like(ids)
    ids[::2, 12:], mask[::2, 12:] = 1, 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_of(model, batch):
    if isinstance(batch, dict):
        return model(**batch).loss
    output = model(batch[0])
    return F.cross_entropy(getattr(output, "logits", output), batch[1])


def trained(net, batch_of, rate, steps=80):
    optimizer = torch.optim.AdamW(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(net, batch_of(step))
        loss.backward()
        optimizer.step()
        schedule.step()
    assert loss < 0.5, f"it is to be healthy: {loss:.2f}"
    return net


def small_resnet():
    resnet = libraries.timm().models.resnet
    return resnet.ResNet(resnet.BasicBlock, (1, 1, 1, 1), num_classes=CLASSES, channels=(16, 32, 64, 64))


def shallow_resnet():
    resnet = libraries.torchvision().models.resnet
    return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)


TRAINED = {
    "timm ResNet": (small_resnet, pictures, 3e-3),
    "timm ViT": (from_timm("vit_tiny_patch16_224", **SMALL_VIT), pictures, 2e-3),
    "timm ConvNeXt": (from_timm("convnext_atto", dims=(16, 32, 48, 64), depths=(1, 1, 2, 1)), pictures, 3e-3),
    "torchvision ResNet": (shallow_resnet, pictures, 1e-3),
    "BERT": (from_transformers("BertForSequenceClassification", **BERT), sentences, 3e-3),
    "RoBERTa": (from_transformers("RobertaForSequenceClassification", **BERT), sentences, 3e-3),
    "ViT": (from_transformers("ViTForImageClassification", **VIT), pictures, 2e-3),
    "Hugging Face's ResNet": (from_transformers("ResNetForImageClassification", **HF_RESNET), pictures, 3e-3),
}


@pytest.mark.parametrize(("make", "batch_of", "rate"), TRAINED.values(), ids=TRAINED)
def test_nothing_is_found_in_a_trained_net(make, batch_of, rate):
    """On batches, on a loader that is read once, and through the loss, as docs/trace.md shows it."""
    torch.manual_seed(0)
    net = trained(make(), batch_of, rate)
    batches = [batch_of(1000 + i) for i in range(4)]
    for data, options in ((batches, {}), (iter(batches), {"forward": loss_of}), (batches[0], {})):
        findings = nw.diagnose(net, data, **options)
        assert not findings, str(findings)


def test_a_fault_in_a_bert_is_found():
    torch.manual_seed(0)
    net = from_transformers("Bert", **BERT)()
    with torch.no_grad():
        net.encoder.layer[1].intermediate.dense.bias.fill_(-100.0)
    first = nw.diagnose(net, tokens())[0]
    assert first.rule == "dead layer"
    assert first.module.startswith("encoder.layer.1.intermediate")

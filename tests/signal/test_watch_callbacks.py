"""`watch` as a callback of Lightning and Hugging Face, and in a plain loop: the same steps, the same taps."""

import warnings

import libraries
import pytest
import torch
from torch import nn

import normwise as nw

STEPS = 7


def small():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 6, generator=generator), torch.arange(8) % 3) for _ in range(STEPS)]


def plain_loop(net, to, every):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with nw.watch(net, to, every=every):
        for x, y in batches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()


def lightning_module(lightning, net, calls_forward):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            x, y = batch
            return nn.functional.cross_entropy(self(x) if calls_forward else self.net(x), y)

        def validation_step(self, batch, index):
            self(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Module()


def fit(lightning, module, callback, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[callback],
            logger=False,
            enable_checkpointing=options.pop("checkpoints", False),
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            **options,
        )
        data = torch.utils.data.DataLoader(batches(), batch_size=None)
        trainer.fit(module, data, data)


def expected(every):
    torch.manual_seed(0)
    net, seen = small(), []
    plain_loop(net, lambda step, trace: seen.append((step, trace)), every)
    return seen


def started():
    torch.manual_seed(0)
    return small()


def agree(seen, wanted, prefix=""):
    assert [step for step, _ in seen] == [step for step, _ in wanted]
    for (_, trace), (_, other) in zip(seen, wanted, strict=True):
        layers = [tap for tap in trace.layers if tap.name.startswith(prefix)]
        assert [tap.name for tap in layers] == [prefix + tap.name for tap in other.layers]
        for tap, like in zip(layers, other.layers, strict=True):
            assert tap.variance == pytest.approx(like.variance, rel=1e-6)
            assert tap.gradient == pytest.approx(like.gradient, rel=1e-5)


def free_of_hooks(module):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@pytest.mark.parametrize("calls_forward", [True, False])
@pytest.mark.parametrize("whole", [True, False], ids=["module", "net"])
def test_lightning(whole, calls_forward, tmp_path):
    lightning = libraries.lightning()
    net, seen = started(), []
    module = lightning_module(lightning, net, calls_forward)
    watch = nw.watch(module if whole else net, lambda step, trace: seen.append((step, trace)), every=3)
    fit(lightning, module, watch, tmp_path, checkpoints=True)
    agree(seen, expected(3), "net." if whole else "")
    assert free_of_hooks(module)


def test_lightning_counts_optimizer_steps(tmp_path):
    lightning = libraries.lightning()
    net, seen = started(), []
    module = lightning_module(lightning, net, True)
    watch = nw.watch(net, lambda step, trace: seen.append((step, trace.batches)), every=1)
    fit(lightning, module, watch, tmp_path, accumulate_grad_batches=2)
    assert seen == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_an_error_in_lightning_ends_the_watch(tmp_path):
    lightning = libraries.lightning()
    module, seen = lightning_module(lightning, started(), True), []
    module.training_step = lambda batch: module(batch[0]).sum() / 0 if len(seen) < 2 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit(lightning, module, nw.watch(module, lambda step, trace: seen.append(step), every=1), tmp_path)
    assert seen == [0, 1]
    assert free_of_hooks(module)
    assert not torch.overrides._get_current_function_mode_stack()


def test_transformers(tmp_path):
    transformers = libraries.transformers()
    pytest.importorskip("accelerate")
    net, seen = started(), []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, labels=None):
            logits = self.net(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    model = Model()
    watch = nw.watch(model, lambda step, trace: seen.append((step, trace)), every=3)
    train(transformers, model, watch, tmp_path)
    agree(seen, expected(3), "net.")
    assert free_of_hooks(model)
    steps = []
    train(transformers, model, nw.watch(model, lambda step, trace: steps.append(step), every=1), tmp_path, 2)
    assert steps == [0, 1, 2, 3]


def train(transformers, model, callback, folder, accumulate=1):
    samples = [{"x": x, "labels": y} for xs, ys in batches() for x, y in zip(xs, ys, strict=True)]

    class Trainer(transformers.Trainer):
        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(samples)

    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=-(-STEPS // accumulate),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulate,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(model=model, args=arguments, train_dataset=samples, callbacks=[callback]).train()


def test_hooks_of_no_meaning_do_nothing():
    watch = nw.watch(small(), lambda step, trace: None)
    assert watch.on_log(1, 2, 3, logs={}) is None
    assert watch.state_dict() == {}
    with pytest.raises(AttributeError, match="'Watch' object has no attribute 'steps'"):
        _ = watch.steps
    watch.close()

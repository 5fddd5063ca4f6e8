r"""Compare normalizers in an unchanged Lightning module: a small convolutional net on scikit-learn's digits.

    cd examples/compare
    normwise compare --train lightning_module:train --metric accuracy:max \
        --norms batch,group,layer,none

Needs lightning and scikit-learn.
"""

import logging
import warnings

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split


class Classifier(pl.LightningModule):
    """An existing module; its normalizers are an argument."""

    def __init__(self, norm, learning_rate):
        super().__init__()
        self.learning_rate = learning_rate
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 16, 3), norm(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3), norm(32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )
        self.right, self.seen = 0, 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.right += int((self.net(x).argmax(1) == y).sum())
        self.seen += len(y)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps), "interval": "step"}
        ]


class Report(pl.Callback):
    """Reports the metrics of each epoch to the comparison."""

    def __init__(self, run):
        self.run = run

    def on_train_epoch_end(self, trainer, module):
        self.run.report(trainer.current_epoch + 1, train_loss=trainer.callback_metrics["train_loss"])


def train(run):
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    data = TensorDataset((x.float().view(-1, 1, 8, 8) - 5) / 6, y)
    learned, held_out = random_split(data, [len(data) - 400, 400], torch.Generator().manual_seed(0))
    order = torch.Generator().manual_seed(run.seed)
    loader = DataLoader(learned, run.batch_size, shuffle=True, drop_last=True, generator=order)
    module = Classifier(run.norm, run.learning_rate or 3e-3)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loaders without workers, which Lightning remarks on
        trainer = pl.Trainer(max_epochs=run.epochs, accelerator="cpu", callbacks=[Report(run)], **quiet)
        trainer.fit(module, loader)
        trainer.test(module, DataLoader(held_out, 200), verbose=False)
    return {"accuracy": module.right / module.seen}

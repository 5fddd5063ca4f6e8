"""`compare`: checks the request, runs the sweep, returns the rows."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..backends import build_kernels
from ..layers import Norm
from .image_size import choose_image_size
from .isolation import isolated
from .references import name_of
from .settings import make_settings, named_norms
from .sources import load_data
from .storage import Store
from .sweep import Listener, Row, Sweep
from .zoo import ModelLike, open_model

DataLike = str | os.PathLike[str] | Callable[[], Any]

EXAMPLES = 2
SMALL_MAP = 256
IMAGE_SIZE = 32


def compare(
    model: ModelLike = "resnet8",
    data: DataLike = "digits",
    *,
    target: str | None = None,
    standardize: bool = False,
    batches_by: str | None = None,
    norms: Sequence[Norm] = ("batch", "group", "instance", "layer", "none", "nf"),
    batch_sizes: Sequence[int] = (2, 8, 64),
    seeds: int | Sequence[int] = 3,
    epochs: int = 6,
    learning_rate: float = 0.6,
    lrs: Sequence[float] | None = None,
    weight_decay: float = 5e-4,
    image_size: int | None = None,
    device: str | torch.device | None = None,
    out: str | os.PathLike[str] | None = None,
    on_event: Listener | None = None,
) -> list[Row]:
    """Train one model with each normalizer at each batch size and seed; returns one row per run.

    Every run has the same protocol: SGD with Nesterov momentum, peak learning rate
    `learning_rate · min(1, batch size / 32)`, linear warm-up and cosine, gradients clipped to a global norm of 1,
    `epochs` epochs without the last incomplete batch (of each group). For one seed all normalizers share the initial
    weights (all tensors that normalizers do not own, bit for bit) and the order of the data. `nf` is a network of its
    own, with weights of its own, and is clipped unit by unit besides. On the CPU a row is determined by its `key` bit
    for bit, times aside.

    Args:
        model: `resnet8`, `resnet20`, `resnet18` and so on; `timm:NAME`, `torchvision:NAME`, `package.module:function`;
            a function or a module. A function gets `norm`, `in_channels` and `classes` where it has parameters of
            these names. Without `norm` the model's BatchNorm, GroupNorm and InstanceNorm layers are replaced.
        data: `digits`; `mixed-digits`, every second one a faint negative; a folder with one directory per class; an
            `.npz` file with x_train, y_train, x_test, y_test or x, y; a table, `.csv` with a line of names or `.npy`;
            `package.module:function` or a function that returns (train, test), each a dataset of tensors or a pair
            (x, y).
        target: the column of a table that holds the classes: its name, in an array its number; by default the one
            that is called target, class, label or y, and the last of an array.
        standardize: mean 0 and variance 1 over the training split for each feature of a table and each channel of
            what a function returns; digits, image folders and `.npz` files come so in any case.
        batches_by: where given, each mini-batch holds samples of one group alone, as mini-batches do that come by
            domain, patient or video. It says what tells the groups: the column of a table (which is no feature then),
            the array of an `.npz` file (with the endings `_train` and `_test` where the splits are given), `group` for
            a third entry of a function's splits (x, y, group) or items (x, label, group), `domain` for `mixed-digits`,
            and for a folder a regular expression that is looked for in each path below the directory of its class: its
            group names the sample's, so `"(.*)/"` takes directories and `"patient(\\d+)"` a part of the file names. The
            held-out split stays one of samples; where whole groups are to be held out, give both splits.
        norms: names as in `normwise.layers.NORMALIZERS` (`"group:8"` for 8 groups), classes, or functions
            `channels -> Module`; `"nf"`, the normalizer-free counterpart that our nets (`resnet8`, ...) have; and
            `"bank"`, BatchNorm with running statistics for each group of `batches_by`. What cannot run (InstanceNorm on
            1×1 maps, `nf` with another model) is left out, and `SweepStarted.about["left_out"]` says why.
        batch_sizes: each at most the size of the training split; what needs a batch is left out at 1.
        seeds: how many, or which.
        epochs: passes over the training split, the same for every run.
        learning_rate: peak rate at batch sizes from 32 on. Of 0.3 to 0.8, 0.6 gave the best accuracy averaged over
            the default normalizers on the digits; large nets and long runs want less.
        lrs: learning rates to choose from, in the place of `learning_rate`: each contestant gets, at each batch size,
            the one with the best accuracy on a fifth of the training split, which its runs then train on again. The
            held-out split, which the verdict rests on, has no part in that choice.
        weight_decay: for weights; biases and normalizers have none.
        image_size: side to which the images of a folder are resized; by default the smallest at which every
            normalizer of the model gets a map of 4×4, or of 2×2 where the images are small.
        device: the GPU where there is one, else the CPU.
        out: folder for `results.jsonl` (a line per finished run, at once on disk), `settings.json` and, with `lrs`,
            `learning_rates.jsonl`. Runs and tries that the folder holds already are not repeated.
        on_event: called with each `Event`.

    A row is a flat JSON dict: what was run (`norm`, `batch_size`, `seed`, ...), `status` ("finished" or
    "diverged"), accuracies from 0 to 1 (`test_accuracy` in evaluation mode; `test_accuracy_train_mode` with the
    normalizers in training mode at the run's batch size; `train_eval_gap`, the second minus the first), `curve`
    by epoch, `step_ms` (forward, backward and update: the median of steps taken in turns with the other contestants;
    None where all of them do not fit into memory together), `peak_memory_bytes` (parameters, buffers, optimizer
    state and the peak of what one step allocates), and `layers`: squared channel mean and channel
    variance of the input of each normalization site, at the start and at the end.

    Raises InputError (a ValueError) with what to write instead, before the first run, for everything that cannot
    work. KeyboardInterrupt passes through; the finished runs are in `out`.

    >>> rows = compare(norms=["group", "none"], batch_sizes=[64], seeds=1, epochs=1)
    >>> [(row["norm"], row["status"]) for row in rows]
    [('group', 'finished'), ('none', 'finished')]
    """
    named = named_norms(norms)
    data = os.fspath(data) if isinstance(data, os.PathLike) else data
    settings = make_settings(
        model=name_of(model),
        data=name_of(data),
        norms=list(named),
        batch_sizes=batch_sizes,
        seeds=seeds,
        epochs=epochs,
        learning_rate=learning_rate,
        lrs=lrs,
        batches_by=batches_by,
        weight_decay=weight_decay,
        image_size=IMAGE_SIZE if image_size is None else image_size,
        device=device,
    )
    settings = replace(settings, target=target, standardize=standardize)
    if image_size is None and isinstance(data, str) and Path(data).is_dir():
        settings = replace(settings, image_size=choose_image_size(model, Path(data)))
    with isolated(0, "cpu"):
        loaded = load_data(data, settings.image_size, target, standardize, batches_by)
    recipe = open_model(model, loaded.x_train[:EXAMPLES], len(loaded.classes))
    if settings.device == "cpu":
        build_kernels(torch.float32)  # or the first runs would be computed otherwise than the last
    sweep = Sweep(replace(settings, threads=threads_for(loaded.sample_shape)), named, loaded, recipe)
    if out is None:
        return sweep.run(on_event, None)
    with Store(Path(out)) as store:
        return sweep.run(on_event, store)


def threads_for(sample_shape: tuple[int, ...]) -> int:
    """One thread for samples of at most 256 positions, where several cost more than they bring; else torch's.

    >>> threads_for((1, 8, 8)), threads_for((64,))
    (1, 1)
    """
    return 1 if math.prod(sample_shape[1:]) <= SMALL_MAP else torch.get_num_threads()

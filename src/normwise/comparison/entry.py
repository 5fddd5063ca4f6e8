"""`compare`: checks the request, runs the sweep, returns the rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from ..layers import Norm
from .contestants.zoo import ModelLike
from .data.text import Tokenizer
from .experiments.own_training import TrainingFunction
from .request import WEIGHT_DECAY, DataLike, Request, open_experiment
from .settings import InputError
from .storage import Store
from .sweeping.jobs import check_jobs, run_in_processes, threads_of_each
from .sweeping.on_ray import run_on_ray
from .sweeping.sweep import Listener, Row, Sweep, parse_budget, parse_shard
from .training.choices import Augment, OptimizerLike, ScheduleLike


def compare(
    model: ModelLike | None = None,
    data: DataLike | None = None,
    *,
    task: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    train: str | TrainingFunction | None = None,
    metric: str | None = None,
    direction: str | None = None,
    target: str | None = None,
    standardize: bool = False,
    batches_by: str | None = None,
    norms: Sequence[Norm] | None = None,
    batch_sizes: Sequence[int] = (2, 8, 64),
    seeds: int | Sequence[int] = 3,
    epochs: int | None = None,
    learning_rate: float | None = None,
    lrs: Sequence[float] | None = None,
    weight_decay: float = WEIGHT_DECAY,
    optimizer: OptimizerLike | None = None,
    schedule: ScheduleLike | None = None,
    augment: str | Augment | None = None,
    precision: str = "fp32",
    workers: int | None = None,
    tokenizer: Tokenizer | None = None,
    image_size: int | None = None,
    device: str | torch.device | None = None,
    until_clear: bool = False,
    budget: str | float | None = None,
    jobs: int = 1,
    shard: str | None = None,
    ray: str | None = None,
    out: str | os.PathLike[str] | None = None,
    on_event: Listener | None = None,
) -> list[Row]:
    """Train one model with each normalizer at each batch size and seed; returns one row per run.

    The task is classification, regression, segmentation, sequence labelling or language modelling; the data say which
    where nobody does. Every run has the same protocol: an optimizer (in classification SGD with Nesterov momentum and
    the peak learning rate `learning_rate · min(1, batch size / 32)`; elsewhere AdamW with the root of that share),
    linear warm-up and cosine, gradients clipped to a global norm of 1, `epochs` epochs without the last incomplete
    batch (of each group). For one seed all normalizers share the initial weights (all tensors that normalizers do not
    own, bit for bit) and the order of the data. `nf` is a network of its own, with weights of its own, and is clipped
    unit by unit besides. On the CPU a row is determined by its `key` bit for bit, times aside.

    With `train=` any task is compared, in the caller's own loop: `train(run)` is called once for each run and
    returns a dict with the metric. `run.norm(channels)` makes its normalizer, `run.replace(model)` puts it into a
    model; see `normwise.comparison.TrainingRun`.

    Args:
        model: `resnet8`, `resnet20`, `resnet18` and so on; `mlp` for features, `unet` for segmentation, `tagger` for
            sequences, `gpt` for text; `timm:NAME`, `torchvision:NAME`, `package.module:function`; a function or a
            module. A function gets `norm`, `in_channels` (of token numbers how many there are) and `classes` (or
            `outputs`, the same number) where it has parameters of these names. Without `norm` the model's BatchNorm,
            GroupNorm and InstanceNorm layers are replaced, or its LayerNorm and RMSNorm layers over the last dimension.
            It gives a tensor, or what has one as `.logits` or under "out". By default the task's small one.
        data: embedded: `digits`; `mixed-digits`, every second one a faint negative; `diabetes` (regression), `shapes`
            (segmentation), `words` (labelling), `text` (language). A folder with one directory per class, or with
            `images` and `masks`; an `.npz` file with x_train, y_train, x_test, y_test or x, y; a table, `.csv` with a
            line of names, `.parquet` or `.npy`; a `.txt` file; `package.module:function`, a function that returns
            (train, test), or such a pair: each a pair (x, y) of tensors, a dataset of such pairs, or a DataLoader,
            which is made anew at each batch size. Streams, loaders, and with `workers` all data sets are read anew in
            each epoch, and once before the first run; other data are held in memory.
        task: "classification", with targets `[N]`; "regression", `[N]` or `[N, T]`, of which the model predicts the
            standardized ones; "segmentation", masks `[N, *space]`; "labelling", `[N, L]` for tokens `[N, L]` or
            features `[N, L, C]`, or a dataset of sequences of different lengths, which are padded; "language", token
            numbers `[N, L + 1]`, one long row of them, or text. A target of -100 does not count. By default that of
            embedded data or of a table's target (text and up to 20 whole numbers are classes), else classification.
        weights: of a training before, with which every contestant begins: a state_dict in a `.pt`, `.pth` or
            `.safetensors` file, a file with a whole model, or "pretrained" for the weights that timm or torchvision has
            in its cache (nothing is downloaded). A last layer for another number of classes begins anew.
        train: a function, or `package.module:function`, that trains one model and returns what came of it, such as
            `{"rmse": 0.31}`; in the place of `model` and `data`.
        metric: with `train`, the key of that dict by which runs are judged; else one of the task's: accuracy; rmse,
            mae, r2; dice, iou (means over the classes); f1 (mean over the classes), accuracy (of tokens); perplexity.
        direction: with `train`, "max" where more of it is better, "min" where less is.
        target: the column of a table that is to be predicted: its name, in an array its number; by default the one
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
            `channels -> Module`; `"nf"`, the normalizer-free counterpart of our nets (`resnet8`, ...), of others what
            `normwise.normalizer_free` makes of them; and `"bank"`, BatchNorm with running statistics for each group of
            `batches_by`. Of trained models also strategies: `"batch:frozen"`, `"batch:recalibrated"`, `"swap:group"`
            (a data-free start) and `"anneal:group"` (from the old function to the new) with any normalizer of maps. By
            default batch, group, instance, layer, none and, without `train`, nf. What cannot run (InstanceNorm on 1×1
            maps, `nf` with a net that is not residual) is left out, and `SweepStarted.about["left_out"]` says why.
        batch_sizes: each at most the size of the training split; what needs a batch is left out at 1.
        seeds: how many, or which.
        epochs: passes over the training split, the same for every run; by default those of the task, in
            classification 6.
        learning_rate: peak rate at batch sizes from 32 on, by default 0.6 of SGD and 0.003 of AdamW, with `weights`
            0.05 and 0.00025. Of 0.3 to 0.8 the first gave the best accuracy averaged over the default normalizers on
            the digits; large nets and long runs want less. With `train` it is `run.learning_rate`, as given.
        lrs: learning rates to choose from, in the place of `learning_rate`: each contestant gets, at each batch size,
            the one with the best metric on a fifth of the training split, which its runs then train on again. The
            held-out split, which the verdict rests on, has no part in that choice. With `train` each rate is one call
            in which `run.choosing` is true, and the one whose metric is best is `run.learning_rate` of the runs: let
            such a call measure on samples that the others do not.
        weight_decay: for weights; biases and normalizers have none.
        optimizer: "sgd", "adamw", or a class or function that is called as optimizer(parameter_groups, lr=rate) with
            the rate as given, whatever the batch size; `package.module:function` names it.
        schedule: "cosine" with warm-up, "constant", or a function of (optimizer, total_steps) that returns a scheduler
            of torch.optim.lr_scheduler, which is stepped after each step.
        augment: a function of a training batch (x, y) that returns another, on the device; its random numbers are the
            same for every normalizer.
        precision: "fp32"; "bf16" for forward passes under autocast; "fp16", on CUDA, with a GradScaler besides.
        workers: how many processes read a dataset, 0 for none; None holds its samples in memory.
        tokenizer: for text, a function of a string that returns token numbers, or an object with a method encode;
            without it each character is a token.
        image_size: side to which the images of a folder are resized; by default the smallest at which every
            normalizer of the model gets a map of 4×4, or of 2×2 where the images are small.
        device: the GPU where there is one, else the CPU.
        until_clear: stop a contestant at a batch size where it is clearly behind, and a batch size that is decided;
            `seeds` is then the most that are run. The verdicts' error rate is shared out over all looks.
        budget: "30m", "2h", or seconds: no run begins that would probably end later. The report says what is missing,
            and the same call goes on.
        jobs: how many processes of this machine do runs at a time, each with its share of the processors' threads. Step
            times are measured before, while nothing else runs. What is compared must be importable by other
            processes.
        shard: "3/16" does the third of sixteen parts of the sweep, on one of many machines that share `out` or have
            folders of their own; `normwise report` shows several folders as one.
        ray: the address of a Ray cluster, "auto" or "local": each run is a task of as many processors as it has
            threads, and is repeated where its machine is lost. Step times are not measured there.
        out: folder for `results.jsonl` (a line per finished run, at once on disk), `settings.json` and, with `lrs`,
            `learning_rates.jsonl`. Runs and tries that the folder holds already are not repeated. Several processes
            with the same sweep may fill one folder: each writes a file of its own, `results-1.jsonl` and so on.
        on_event: called with each `Event`.

    A row is a flat JSON dict: what was run (`norm`, `batch_size`, `seed`, ...), `status` ("finished" or "diverged"),
    the metric (`test_accuracy`, or `test_rmse` and so on, in evaluation mode; `test_accuracy_train_mode` with the
    normalizers in training mode at the run's batch size; `train_eval_gap`, the second minus the first; shares go from
    0 to 1), `metrics`, all of the task's on the held-out split, `curve` by epoch, `step_ms` (forward, backward and
    update: the median of steps taken in turns with the other contestants; None where all of them do not fit into memory
    together), `peak_memory_bytes` (parameters, buffers, optimizer state and the peak of what one step allocates), and
    `layers`: squared channel mean and channel variance of the input of each normalization site, at the start and at the
    end. With `train` a row has `value`, the metric; `metrics`, all that the function returned; `curve`, what it
    reported; `step_ms`, the median time between the steps of its optimizers; and `traceback` where it failed. A failed
    run does not end the sweep, and is tried again when the sweep is.

    Raises InputError (a ValueError) with what to write instead, before the first run, for everything that cannot
    work. KeyboardInterrupt passes through; the finished runs are in `out`.

    >>> rows = compare(norms=["group", "none"], batch_sizes=[64], seeds=1, epochs=1)
    >>> [(row["norm"], row["status"]) for row in rows]
    [('group', 'finished'), ('none', 'finished')]
    """
    request = Request(
        model=model,
        data=data,
        task=task,
        weights=weights,
        train=train,
        metric=metric,
        direction=direction,
        target=target,
        standardize=standardize,
        norms=norms,
        batch_sizes=batch_sizes,
        seeds=seeds,
        epochs=epochs,
        learning_rate=learning_rate,
        lrs=lrs,
        batches_by=batches_by,
        weight_decay=weight_decay,
        optimizer=optimizer,
        schedule=schedule,
        augment=augment,
        precision=precision,
        workers=workers,
        tokenizer=tokenizer,
        image_size=image_size,
        device=device,
        until_clear=until_clear,
    )
    check_jobs(jobs)
    part, seconds = parse_shard(shard), parse_budget(budget)
    if jobs > 1 and ray is not None:
        raise InputError("jobs= and ray= both say who does the runs; write one of them.")
    if jobs > 1 or ray is not None:
        request.check_picklable("jobs" if jobs > 1 else "ray")
    with threads_of_each(jobs) as threads, ExitStack() as stack:
        sweep = Sweep(open_experiment(request), part, seconds)
        if out is None and jobs > 1:
            out = stack.enter_context(tempfile.TemporaryDirectory())
        store = None if out is None else stack.enter_context(Store(Path(out)))
        if ray is not None:
            return run_on_ray(sweep, request, ray, store, threads, on_event)
        if store is not None and jobs > 1:
            return run_in_processes(sweep, request, store, jobs, threads, on_event)
        return sweep.run(on_event, store)

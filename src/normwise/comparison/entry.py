"""`compare`: checks the request, runs the sweep, returns the rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch

from ..layers import Norm
from .contestants.zoo import ModelLike
from .data.text import Tokenizer
from .experiments.own_training import OwnTraining, TrainingFunction
from .experiments.together import Together, check_processes, in_several_processes
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

    The task is classification, regression, segmentation, sequence labelling or language modelling; without `task` the
    data decide. Every run has the same protocol: an optimizer (in classification SGD with Nesterov momentum and the
    peak learning rate `learning_rate · min(1, batch size / 32)`; for other tasks AdamW with the square root of that
    factor), linear warm-up and cosine, gradients clipped to a global norm of 1, `epochs` epochs without the last
    incomplete batch (of each group). For one seed all normalizers share the order of the data and, bit for bit, the
    initial weights (all tensors outside the normalizers). `nf` is a separate network with its own weights, and its
    gradients are also clipped unit by unit. On the CPU a row's `key` determines the row bit for bit, except the times.

    With `train=` any task is compared, in the caller's own loop: `train(run)` is called once for each run and
    returns a dict with the metric. `run.norm(channels)` makes a layer of the run's normalizer, `run.replace(model)`
    puts the normalizer into a model; see `normwise.comparison.TrainingRun`. In a group of processes (torchrun) all of
    them call `compare` with `train=` and do each run together: the first process chooses the next run and writes the
    rows; all processes return them.

    Args:
        model: `resnet8`, `resnet20`, `resnet18` and so on; `mlp` for features, `unet` for segmentation, `tagger` for
            sequences, `gpt` for text; `timm:NAME`, `torchvision:NAME`, `package.module:function`; a function or a
            module. A function gets `norm`, `in_channels` (for token numbers, the size of the vocabulary) and `classes`
            (or `outputs`, the same number) if it has parameters of these names. If it has no `norm`, the model's
            BatchNorm, GroupNorm and InstanceNorm layers are replaced, or its LayerNorm and RMSNorm layers over the last
            dimension. The model returns a tensor, or an object or dict with the tensor as `.logits` or "out". The
            default is the small model of the task.
        data: embedded: `digits`; `mixed-digits`, every second one a faint negative; `diabetes` (regression), `shapes`
            (segmentation), `words` (labelling), `text` (language). A folder with one directory per class, or with
            `images` and `masks`; an `.npz` file with x_train, y_train, x_test, y_test or x, y; a table, `.csv` with a
            line of names, `.parquet` or `.npy`; a `.txt` file; `package.module:function`, a function that returns
            (train, test), or such a pair: each a pair (x, y) of tensors, a dataset of such pairs, or a DataLoader,
            which is rebuilt for each batch size. Streams and loaders, and with `workers` all data sets, are read once
            before the first run and again in each epoch; other data are held in memory.
        task: "classification", with targets `[N]`; "regression", `[N]` or `[N, T]`, of which the model predicts the
            standardized ones; "segmentation", masks `[N, *space]`; "labelling", `[N, L]` for tokens `[N, L]` or
            features `[N, L, C]`, or a dataset of sequences of different lengths, which are padded; "language", token
            numbers `[N, L + 1]`, one long row of them, or text. A target of -100 does not count. By default the task of
            the embedded data or of a table's target (text and up to 20 different whole numbers are classes), else
            classification.
        weights: trained weights with which every contestant begins: a state_dict in a `.pt`, `.pth` or `.safetensors`
            file, a file with a whole model, or "pretrained" for the weights in the cache of timm or torchvision
            (nothing is downloaded). A last layer for another number of classes keeps its initial weights.
        train: a function, or `package.module:function`, that trains one model and returns its results, such as
            `{"rmse": 0.31}`; instead of `model` and `data`.
        metric: with `train`, the key of that dict by which runs are judged; else a metric of the task: accuracy; rmse,
            mae, r2; dice, iou (means over the classes); f1 (mean over the classes), accuracy (of tokens); perplexity.
        direction: with `train`, "max" where more of it is better, "min" where less is.
        target: the column of a table that is to be predicted: its name, or its number in an array; by default the
            column called target, class, label or y, and the last one of an array.
        standardize: scale each feature of a table and each channel of a function's data to mean 0 and variance 1 over
            the training split; digits, image folders and `.npz` files are always standardized.
        batches_by: each mini-batch then holds samples of one group (a domain, a patient, a video). The value says where
            the groups are: the column of a table (which is then not a feature), the array of an `.npz` file (with the
            endings `_train` and `_test` if the splits are given), `group` for a third entry of a function's splits
            (x, y, group) or items (x, label, group), `domain` for `mixed-digits`, and for a folder a regular expression
            that is searched in each path below the directory of its class: its first group is the name of the sample's
            group, so `"(.*)/"` is for directories and `"patient(\\d+)"` for a part of the file names. Samples are held
            out at random, not whole groups; to hold out whole groups, give both splits.
        norms: names as in `normwise.layers.NORMALIZERS` (`"group:8"` for 8 groups), classes, or functions
            `channels -> Module`; `"nf"`, the normalizer-free counterpart of our nets (`resnet8`, ...), for other models
            the result of `normwise.normalizer_free`; and `"bank"`, BatchNorm with running statistics for each group of
            `batches_by`. For trained models also strategies: `"batch:frozen"`, `"batch:recalibrated"`, `"swap:group"`
            (a data-free start) and `"anneal:group"` (from the old function to the new) with any normalizer of maps. By
            default batch, group, instance, layer, none and, without `train`, nf. A contestant that cannot run
            (InstanceNorm on 1×1 maps, `nf` with a net that is not residual) is left out, and
            `SweepStarted.about["left_out"]` says why.
        batch_sizes: each at most the size of the training split; normalizers over the batch are left out at 1.
        seeds: how many, or which.
        epochs: passes over the training split, the same for every run; by default those of the task, in
            classification 6.
        learning_rate: peak rate at batch sizes of 32 and more; by default 0.6 for SGD and 0.003 for AdamW, with
            `weights` 0.05 and 0.00025. Of the rates 0.3 to 0.8, 0.6 had the best accuracy on the digits, averaged over
            the default normalizers; large nets and long runs need a lower one. With `train` it is `run.learning_rate`,
            unchanged.
        lrs: learning rates to choose from, instead of `learning_rate`: each contestant gets, at each batch size, the
            one with the best metric on a fifth of the training split that is held out for the choice; its runs then
            train on the whole training split. The held-out split of the verdict is not used. With `train` each rate is
            one call with `run.choosing` true, and the runs get the best one as `run.learning_rate`: let such a call
            measure on other samples than the runs do.
        weight_decay: for weights; biases and normalizers have none.
        optimizer: "sgd", "adamw", or a class or function that is called as optimizer(parameter_groups, lr=rate) with
            the rate as given, whatever the batch size; `package.module:function` names it.
        schedule: "cosine" with warm-up, "constant", or a function of (optimizer, total_steps) that returns a scheduler
            of torch.optim.lr_scheduler, which is stepped after each step.
        augment: a function of a training batch (x, y), on the device, that returns the changed batch; its random
            numbers are the same for every normalizer.
        precision: "fp32"; "bf16" for forward passes under autocast; "fp16", on CUDA, with a GradScaler besides.
        workers: how many processes read a dataset, 0 for none; None holds its samples in memory.
        tokenizer: for text, a function of a string that returns token numbers, or an object with a method encode;
            without it each character is a token.
        image_size: side to which the images of a folder are resized; by default the smallest at which every
            normalizer of the model gets a map of 4×4, or of 2×2 where the images are small.
        device: the GPU where there is one, else the CPU.
        until_clear: stop a contestant at a batch size where it is clearly behind, and a batch size that is decided;
            `seeds` is then the largest number of seeds. The error rate of the verdicts is divided among all the interim
            verdicts.
        budget: "30m", "2h", or seconds: a run that would probably end later is not started. The report says which runs
            are missing, and the same call does them.
        jobs: how many processes of this machine do runs at the same time, each with its share of the threads. Step
            times are measured before, while nothing else runs. Models, data and functions must be importable by other
            processes.
        shard: "3/16" does the third of sixteen parts of the sweep, on one of many machines that share `out` or have
            folders of their own; `normwise report` shows several folders as one.
        ray: the address of a Ray cluster, "auto" or "local": each run is a task with one processor per thread, and is
            repeated if its machine is lost. Step times are not measured there.
        out: folder for `results.jsonl` (a line per finished run, at once on disk), `settings.json` and, with `lrs`,
            `learning_rates.jsonl`. Runs and learning rates that the folder already holds are not repeated. Several
            processes with the same sweep may write to one folder: each has its own file, `results-1.jsonl` and so on.
        on_event: called with each `Event`.

    A row is a flat JSON dict: the run (`norm`, `batch_size`, `seed`, ...), `status` ("finished" or "diverged"),
    the metric (`test_accuracy`, or `test_rmse` and so on, in evaluation mode; `test_accuracy_train_mode` with the
    normalizers in training mode at the run's batch size; `train_eval_gap`, the second minus the first; shares go from
    0 to 1), `metrics`, all of the task's on the held-out split, `curve` by epoch, `step_ms` (forward, backward and
    update: the median of steps taken in turns with the other contestants; None if they do not all fit into memory
    together), `peak_memory_bytes` (parameters, buffers, optimizer state and the peak of one step's allocations), and
    `layers`: squared channel mean and channel variance of the input of each normalization site, at the start and at the
    end. With `train` a row has `value`, the metric; `metrics`, the whole dict that the function returned; `curve`, the
    reported values; `step_ms`, the median time between the steps of its optimizers; and `traceback` if it failed. A
    failed run does not end the sweep; the next call with the same `out` repeats it.

    Raises InputError (a ValueError), before the first run and with what to write instead, for every request that cannot
    work. KeyboardInterrupt passes through; the finished runs are in `out`. The trap: a single learning rate for all may
    suit one normalizer better than another; `lrs` chooses one for each.

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
    check_processes(train=train is not None, alone=shard is not None)
    part, seconds = parse_shard(shard), parse_budget(budget)
    if jobs > 1 and ray is not None:
        raise InputError("jobs= and ray= are two ways to run in parallel; write one of them.")
    if (jobs > 1 or ray is not None) and in_several_processes():
        raise InputError("All processes of this group do each run together; leave jobs and ray out.")
    if jobs > 1 or ray is not None:
        request.check_picklable("jobs" if jobs > 1 else "ray")
    with threads_of_each(jobs) as threads, ExitStack() as stack:
        experiment = open_experiment(request)
        sweep = Sweep(experiment, part, seconds)
        if isinstance(experiment, OwnTraining) and experiment.together:
            return _together(experiment, experiment.together, sweep, out, on_event)
        if out is None and jobs > 1:
            out = stack.enter_context(tempfile.TemporaryDirectory())
        store = None if out is None else stack.enter_context(Store(Path(out)))
        if ray is not None:
            return run_on_ray(sweep, request, ray, store, threads, on_event)
        if store is not None and jobs > 1:
            return run_in_processes(sweep, request, store, jobs, threads, on_event)
        return sweep.run(on_event, store)


def _together(
    experiment: OwnTraining,
    processes: Together,
    sweep: Sweep,
    out: str | os.PathLike[str] | None,
    on_event: Listener | None,
) -> list[Row]:
    """The rows, in every process. The first one does the sweep and writes; the others take part in its runs."""
    if processes.rank > 0:
        return processes.follow(experiment.take_part)
    with processes.leading() as rows, nullcontext() if out is None else Store(Path(out)) as store:
        rows += sweep.run(on_event, store)
    return rows

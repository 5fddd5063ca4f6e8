"""Rules about the batch of a process, and about several processes."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ...layers import SyncBatchNorm
from ...signal.diagnosis.findings import Finding
from ...signal.diagnosis.memory_rules import SMALL_BATCH
from .subject import Named, Subject, found

#: Below so many samples the statistics of a process alone cost accuracy: Wu and He 2018, arXiv:1803.08494, figure 1.
FEW = 16


def _synced(subject: Subject) -> Named:
    kinds = (nn.SyncBatchNorm, SyncBatchNorm)
    over_processes = subject.over_batch.items()
    return {n: m for n, m in over_processes if isinstance(m, kinds) or getattr(m, "process_group", None) is not None}


def small_batch(subject: Subject) -> Iterator[Finding]:
    """The rule of `diagnose` about small batches, with the given batch size instead of data."""
    if subject.batch_size is None or "small batch" in subject.diagnosed:
        return
    synced = _synced(subject)
    alone = {name: m for name, m in subject.over_batch.items() if name not in synced}
    size = subject.batch_size
    if alone and size <= SMALL_BATCH and (subject.world_size == 1 or synced):
        raises = " At 1, layers after pooling to 1×1 raise ValueError in training." if size == 1 else ""
        yield found(
            "warning",
            "small batch",
            alone,
            f"{{names}} normalize{{s}} over batches of {size}: the statistics differ from batch to batch by about "
            f"1/sqrt({size}) of a standard deviation, and in evaluation they do not.{raises}",
            "nw.swap(model, 'group'), or nw.swap(model, 'renorm', start='copy'); a trained net: nw.freeze(model).",
            float(size),
        )


def unsynchronized(subject: Subject) -> Iterator[Finding]:
    """Each process normalizes its own samples."""
    synced = _synced(subject)
    alone = {name: m for name, m in subject.over_batch.items() if name not in synced}
    if subject.world_size == 1 or not alone:
        return
    if subject.batch_size is not None and subject.batch_size <= FEW:
        whole = subject.batch_size * subject.world_size
        yield found(
            "warning",
            "unsynchronized statistics",
            alone,
            f"{{names}} normalize{{s}} the {subject.batch_size} samples of each of {subject.world_size} processes by "
            f"themselves, where the batch has {whole}.",
            "torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) before DistributedDataParallel (nw.unsync takes it "
            "back), or nw.swap(model, 'group').",
            float(subject.batch_size),
        )
    else:
        yield found(
            "note",
            "unsynchronized statistics",
            alone,
            f"Running statistics of {{names}} are of {subject.world_size} processes' own samples, and a checkpoint has "
            "those of one.",
            "nw.recalibrate(model, loader) on all processes, before it is saved, gives every one those of all.",
            float(subject.world_size),
        )


def synchronized_alone(subject: Subject) -> Iterator[Finding]:
    """SyncBatchNorm in a single process."""
    synced = {name: m for name, m in _synced(subject).items() if isinstance(m, (nn.SyncBatchNorm, SyncBatchNorm))}
    if synced and subject.world_size == 1 and subject.target is None:
        yield found(
            "note",
            "SyncBatchNorm in one process",
            synced,
            "{names} run{s} in a single process, where nothing is synchronized, and torch's own layer trains on "
            "accelerators only.",
            "nw.unsync(model) gives the BatchNorm back, with the same parameters.",
        )

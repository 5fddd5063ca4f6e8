"""The training protocol in sentences, for a report."""

from __future__ import annotations

from ..contestants import bank, renorm
from ..contestants.normalizer_free import CONVERTED, NORMALIZER_FREE
from ..contestants.normalizer_free import PROTOCOL as COUNTERPART
from ..contestants.strategy_names import protocols
from ..settings import CLIP_NORM, COSINE, FULL_RATE_BATCH, MOMENTUM, OPTIMIZERS, WARM_UP, Settings


def protocol_of(settings: Settings, *, converted: bool = False) -> list[str]:
    """Common to all runs of our own loop; ``converted`` if `nf` is the model with its normalizers removed."""
    norms = settings.norms
    return [
        f"{_optimizer(settings)}, {settings.epochs} epochs for every run; {_schedule(settings)}.",
        _choice_of_rate(settings),
        f"Weight decay {settings.weight_decay:g} on weights only, not on biases and not on normalizers; gradients "
        f"are clipped to a global norm of {CLIP_NORM:g}.",
        "For one seed every normalizer gets the same initial weights and the same order of the data.",
        *_data(settings),
        _batches(settings),
        "A run whose loss stops being finite counts as diverged: it ends there and is credited with the "
        f"{settings.judged.spoken} of {settings.judged.chance}.",
        *([CONVERTED if converted else COUNTERPART] if NORMALIZER_FREE in norms else []),
        *([renorm.PROTOCOL] if renorm.RENORM in norms else []),
        *([bank.PROTOCOL] if bank.BANK in norms else []),
        *protocols(norms),
    ]


def _optimizer(settings: Settings) -> str:
    names = {OPTIMIZERS[0]: f"SGD with Nesterov momentum {MOMENTUM}", OPTIMIZERS[1]: "AdamW"}
    return names.get(settings.optimizer, settings.optimizer)


def _schedule(settings: Settings) -> str:
    if settings.schedule != COSINE:
        return f"the learning rate follows the schedule {settings.schedule}"
    return f"the learning rate warms up linearly over the first {WARM_UP:.0%} of the steps and follows a cosine to zero"


def _data(settings: Settings) -> list[str]:
    sentences = {
        "augment": f"{settings.augment} changes each training batch, by the same random numbers for every contestant.",
        "workers": f"Samples are read anew in each epoch, by {settings.workers or 'no'} processes beside the training.",
        "tokenizer": f"{settings.tokenizer} makes tokens of the text.",
    }
    found = [sentence for name, sentence in sentences.items() if getattr(settings, name) is not None]
    if settings.precision != "fp32":
        scaled = ", and the loss is scaled" if settings.precision == "fp16" else ""
        found.append(f"Forward passes run under autocast in {settings.precision}{scaled}; weights are kept in fp32.")
    return found


def _batches(settings: Settings) -> str:
    if settings.batches_by is None:
        return (
            "An epoch drops its last incomplete batch; the order is new in each epoch, so other samples are left "
            "out each time."
        )
    return (
        f"Each mini-batch holds samples of one group alone ({settings.batches_by}), and the groups take turns at "
        "random; an epoch drops the last incomplete batch of each group, and repeats the samples of a group that "
        "is smaller than a batch. The held-out samples come by group, too, where the normalizers are in training "
        "mode."
    )


def _choice_of_rate(settings: Settings) -> str:
    scaled = {
        OPTIMIZERS[0]: f"× min(1, batch size / {FULL_RATE_BATCH})",
        OPTIMIZERS[1]: f"× min(1, √(batch size / {FULL_RATE_BATCH}))",
    }.get(settings.optimizer, "at every batch size")
    if settings.lrs:
        tried = ", ".join(f"{rate:g}" for rate in settings.lrs)
        best = "highest" if settings.judged.sign > 0 else "lowest"
        return (
            f"Peak learning rate: of {tried} ({scaled}) the one with the {best} {settings.judged.spoken} on a fifth of "
            "the training split that is held out for the choice only; chosen for each normalizer and batch size."
        )
    rates = ", ".join(f"{settings.rate(size):.3g} at {size}" for size in settings.batch_sizes)
    return (
        f"Peak learning rate: {settings.learning_rate:g} {scaled}, that is {rates}; the same for every normalizer, "
        "which may not suit all of them (--lrs chooses for each)."
    )

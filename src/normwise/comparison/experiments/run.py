"""The argument of a user's training function: normalizer, batch size, seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

from ...layers import Norm, make_norm
from ...layers.registry import find_normalizer
from ..contestants.normalizer_free import NORMALIZER_FREE
from ..contestants.replacement import ranks_of_model, replace_in_place
from ..contestants.strategies import Forward, Treatment, is_whole_model_only, treat, without_normalizers
from ..contestants.strategy_names import strategy_of
from ..contestants.token_layers import is_for_tokens
from ..metric import as_finite

Model = TypeVar("Model", bound=nn.Module)
Report = Callable[[int, dict[str, float | None]], None]


class TrainingRun:
    """One run of a comparison, as `compare(train=...)` gives it to the training function.

    Attributes:
        name: the name of the normalizer in the report, such as "group:8".
        batch_size, seed, epochs, learning_rate, device: as given to `compare`; the learning rate is not scaled by the
            batch size. It is None if none was given, and with `lrs` the rate chosen for this contestant. The random
            numbers of torch, NumPy and Python are seeded with `seed` before the call, so that all normalizers begin
            with the same weights. For the same order of samples, give a shuffling loader its own generator, seeded with
            `seed`.
        choosing: whether this call only serves to choose the learning rate (`lrs`): measure it on other samples than
            those of the final metric.
    """

    def __init__(
        self,
        norm: Norm,
        name: str,
        *,
        batch_size: int,
        seed: int,
        epochs: int,
        learning_rate: float | None,
        device: str,
        on_report: Report,
        choosing: bool = False,
    ) -> None:
        self.name, self.batch_size, self.seed, self.epochs = name, batch_size, seed, epochs
        self.learning_rate, self.device, self.choosing = learning_rate, device, choosing
        self._norm, self._on_report = norm, on_report
        self._treatments: list[Treatment] = []

    def norm(self, channels: int, rank: int = 2) -> nn.Module:
        """A new layer of this run's normalizer.

        Args:
            channels: C.
            rank: the spatial dimensions of the maps ``[N, C, *space]``: 2 for images, 3 for volumes, 1 for
                ``[N, C, L]`` and for features ``[N, C]``. A normalizer of tokens, such as "token-rms", is one of
                ``[*, C]`` whatever the rank.

        Raises ValueError if the normalizer does not fit, and for contestants that change a whole model: "nf" and
        strategies such as "batch:frozen".
        """
        if is_whole_model_only(self._norm):
            raise ValueError(
                f"run.norm: {self.name!r} changes a whole model and has no single layer; call run.replace(model), "
                "or leave it out of norms."
            )
        if isinstance(self._norm, str) and is_for_tokens(self._norm):
            name, _, _ = self._norm.partition(":")
            return find_normalizer(name).make(channels, 1, None)
        return make_norm(self._norm, channels, rank)

    def replace(self, model: Model, example: Any = None) -> Model:
        """Put this run's normalizer in the place of a model's own, in place; returns the model.

        A normalizer of maps replaces BatchNorm, InstanceNorm and GroupNorm layers, one of tokens LayerNorm and RMSNorm
        layers over the last dimension, also those of transformers and timm; "none" removes the layers of maps or, if
        there are none, those of tokens. Weights and biases that are not 1 and 0 everywhere are kept. A strategy such as
        "batch:frozen" or "swap:group" begins here; "nf" removes the normalizers.

        Args:
            model: any module.
            example: an input batch of the model, run once to find the rank of each layer's maps. Without it the rank is
                that of the layer's class, for GroupNorm and SyncBatchNorm that of the model's convolutions. Required
                for "nf".

        Raises ValueError if the model has no such layer, and if a strategy finds no trained statistics.
        """
        if self._norm == NORMALIZER_FREE:
            if example is None:
                raise ValueError("run.replace: 'nf' measures the model's signal on a batch; pass one as example=.")
            return without_normalizers(model, example)  # type: ignore[return-value]
        strategy = strategy_of(self._norm)
        if strategy is None:
            replace_in_place(model, self._norm, example)
            return model
        self._treatments.append(treat(model, strategy, ranks_of_model(model, example), example))
        return self._treatments[-1].model  # type: ignore[return-value]

    def advance(self, share: float) -> None:
        """Call before a step with the share of the training, from 0 to 1, that is done; "anneal:group" uses it.

        For other contestants it does nothing.
        """
        for treatment in self._treatments:
            treatment.advance(share)

    def finish(self, model: nn.Module, loader: Iterable[Any], forward: Forward | None = None) -> None:
        """Do the last step of a strategy, after training and before the evaluation; nothing for other contestants.

        "batch:recalibrated" reads `loader`, batches as `normwise.recalibrate` takes them, with its `forward`. A run of
        "batch:recalibrated" or "anneal:group" that returns without this call has failed.
        """
        for treatment in self._treatments:
            if treatment.model is model:
                treatment.end(loader, forward)

    @property
    def unfinished(self) -> bool:
        """Whether `finish` must still be called for a strategy."""
        return not all(treatment.ended for treatment in self._treatments)

    def report(self, epoch: int, **metrics: float) -> None:
        """Report the metrics of an epoch, counted from 1, for the progress bar and the curves of the report.

        A value that is not a finite number is shown as missing.
        """
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
            raise ValueError(f"run.report: epoch must be an integer of at least 1, received {epoch!r}.")
        shown = {name: as_finite(value) for name, value in metrics.items()}
        self._on_report(epoch, shown)

    def __repr__(self) -> str:
        return f"TrainingRun({self.name!r}, batch_size={self.batch_size}, seed={self.seed})"

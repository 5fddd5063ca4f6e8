"""`adapt`: fit the statistics of a trained net to data of another domain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..core.model_change import ModelChange
from ..core.numbers import check_number
from ..core.processes import ProcessGroup
from ..layers.statistics import statistics_bank
from ..signal.batches import Forward
from ..signal.modules import unwrapped
from .banking import add_bank
from .batches import Batches
from .entropy import minimize
from .given import check_model
from .recalibrated import Recalibrated
from .recalibrating import recalibrate, remembering_layers
from .report import Report, Table
from .together import Together
from .transition import check_closed

METHODS = ("stats", "entropy")
_NAME = "adapt"


def adapt(
    model: nn.Module,
    loader: Iterable[Any],
    method: str = "stats",
    forward: Forward | None = None,
    *,
    bank: str | None = None,
    steps: int | None = None,
    blend: float = 1.0,
    lr: float = 1e-3,
    upstream: str = "batch",
    process_group: ProcessGroup | str | None = None,
) -> Adapted:
    """Fit the normalizers of a trained net to data of another domain, without labels and in place.

    Args:
        loader, forward, steps, blend, upstream, process_group: as in `recalibrate`.
        method: ``"stats"`` recalibrates the running statistics (AdaBN). ``"entropy"`` first trains γ and β to lower the
            entropy of the predicted classes: one step of Adam for each batch, normalized by its own statistics (TENT);
            then it recalibrates.
        bank: keep the new statistics in a bank of this name and the old ones in the layer: one net for several domains.
            ``with nw.statistics_bank(model, bank)`` uses them. Layers of torch are replaced by this package's, with the
            same parameters and names; a new bank starts with the layer's own statistics. All banks share γ and β, so
            a bank needs the method "stats".
        lr: the learning rate of "entropy".

    Warns and raises as `recalibrate`; ValueError also for an output without class logits, for layers without γ and β,
    and for layers that cannot keep a bank. After any exception the model is unchanged.

    Source: Li et al. 2016, arXiv:1603.04779 (AdaBN); Wang et al. 2021, arXiv:2006.10726 (TENT). TENT keeps normalizing
    by each batch after the training; here the running statistics of the data are used instead. The trap: both methods
    assume the same class balance as in training; with other shares of the classes the statistics are wrong.

    >>> import torch
    >>> net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))
    >>> night = torch.randn(3000, 2) / 2 - 1
    >>> result = adapt(net, night.split(100), bank="night")
    >>> with statistics_bank(net, "night"):
    ...     net.eval()(night).shape
    torch.Size([3000, 3])
    >>> net[0].running_mean, torch.allclose(net[0].banks["night"].running_mean, night.mean(0), atol=1e-6)
    (tensor([0., 0.]), True)
    """
    if method not in METHODS:
        raise ValueError(f"{_NAME}: method must be 'stats' or 'entropy', received {method!r}.")
    check_number(_NAME, "lr", lr, 0.0)
    whole = unwrapped(model, _NAME)
    check_closed(whole, _NAME)
    layers = remembering_layers(whole, _NAME)
    options = {"steps": steps, "blend": blend, "upstream": upstream, "process_group": process_group}
    if bank is not None:
        if method == "entropy":
            raise ValueError(f"{_NAME}: γ and β are shared by all banks; bank= goes with method='stats'.")
        return _into_bank(model, loader, forward, bank, layers, options)
    if method == "stats":
        return Adapted(method, bank, recalibrate(whole, loader, forward, **options))
    return _surer(whole, loader, forward, layers, lr, options)


class Adapted(Report):
    """The result of an adaptation: ``recalibrated`` is the report of the statistics, ``rows`` are its rows, and
    ``entropies`` are the mean entropies of the batches in nats (method "entropy" only)."""

    def __init__(
        self,
        method: str,
        bank: str | None,
        recalibrated: Recalibrated,
        entropies: tuple[float, ...] = (),
        change: ModelChange | None = None,
    ) -> None:
        self.method, self.bank, self.recalibrated, self.entropies = method, bank, recalibrated, entropies
        self.rows = recalibrated.rows
        self._change = change

    def undo(self) -> nn.Module:
        """Restore the old statistics, γ, β and layers; raises as `Recalibrated.undo`."""
        model = self.recalibrated.undo()
        return model if self._change is None else self._change.undo()

    def table(self) -> Table:
        shown = self.recalibrated.table()
        notes = list(shown.notes)
        if self.bank is not None:
            notes.append(
                f"The statistics are in the bank {self.bank!r}: with nw.statistics_bank(model, {self.bank!r})."
            )
        if self.entropies:
            notes.append(f"The entropy of a batch went from {self.entropies[0]:.3g} to {self.entropies[-1]:.3g} nats.")
        return shown._replace(notes=notes)


def _into_bank(
    model: nn.Module,
    loader: Iterable[Any],
    forward: Forward | None,
    bank: str,
    layers: dict[nn.Module, str],
    options: dict[str, Any],
) -> Adapted:
    check_model(model, _NAME)
    with ModelChange(model, _NAME) as change:
        add_bank(change, layers, bank, _NAME)
        with statistics_bank(change.model, bank):
            done = recalibrate(change.model, loader, forward, **options)
    return Adapted("stats", bank, done, change=change)


def _surer(
    model: nn.Module,
    loader: Iterable[Any],
    forward: Forward | None,
    layers: dict[nn.Module, str],
    lr: float,
    options: dict[str, Any],
) -> Adapted:
    if Together(options["process_group"], _NAME):
        raise ValueError(f"{_NAME}: method='entropy' trains in one process; pass process_group=dist.new_group([rank]).")
    batches = Batches(loader, forward, options["steps"], _NAME)
    if batches.once_only():
        raise TypeError(
            f"{_NAME}: method='entropy' reads the loader twice, and a {type(loader).__name__} can be read only once; "
            "write list(loader)."
        )
    names = {p: name for name, p in model.named_parameters()}
    with ModelChange(model, _NAME) as change:
        surer = minimize(model, list(layers), batches, lr, _NAME)
        for p, values in surer.trained.items():
            change.write(p, values, names[p])
        done = recalibrate(model, loader, forward, **options)
    return Adapted("entropy", None, done, surer.entropies, change)

"""`trace`: measure the signal of a model on some input and leave the model unchanged."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Forward, batches_of, call_for, copied, is_batch, run
from .forward_pass import ForwardPass
from .inputs import default_input, device_of, gaussian, is_shape
from .modules import is_scripted, tensors_in, unwrapped, watched_modules
from .protection import as_it_was, evaluate, random_numbers_kept, set_skip_gains
from .readings import TapReadings
from .records import Trace
from .sightings import Sighting
from .zero_branches import zero_branches

NamedTaps = Mapping[str, str | None] | Sequence[str]


def trace(
    model: nn.Module,
    input: Any = None,
    *,
    skip_gain: float | None = None,
    stochastic_depth: bool = False,
    batch_statistics: bool = True,
    backward: bool = False,
    histograms: bool = False,
    taps: NamedTaps = (),
    forward: Forward | None = None,
    batches: int = 8,
    seed: int = 0,
) -> Trace:
    r"""Measure the signal of a model: average channel squared mean and variance of every layer, block and branch.

    .. math:: \text{squared\_mean} = \frac1C \sum_c \overline{x_c}^2, \qquad
              \text{variance} = \frac1C \sum_c \overline{(x_c - \overline{x_c})^2}

    over all samples and positions of all batches (variance **biased**). *Layers* are the outputs of all modules that
    call no other. *Blocks* are the outputs of residual additions, *branches* the ends of their residual branches before
    gain, scale, stochastic depth and addition; both are found while the model runs, independent of its code. `Trace`
    and `Tap` describe the result; the page "trace" of the docs explains how blocks are found, and the limits.

    The model runs in evaluation, without dropout, and is unchanged afterwards, also after errors: modes, buffers,
    hooks, gradients, flags, random numbers, and attributes that ``forward`` sets.

    Args:
        input: None for standard normal noise in a shape that fits the first layer (8×C×224×224 for images); a shape for
            noise of that shape; a tensor; a tuple of positional arguments; a dict of keyword arguments; a list whose
            first elements are the required arguments, such as [images, labels]; or batches of any of these in a loader,
            another iterable or a list, in which a tuple counts as (input, target). Tensors are copied to the model's
            device.
        skip_gain: the value of all SkipInit gains during the measurement; they are 0 at first, and with 1 the trace
            shows the contribution of the branches.
        stochastic_depth: whether branches are dropped during the measurement.
        batch_statistics: normalizers with running statistics use those of the batch, as in training and in the paper;
            with False they use running statistics, as in evaluation.
        backward: measure gradients, too. The cotangent is standard normal for every value of the output, and 1 for a
            scalar (a loss that ``forward`` returns).
        histograms: keep a histogram of each activation, at most 64 bins.
        taps: the names of modules whose outputs count as those of residual additions, for additions that cannot be
            observed; a mapping contains for each the module at the end of its branch.
        forward: called as ``forward(model, batch)`` instead of the model, for models that need more than their input.
        batches: the largest number of batches that are read from a loader.
        seed: of the noise, and of random numbers that the model draws.

    Raises TypeError if the model is not a module or runs in TorchScript; ValueError for lazy or meta parameters,
    unknown names in ``taps``, a model whose input shape cannot be found, an empty loader, or an output without a
    gradient for ``backward``; and the errors of the model.

    Source: Brock, De and Smith 2021, arXiv:2101.08692, section 3. The trap: at initialization BatchNorm has no running
    statistics yet, and with a SkipInit gain of 0 the branches contribute nothing; hence the two options.

    >>> import normwise as nw
    >>> net = nw.nets.resnet(8, preactivation=True)
    >>> result = nw.trace(net, (4, 3, 16, 16))
    >>> [tap.name for tap in result.blocks]
    ['stages.stage1.0', 'stages.stage2.0', 'stages.stage3.0']
    >>> len(result.branches), result.layers[0].name
    (3, 'stem.conv')
    """
    model = unwrapped(model, "trace")
    blocks = named_blocks(model, taps)
    generator = torch.Generator().manual_seed(seed)
    notes: list[str] = []
    with _on_loan(model, seed, backward):
        evaluate(model, batch_statistics=batch_statistics, stochastic_depth=stochastic_depth)
        if skip_gain is not None and set_skip_gains(model, skip_gain) == 0:
            notes.append(f"skip_gain={skip_gain:g}: the model has no SkipInit gain.")
        given = input is not None and not is_shape(input)
        call = forward or (call_for(model, input) if given else run)
        observer = _Observer(model, blocks, call, generator, backward=backward, histograms=histograms)
        if input is None:
            batch, source = default_input(model, generator)
            observer.observe_own(batch, source)
        elif is_shape(input):
            source = f"Gaussian {'×'.join(map(str, input))}"
            observer.observe(gaussian(model, tuple(input), generator))
        else:
            source = "a batch" if is_batch(model, input) else "a loader"
            for batch in batches_of(model, input, batches):
                observer.observe(batch)
    measured = tuple(readings.tap() for readings in observer.pooled.values())
    notes += [*observer.notes(), *zero_branches(model, measured)]
    return Trace(type(model).__name__, measured, source, observer.batches, tuple(notes))


class _Observer:
    """Runs batches through the model and pools the readings."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Mapping[str, str | None],
        forward: Forward,
        generator: torch.Generator,
        *,
        backward: bool,
        histograms: bool,
    ) -> None:
        self._model = model
        self._blocks = blocks
        self._forward = forward
        self._generator = generator
        self._backward = backward
        self._histograms = histograms
        self.batches = 0
        self.pooled: dict[tuple[str, str], TapReadings] = {}
        self._unseen: dict[str, None] = {}

    def observe_own(self, batch: Tensor, source: str) -> None:
        """Observe a batch of noise; its errors mention the noise, since the model may be in order."""
        try:
            self.observe(batch)
        except Exception as error:
            raise ValueError(
                f"trace chose noise as the input of {type(self._model).__name__} ({source}), and the model fails on it "
                f"({type(error).__name__}: {error}); pass input=."
            ) from error

    def observe(self, batch: Any) -> None:
        leaves: list[Tensor] = []
        batch = copied(batch, device_of(self._model), lambda x: self._input(x, leaves))
        watched = ForwardPass(
            self._model,
            self._blocks,
            heard=_nothing if self._backward else None,
            start_gradients=self._backward,
            histograms=self._histograms,
        )
        with watched:
            output = self._forward(self._model, batch)
        if self._backward:
            self._run_backward(output, leaves + watched.roots)
        self.batches += 1
        self._unseen |= dict.fromkeys(watched.unseen)
        pool(self.pooled, watched.sightings)

    def _input(self, x: Tensor, leaves: list[Tensor]) -> Tensor:
        """A copy: the model may work on its input in place."""
        if not (self._backward and x.is_floating_point()):
            return x.clone()
        leaves.append(x.clone().requires_grad_())
        return leaves[-1].clone()

    def _run_backward(self, output: Any, roots: list[Tensor]) -> None:
        outputs = [x for x in tensors_in(output) if x.requires_grad]
        if not outputs:
            raise ValueError(
                f"trace(backward=True): no output of {type(self._model).__name__} has a gradient with respect to its "
                "input; write forward= so that it returns the tensors from which the backward pass starts."
            )
        cotangents = [self._cotangent(x) for x in outputs]
        torch.autograd.grad(outputs, roots, cotangents, allow_unused=True)

    def _cotangent(self, x: Tensor) -> Tensor:
        if x.dim() == 0:
            return torch.ones_like(x)
        return torch.randn(x.shape, generator=self._generator, device="cpu").to(x.device, x.dtype)

    def notes(self) -> list[str]:
        changing = [r.name for r in self.pooled.values() if r.left_out]
        scripted = sum(is_scripted(module) for module in self._model.modules())
        return [
            *([f"{scripted} modules run in TorchScript and are not examined inside."] if scripted else []),
            *unseen_notes(self._unseen),
            *([f"Only the first batch counts where channels change: {', '.join(changing)}."] if changing else []),
        ]


def unseen_notes(names: Iterable[str]) -> list[str]:
    """A sentence on the modules that were not measured."""
    known = list(dict.fromkeys(names))
    outermost = [name for name in known if not any(name.startswith(f"{other}.") for other in known)]
    return [f"Inside torch.vmap nothing is measured: {', '.join(outermost)}."] if outermost else []


def pool(pooled: dict[tuple[str, str], TapReadings], sightings: Iterable[Sighting]) -> None:
    """Add the readings of a forward pass to those of earlier ones."""
    for kind, name, type_name, reading, _, part in sightings:
        if (kind, name) in pooled:
            pooled[kind, name].add(reading)
        else:
            pooled[kind, name] = TapReadings(name, kind, type_name, reading, part)


def _nothing() -> None:
    pass


@contextmanager
def _on_loan(model: nn.Module, seed: int, backward: bool) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(as_it_was(model))
        stack.enter_context(random_numbers_kept({p.device for p in model.parameters()}, seed))
        stack.enter_context(run_eagerly())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(backward))
        if backward:
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                # cuDNN has no backward of a recurrent net in evaluation.
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def run_eagerly() -> Any:
    """Inside the block compiled parts run uncompiled. It avoids importing the compiler, which would be slow."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def named_blocks(model: nn.Module, taps: NamedTaps) -> dict[str, str | None]:
    blocks = dict(taps) if isinstance(taps, Mapping) else dict.fromkeys([taps] if isinstance(taps, str) else taps)
    names = set(watched_modules(model).values())
    for name in [*blocks, *blocks.values()]:
        if name is not None and name not in names:
            close = get_close_matches(name, names)
            raise ValueError(
                f"taps: {type(model).__name__} has no module {name!r}"
                + (f"; did you mean {' or '.join(map(repr, close))}?" if close else "; see model.named_modules().")
            )
    return blocks

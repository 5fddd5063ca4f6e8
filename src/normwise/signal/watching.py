"""`watch`: a trace of every n-th step of a training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import Any

from torch import nn
from torch.autograd import Variable

from normwise.core.observed import is_observed

from .forward_pass import ForwardPass
from .modules import unwrapped
from .readings import TapReadings
from .records import Trace
from .sightings import Sightings
from .sinks import Target, sink_for
from .tracing import NamedTaps, named_blocks, pool, run_eagerly, unseen_notes
from .trainer_hooks import TrainerHooks


def watch(model: nn.Module, to: Target, *, every: int = 100, histograms: bool = False, taps: NamedTaps = ()) -> Watch:
    """Log the signal of a model while it trains: a `Trace` of the training step itself, every ``every`` steps.

    Steps are the calls of the model in training mode, counted from 0; evaluation is not logged. A logged step measures
    the actual activations (with dropout, stochastic depth and the current gains), and their gradients in the following
    backward pass, at the end of which it is written. Other steps are only counted. Compiled models run a logged step
    uncompiled. Calls inside an export, a trace, a transform of `torch.func` or a compilation do not count as steps
    (compile a model before you watch it).

    Args:
        to: a function, called as ``to(step, trace)``; the path of a ``.csv`` file; a folder for TensorBoard, or its
            ``SummaryWriter``.
        every: steps between two logged ones.
        histograms, taps: as in `trace`.

    Returns a context manager whose `close` ends the watch and removes all hooks. It is also a callback for Lightning's
    and Hugging Face's ``Trainer(callbacks=[...])``: the steps are then the trainer's optimizer steps (of several
    batches in one step the first is logged), and the end of the training closes the watch. In a LightningModule it
    observes everything that ``training_step`` calls, not only ``forward``.

    Raises TypeError and ValueError as `trace` does, ImportError if TensorBoard is not installed, and ValueError for
    ``every`` below 1. The traps: with a gradient scaler the gradients are those of the scaled loss; under
    DistributedDataParallel every process logs its own shard (watch in one of them, or log to different files).

    >>> import torch, normwise as nw
    >>> net = nw.nets.resnet(8)
    >>> seen = []
    >>> with nw.watch(net, lambda step, trace: seen.append((step, len(trace.blocks))), every=2):
    ...     for _ in range(4):
    ...         net(torch.randn(2, 3, 8, 8)).square().mean().backward()
    >>> seen
    [(0, 3), (2, 3)]
    """
    return Watch(model, to, every=every, histograms=histograms, taps=taps)


class Watch(TrainerHooks):
    """A running watch, the result of `watch`."""

    def __init__(self, model: nn.Module, to: Target, *, every: int, histograms: bool, taps: NamedTaps) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"watch(every={every!r}): the steps between two logged ones must be a positive integer.")
        if isinstance(model, nn.DataParallel):
            raise TypeError("watch cannot observe the replicas of DataParallel; use DistributedDataParallel.")
        self._watched = unwrapped(model, "watch")
        for module in (model, self._watched):
            if getattr(module, "_compiled_call_impl", None) is not None:
                raise TypeError("watch cannot observe a model compiled in place; use model = torch.compile(model).")
        self._called = model
        self._blocks = named_blocks(self._watched, taps)
        self._every = every
        self._histograms = histograms
        self._steps = 0
        self._told: int | None = None
        self._around_step = False
        self._running: ForwardPass | None = None
        self._entered = ExitStack()
        self._logged = 0
        self._pending: Sightings | None = None
        self._notes: tuple[str, ...] = ()
        self._is_queued = False
        self._sink = sink_for(to)

        self._handles = [
            model.register_forward_pre_hook(_Hook(self._before), with_kwargs=True),
            model.register_forward_hook(_Hook(self._after), with_kwargs=True, always_call=True),
        ]

    def close(self) -> None:
        """End the watch. A logged step without a backward pass so far is written without gradients."""
        for handle in self._handles:
            handle.remove()
        self._leave()
        self._write()
        self._sink.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if is_observed():
            return  # a call that is compiled, exported or transformed is not a step and has no values
        if module is self._called and self._watched.training and not self._around_step:
            self._begin(args, kwargs)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if module is self._called and self._running is not None and not self._around_step:
            self._end(self._running, args, kwargs, output)

    def begin_step(self, step: int, around: nn.Module | None = None) -> None:
        """A step of a trainer begins; the trainer's module is observed until `end_forward`."""
        self._leave()
        if step == self._told:
            self._steps = step + 1  # another batch of the same optimizer step
            return
        self._told = self._steps = step
        if around is self._watched and self._starts():
            self._around_step = True
            self._listen(root=True)

    def end_forward(self) -> None:
        """The forward passes of a trainer's step are done, before its backward pass."""
        running, around = self._running, self._around_step
        if running is not None and around:
            self._leave()
            self._finish(running)

    def _begin(self, args: Any, kwargs: Any) -> None:
        # After a KeyboardInterrupt no hook ends the pass, so the last one may still be open.
        self._leave()
        if self._starts():
            is_root = self._called is self._watched
            running = self._listen(root=not is_root)
            if is_root:
                running.enter_call(self._watched, args, kwargs)

    def _starts(self) -> bool:
        """Count a step; returns whether to log it."""
        step, self._steps = self._steps, self._steps + 1
        if step % self._every or (self._told is not None and step != self._told):
            return False
        self._write()
        self._logged = step
        return True

    def _listen(self, *, root: bool) -> ForwardPass:
        self._entered.enter_context(run_eagerly())
        watched = ForwardPass(self._watched, self._blocks, heard=self._heard, histograms=self._histograms, root=root)
        self._running = self._entered.enter_context(watched)
        return watched

    def _end(self, running: ForwardPass, args: Any, kwargs: Any, output: Any) -> None:
        failed = output is None
        if self._called is self._watched and not failed:
            running.leave_call(self._watched, args, kwargs, output)
        self._leave()
        if not failed:
            self._finish(running)

    def _finish(self, running: ForwardPass) -> None:
        self._pending, self._notes = running.sightings, tuple(unseen_notes(running.unseen))
        if not any(sighting.reading.listens for sighting in running.sightings):
            self._write()

    def _leave(self) -> None:
        self._running = None
        self._around_step = False
        self._entered.close()

    def _heard(self) -> None:
        """A gradient was measured: the step is complete at the end of the backward pass."""
        if not self._is_queued:
            self._is_queued = True
            Variable._execution_engine.queue_callback(self._write)

    def _write(self) -> None:
        sightings, self._pending = self._pending, None
        self._is_queued = False
        if sightings is not None:
            pooled: dict[tuple[str, str], TapReadings] = {}
            pool(pooled, sightings)
            taps = tuple(readings.tap() for readings in pooled.values())
            name, source = type(self._watched).__name__, f"step {self._logged}"
            self._sink.write(self._logged, Trace(name, taps, source, notes=self._notes))


class _Hook:
    """A hook of a watch. In copies and saved files of the model the hook does nothing.

    There it is replaced by an object of the standard library, so that loading the model does not need normwise.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> None:
        self._function(*arguments)

    def __reduce__(self) -> Any:
        return getattr, (nullcontext(), "__exit__")

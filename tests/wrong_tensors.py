"""Every tensor of every layer and function, and what may be wrong with it."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from conformance.cases import Case, cases, needs_processes
from functional_cases import VALUES
from torch import Tensor, nn

import normwise as nw
import normwise.functional as nf
from normwise.backends import available_backends

C = 6
MAP, ROWS = (4, C, 5, 3), (4, 5, C)
STYLE = torch.randn(4, C, 4, generator=torch.Generator().manual_seed(5))


class Layer(NamedTuple):
    """A layer, the shape of its input, and what ``forward`` takes besides."""

    id: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    others: tuple[Any, ...] = ()

    def run(self, layer: nn.Module, x: Tensor, **options: Any) -> Tensor:
        return layer(x, *self.others, **options)


def _rows_of_the_table() -> Iterator[Layer]:
    for case in cases():
        if case.rank == 2:
            yield Layer(case.name, partial(_alone, case), tuple(case.input().shape), case.condition(torch.float32))


def _alone(case: Case) -> nn.Module:
    """The layer as it is made, with the batch of this process alone."""
    layer = case.made()
    if needs_processes(case):
        layer.process_group = None  # type: ignore[assignment]
    return layer


#: One for each row of `NORMALIZERS`, and what these leave out.
LAYERS = [
    *_rows_of_the_table(),
    Layer("instance tracked", lambda: nw.InstanceNorm2d(C, affine=True, track_running_stats=True), MAP),
    Layer("filter-response all", lambda: nw.FilterResponseNorm2d(C, learnable_eps=True), MAP),
    Layer("batch [N, C]", lambda: nw.BatchNorm1d(C), (8, C)),
    Layer("token-layer of two", lambda: nw.LayerNorm((5, C)), ROWS),
    Layer("token-rms of two", lambda: nw.RMSNorm((5, C)), ROWS),
]


def owner(layer: nn.Module, path: str) -> tuple[nn.Module, str]:
    module, _, name = path.rpartition(".")
    return layer.get_submodule(module), name


def tensors_of(layer: nn.Module) -> list[str]:
    """The parameters and buffers of a layer that are its own and not of a convolution of torch inside."""
    names = [name for name, _ in (*layer.named_parameters(), *layer.named_buffers())]
    return [name for name in names if not isinstance(owner(layer, name)[0], nn.Conv2d)]


def replace(layer: nn.Module, path: str, new: Any) -> None:
    """As `functional_call`, ``load_state_dict(assign=True)`` and ``.data =`` do: past every check of a constructor."""
    module, name = owner(layer, path)
    place = module._parameters if name in module._parameters else module._buffers
    if new is None or isinstance(new, Tensor):
        place[name] = new
    else:
        del place[name]
        object.__setattr__(module, name, new)


def _sized(size: Callable[[int], int]) -> Callable[[Tensor], Tensor | None]:
    def wrong(t: Tensor) -> Tensor | None:
        last = t.shape[-1] if t.dim() else 1
        shape = (*t.shape[:-1], size(last))
        return None if size(last) in (last, 0) else t.new_ones(shape)

    return wrong


#: What may be wrong, as a function of the right tensor; None where it would be right.
WRONG: dict[str, Callable[[Tensor], Any]] = {
    "empty": lambda t: t.new_ones(0),
    "one": _sized(lambda _: 1),
    "fewer": _sized(lambda n: n - 1),
    "more": _sized(lambda n: n + 1),
    "twice": _sized(lambda n: 2 * n),
    "column": lambda t: t.new_ones(*t.shape, 1) if t.dim() else None,
    "row": lambda t: t.new_ones(1, *t.shape) if t.dim() else None,
    "complex": lambda t: t.to(torch.complex64) + 1j,
    "int64": lambda t: t.long() if t.is_floating_point() else t.float(),
    "bool": lambda t: t.bool(),
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "number": lambda _: 1.0,
}
#: The tensors that a layer or function can do without.
OPTIONAL = ("weight", "bias", "num_batches_tracked", "learned_eps", "tau")
REQUIRED_WEIGHTS = ("global-response", "conditional-instance", "conditional-batch")


def wrong_values(right: Tensor, *, required: bool) -> Iterator[tuple[str, Any]]:
    """Each wrong tensor in the place of the ``right`` one, with its name."""
    for kind, make in WRONG.items():
        wrong = make(right.detach())
        if wrong is not None:
            yield kind, wrong
    if required:
        yield "absent", None


def is_required(layer: str, name: str) -> bool:
    if name == "weight" and layer in REQUIRED_WEIGHTS:
        return True
    return name.rpartition(".")[2] not in OPTIONAL


class Way(NamedTuple):
    """How a call is made: on the automatic or the kernels' way, with a graph or without."""

    backend: str
    graph: bool

    def __call__(self, call: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        chosen = contextlib.nullcontext() if self.backend == "automatic" else nw.use_backend(self.backend)
        with chosen, torch.set_grad_enabled(self.graph):
            y = call(x.requires_grad_(self.graph))
            if self.graph:
                y.backward(torch.ones_like(y))


#: The kernels take small tensors, too, where they are chosen; without a compiler there are none.
BACKENDS = ["automatic", *(name for name in ("cpu", "reference") if available_backends()[name] is None)]
WAYS = [Way(backend, graph) for backend in BACKENDS for graph in (False, True)]


class Function(NamedTuple):
    """A function, its tensors by name, and its other arguments."""

    function: Callable[..., Any]
    tensors: dict[str, Tensor]
    options: dict[str, Any]
    shape: tuple[int, ...] = MAP

    def run(self, x: Tensor, **tensors: Any) -> Tensor:
        found = self.function(x, **{**self.options, **self.tensors, **tensors})
        return found[0] if isinstance(found, tuple) else found


_NORMALIZING = ("normwise.functional.plain", "normwise.functional.pooled")
_ROW_FUNCTIONS = ("layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm")
_OPTIONS: dict[str, Any] = {"num_groups": 3, "normalized_shape": (C,), "first": 2, "style": STYLE, "running": None}
_VALUES = {**VALUES, "learned_eps": torch.tensor([1e-4]), "residual": torch.ones(ROWS)}


def _functions() -> dict[str, Function]:
    """Every function of `normwise.functional` that normalizes, by its signature."""
    found = {}
    for name, function in vars(nf).items():
        if not inspect.isfunction(function) or inspect.unwrap(function).__module__ not in _NORMALIZING:
            continue
        arguments = inspect.signature(function).parameters
        options = {key: value for key, value in _OPTIONS.items() if key in arguments}
        if "running" in options:
            options["running"] = nf.initial_statistics(C)
        annotated = {key for key, p in arguments.items() if p.annotation in ("Tensor", "Tensor | None")} - {"x"}
        tensors = {key: _VALUES[key].float() for key in arguments if key in annotated}
        if "dim" in arguments:
            options["dim"] = 1
        found[name] = Function(function, tensors, options, ROWS if name in _ROW_FUNCTIONS else MAP)
    return found


FUNCTIONS = _functions()
REQUIRED = ("v", "mean_weight", "var_weight", "gate", "alpha", "shift")


def is_needed(function: str, name: str) -> bool:
    return name in REQUIRED or (function, name) == ("global_response_norm", "weight")


def takes_rows_of_samples(function: str, right: Tensor) -> bool:
    """Whether ``[1, C]`` and ``[N, C]`` are right, too: one affine map for each sample."""
    alone = (*_ROW_FUNCTIONS, "layer_norm2d", "rms_norm2d", "positional_norm", "dynamic_tanh", "dynamic_erf")
    return right.shape == (C,) and function not in alone

"""The model of a comparison, built with any normalizer from the same initial weights."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import InputError, first_line
from ...layers import NORMALIZERS, Norm
from ..fingerprints import digest
from ..isolation import isolated
from ..references import result_of
from ..tasks import Task
from ..tasks.classification import Classification
from .bank import BANK
from .normalizer_free import NORMALIZER_FREE
from .replacement import (
    TOKENS,
    check_replaceable,
    normalization_layers,
    replace_normalizers,
    replaceable_by,
    run_with_maps,
)
from .strategies import Treatment, treat, without_normalizers
from .strategy_names import row_of, strategy_of
from .token_layers import is_for_tokens, token_layers

REFERENCE = "batch"


class ShapeError(InputError):
    """The model does not take samples of this shape."""


class Network(NamedTuple):
    """A model, the names of its normalization sites (also of those that hold nn.Identity), whether their inputs are
    rows `[*, C]` and not maps `[N, C, *space]`, and the strategy that changes the model, if there is one."""

    module: nn.Module
    sites: tuple[str, ...]
    of_tokens: bool = False
    treatment: Treatment | None = None


class Blueprint(NamedTuple):
    """How to build a model.

    `make` is called with the normalizer if `takes_norm`; otherwise it is called without arguments and the normalization
    layers of its result are replaced. `normalizer_free` makes the model's counterpart without normalizers, if it has
    one. `notes` are sentences for the report.
    """

    name: str
    make: Callable[..., Any]
    takes_norm: bool
    normalizer_free: Callable[[], nn.Module] | None = None
    notes: tuple[str, ...] = ()


class Recipe:
    """Builds one architecture with any normalizer; for one seed all share the tensors that no normalizer owns.

    `example` is a batch of samples, `classes` the number of outputs that the model needs, which `task` checks on the
    model.
    """

    def __init__(self, blueprint: Blueprint, example: Tensor, classes: int, task: type[Task] = Classification) -> None:
        self.name, self.make, self.takes_norm, self.normalizer_free, self.notes = blueprint
        name, self.example = self.name, example
        with isolated(0, "cpu"):
            model = result_of(name, lambda: self._made(*[REFERENCE] * self.takes_norm))
            check_replaceable(model, name)
            try:
                output, maps = run_with_maps(model.eval(), example)
            except Exception as error:  # the caller's own code may raise anything
                raise ShapeError(
                    f"{name} cannot take samples of shape {list(example.shape[1:])}: {first_line(error)} "
                    "Choose a model for this shape, or reshape the data."
                ) from error
        self.ranks = {site: len(shape) for site, shape in maps.items()}
        self.has_tokens = bool(token_layers(model))
        #: The positions of the smallest map that a normalizer gets.
        self.smallest_map = min((math.prod(shape) for shape in maps.values()), default=1)
        task.check_output(name, output, example, classes)

    def build(self, norm: Norm, seed: int) -> Network:
        """The model with `norm`, on the CPU, its weights those of `seed`."""
        with isolated(seed, "cpu"):
            if norm == BANK:
                norm = REFERENCE
            if norm == NORMALIZER_FREE and self.normalizer_free is not None:
                return Network(self.normalizer_free(), ())
            model = self._made(*[REFERENCE] * self.takes_norm)
            if norm == NORMALIZER_FREE:
                return Network(without_normalizers(model, self.example), ())
            if strategy := strategy_of(norm):
                treatment = treat(model, strategy, self.ranks, self.example)
                return Network(treatment.model, treatment.sites, treatment=treatment)
            if not self.takes_norm:
                places = replaceable_by(model, norm, self.ranks)
                return Network(model, tuple(replace_normalizers(model, norm, places)), TOKENS in places.values())
        sites = tuple(normalization_layers(model))
        if norm == REFERENCE:
            return Network(model, sites)
        with isolated(seed, "cpu"):
            other = self._made(norm)
        _share_weights(model, other, sites)
        present = dict(other.named_modules())
        return Network(other, tuple(site for site in sites if site in present))

    def why_no_place(self, name: str) -> str | None:
        """Why the model has no layer that the normalizer of this name could replace; None if it has one."""
        if is_for_tokens(name):
            if self.takes_norm:
                return "it normalizes rows of features, not the channels of a map"
            return None if self.has_tokens else f"it normalizes tokens [*, C], and {self.name} has no layer that does"
        row = row_of(name)
        if self.ranks or row is None or name == "none":
            return None
        fitting = ", ".join(filter(is_for_tokens, NORMALIZERS))
        return f"it normalizes maps [N, C, *space], and {self.name} normalizes tokens; normalizers of tokens: {fitting}"

    def fingerprint(self, norm: Norm) -> str:
        """Changes when the architecture, its code or its initial weights change."""
        module = self.build(norm, seed=0).module
        weights = hashlib.sha256()
        for name, tensor in module.state_dict().items():
            weights.update(name.encode())
            weights.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        types = {type(part) for part in module.modules() if not type(part).__module__.startswith("torch.")}
        return digest([repr(module), weights.hexdigest(), sorted(_source(part_class) for part_class in types)])

    def _made(self, *norm: Norm) -> nn.Module:
        made = self.make(*norm)
        if not isinstance(made, nn.Module):
            raise InputError(f"{self.name} must return a torch.nn.Module, it returned {type(made).__name__}.")
        return made


def _share_weights(reference: nn.Module, other: nn.Module, sites: tuple[str, ...]) -> None:
    tensors = dict(reference.named_parameters()) | dict(reference.named_buffers())
    with torch.no_grad():
        for name, tensor in [*other.named_parameters(), *other.named_buffers()]:
            owned = any(name.startswith(f"{site}.") for site in sites)
            if not owned and name in tensors and tensors[name].shape == tensor.shape:
                tensor.copy_(tensors[name])


def _source(module_class: type) -> str:
    try:
        return inspect.getsource(module_class)
    except (OSError, TypeError):
        return ""

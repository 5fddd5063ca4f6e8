"""Models by their names on the command line."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from .. import nets
from ..comparison import InputError
from ..comparison.contestants.zoo import find_in_library
from ..comparison.references import load_object, result_of

BUILDERS: dict[str, Any] = {
    name: builder
    for name, builder in vars(nets).items()
    if re.fullmatch(r"(nf_resnet\d+|nf_regnet_b\d|nfnet_f\d)", name) and callable(builder)
}


def model_builder(name: str) -> Callable[[], nn.Module]:
    """The function that makes a model: `resnet50`, `nf_resnet50`, `timm:NAME`, `torchvision:NAME`, `module:function`.

    Raises InputError for an unknown name, with the nearest known one.
    """
    library, _, rest = name.partition(":")
    if library in ("timm", "torchvision"):
        return find_in_library(library, rest)
    if rest:
        return _from_reference(name)
    if name in BUILDERS:
        return BUILDERS[name]
    if re.fullmatch(r"resnet\d+(v2)?", name):
        depth = int(name.removeprefix("resnet").removesuffix("v2"))
        return in_words(lambda: nets.resnet(depth, preactivation=name.endswith("v2")))
    near = difflib.get_close_matches(name, [*BUILDERS, "resnet50", "resnet50v2"], n=1, cutoff=0.5)
    raise InputError(
        f"model {name!r} is unknown: {f'did you mean {near[0]!r}? ' if near else ''}Write resnet50 (or another depth), "
        "resnet50v2, nf_resnet50, nf_regnet_b1, nfnet_f0, timm:NAME, torchvision:NAME or package.module:function."
    )


def in_words(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Wrap one of our builders: its ValueError, which says what to write instead, becomes an InputError."""

    def made() -> nn.Module:
        try:
            return make()
        except ValueError as error:
            raise InputError(str(error)) from error

    return made


def _from_reference(name: str) -> Callable[[], nn.Module]:
    found: Any = load_object(name)
    if isinstance(found, nn.Module):
        return lambda: found
    if not callable(found):
        raise InputError(f"{name} is not a function; it must return a torch.nn.Module.")
    needed = [
        p.name
        for p in inspect.signature(found).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise InputError(
            f"{name} has the required parameters {', '.join(needed)}; give them defaults, or write a function without "
            "parameters."
        )

    def make() -> nn.Module:
        made = result_of(name, found)
        if not isinstance(made, nn.Module):
            raise InputError(f"{name} must return a torch.nn.Module, it returned {type(made).__name__}.")
        return made

    return make

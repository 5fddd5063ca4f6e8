"""Style files: a trained net with the data needed to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import files
from ..errors import InputError
from ..nets.style import AdaptiveStyleNet, StyleNet
from ..nets.vgg import vgg_trunk

FORMAT, VERSION = "normwise style", 2
#: The fields about the training that every style file has.
RECORDED = ("size", "style_size", "steps", "features")
KINDS = ONE, MANY, ANY = "one", "many", "any"


class Style(NamedTuple):
    """A trained net, of ``kind`` one, many or any.

    ``names`` are the styles that it was trained on, ``plan`` the arguments of `build`, ``trained`` the settings of the
    training: size of the crops, steps, weights of the losses, feature network.
    """

    net: StyleNet | AdaptiveStyleNet
    kind: str
    names: tuple[str, ...]
    plan: dict[str, Any]
    trained: dict[str, Any]

    def description(self) -> str:
        """The style in one line of text."""
        what = {
            ONE: f"the style {self.names[0]}",
            MANY: f"{len(self.names)} styles ({', '.join(self.names)})",
            ANY: f"any style, trained on {len(self.names)} pictures",
        }[self.kind]
        net = f"{self.plan['norm']} norm, width {self.plan['width']}" if self.kind != ANY else self.plan["layer"]
        return f"{what}; {net}, {self.trained['steps']} steps at {self.trained['size']} px, {self.trained['features']}"


def build(kind: str, plan: Mapping[str, Any]) -> StyleNet | AdaptiveStyleNet:
    """The untrained net of a plan; ValueError if ``kind`` and ``plan`` contradict each other."""
    if kind == ANY:
        trunk = vgg_trunk(plan["convolutions"], plan["width"])
        return AdaptiveStyleNet(trunk, plan["layer"])
    if kind not in KINDS or (kind == MANY) != (plan["styles"] is not None):
        raise ValueError(f"a net of {kind!r} with {plan['styles'] or 'one'} styles")
    return StyleNet(plan["norm"], plan["width"], plan["blocks"], plan["styles"])


def save_style(style: Style, path: Path) -> None:
    """Write a style file; it is complete, or not written at all."""
    content = {"format": FORMAT, "version": VERSION, "kind": style.kind, "names": list(style.names)}
    state = {name: value.detach().cpu() for name, value in style.net.state_dict().items()}
    content |= {"plan": style.plan, "trained": style.trained, "state": state}
    with files.replacing(path) as temporary:
        torch.save(content, temporary)


def load_style(path: str | Path) -> Style:
    """The style in a file; no code in it is run.

    Raises InputError if it is no style file, or if its weights do not fit the net that it names.
    """
    content = load_mapping(Path(path), FORMAT)
    try:
        net = build(content["kind"], content["plan"])
        names = _names(content["names"], net)
        missing, unexpected = _load(net, content["state"])
        trained = dict(content["trained"])
        lacking = [key for key in RECORDED if key not in trained]
        if lacking:
            raise ValueError(f"{lacking[0]} is missing")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"{path}: its weights are not those of the net that it names ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); train it again."
        ) from error
    if missing or unexpected:
        raise InputError(f"{path}: its weights are not those of the net that it names, {(missing + unexpected)[0]}.")
    if not all(bool(t.isfinite().all()) for t in net.state_dict().values()):
        raise InputError(f"{path}: some of its weights are not finite; train it again.")
    return Style(net.eval(), content["kind"], names, dict(content["plan"]), trained)


def load_mapping(path: Path, form: str) -> dict[str, Any]:
    """The dict of this form in a file of `torch.save`; InputError for every other file."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # errors of zip, pickle and others: not a file of this form
        raise InputError(f"{path} is no file of `normwise stylize train` ({type(error).__name__}).") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise InputError(f"{path} is no file of `normwise stylize train`: it does not say {form!r}.")
    if content.get("version") != VERSION:
        raise InputError(f"{path} was written by another version of normwise ({content.get('version')}); train again.")
    return content


def _names(names: Sequence[str], net: StyleNet | AdaptiveStyleNet) -> tuple[str, ...]:
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("styles without names")
    if isinstance(net, StyleNet) and len(names) != (net.styles or 1):
        raise ValueError(f"{len(names)} names of {net.styles or 1} styles")
    return tuple(names)


def _load(net: nn.Module, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    keys = net.load_state_dict(state, strict=False)
    return list(keys.missing_keys), list(keys.unexpected_keys)

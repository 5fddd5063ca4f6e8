"""Decide from the captured graph which layers are standardized and where each residual branch is scaled."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from ...core.activations import ACTIVATIONS, MODULES, function_gain, gain
from ...signal.prediction.gaussian import Signal
from ...signal.prediction.graph import Structure
from ...signal.prediction.residuals import Residual, residuals_of
from .openings import CALLER, Opening
from .standardizing import is_layer, why_not

_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward", "softmax")
_NORMALIZING = ("batch_norm", "group_norm", "layer_norm", "instance_norm", "rms_norm", "local_response_norm")
_POOLING = ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
_ACTIVATIONS = tuple(activation for activation in MODULES.values() if isinstance(activation, type))
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass
class Plan:
    """The plan of a conversion: the layers to standardize, with the gain of the activation in front of each; the
    openings that need nothing because a standardized layer precedes them; and for each block the module behind which
    its branch is scaled."""

    layers: dict[nn.Module, float] = field(default_factory=dict)
    feeders: dict[Opening, nn.Module] = field(default_factory=dict)
    ends: dict[str, nn.Module] = field(default_factory=dict)
    names: dict[nn.Module, str] = field(default_factory=dict)


def plan_for(structure: Structure, values: Mapping[fx.Node, Any], openings: Sequence[Opening]) -> Plan:
    """The plan; ValueError, with the module's name, if the residual structure is not found or cannot be converted."""
    return _Planner(structure, values, openings).plan()


class _Planner:
    def __init__(self, structure: Structure, values: Mapping[fx.Node, Any], openings: Sequence[Opening]) -> None:
        self._structure, self._values = structure, values
        self._openings = {opening.affine: opening for opening in openings}
        self._residuals = residuals_of(structure, values)
        self._sums = {residual.sum for residual in self._residuals} | {residual.branch for residual in self._residuals}

    def plan(self) -> Plan:
        self._check()
        plan = Plan()
        for node in self._structure.graph.nodes:
            module = self._module(node)
            if module is not None and is_layer(module) and self._is_carried(node):
                reason = why_not(module)
                if reason:
                    raise ValueError(f"{CALLER}: {node.target} ({type(module).__name__}) {reason}.")
                plan.layers[module] = self._gain_before(node)
                plan.names[module] = str(node.target)
        for node in self._structure.graph.nodes:
            opening = self._openings.get(self._module(node))  # type: ignore[arg-type]
            source = node.all_input_nodes[0] if opening is not None else None
            feeder = None if source is None else self._module(source)
            if feeder in plan.layers and self._fills(node, source, opening):  # type: ignore[arg-type]
                plan.feeders[opening] = feeder  # type: ignore[index, assignment]
        for residual in self._residuals:
            plan.ends[residual.name] = self._end(residual)
        return plan

    def _check(self) -> None:
        if not self._residuals:
            first, *rest = [opening.name or "the model" for opening in self._openings.values()]
            more = f" and {len(rest)} more" if rest else ""
            raise ValueError(
                f"{CALLER}: {type(self._structure.root).__name__} has no residual addition that could be found, so "
                f"{first}{more} would be removed from a plain chain; nw.swap(model, ...) replaces them by other "
                "normalizers."
            )
        for node in self._structure.graph.nodes:
            name, scope = getattr(node.target, "__name__", str(node.target)), node.meta.get("scope") or "the model"
            if node.op.startswith("call_") and name in _NORMALIZING:
                raise ValueError(f"{CALLER}: {scope} normalizes by {name}() in its forward, which cannot be removed.")
            if node.op.startswith("call_") and name in _ATTENTION:
                raise ValueError(f"{CALLER}: {scope} is attention, whose scores need normalized inputs.")

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self._structure.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _entered(self, path: str) -> int:
        module = self._structure.root.get_submodule(path)
        paths = [other for other in self._structure.entered if self._structure.root.get_submodule(other) is module]
        return sum(self._structure.entered[other] for other in paths)

    def _is_carried(self, node: fx.Node) -> bool:
        """Whether the layer's output reaches a normalizer or a residual addition, or is the end of a branch."""
        seen, waiting = {node}, [node]
        while waiting:
            at = waiting.pop()
            if at in self._sums or self._module(at) in self._openings:
                return True
            for user in at.users:
                if user not in seen and (user in self._sums or self._passes_on(user, at)):
                    seen.add(user)
                    waiting.append(user)
        return False

    def _passes_on(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether a node has this signal as its only input, and does not mix positions."""
        module, out = self._module(node), self._values[node]
        if module is not None and (module in self._openings or not is_layer(module)):
            signals = 1
        else:
            signals = sum(isinstance(self._values[n], Signal) for n in node.all_input_nodes)
        if (module is not None and is_layer(module)) or not isinstance(out, Signal) or signals != 1:
            return False
        return out.positions > 1 or self._values[source].positions == 1

    def _gain_before(self, node: fx.Node) -> float:
        """γ of the activation in front of a layer, over pools and dropout; 1 where there is none."""
        at = node.all_input_nodes[0]
        while (module := self._module(at)) is not None and (
            isinstance(module, _IDLE) or type(module).__name__.startswith(_POOLING)
        ):
            at = at.all_input_nodes[0]
        if module is not None and isinstance(module, _ACTIVATIONS):
            return function_gain(copy.deepcopy(module).cpu().double())
        name = getattr(at.target, "__name__", str(at.target)).rstrip("_")
        return gain(name) if at.op.startswith("call_") and module is None and name in ACTIVATIONS else 1.0

    def _fills(self, node: fx.Node, source: fx.Node, opening: Opening) -> bool:
        """Whether the layer's output goes to this opening only, channel by channel."""
        signal, axis = self._values[source], opening.affine.axis
        once = self._entered(str(node.target)) == 1 and self._entered(str(source.target)) == 1
        return once and len(source.users) == 1 and signal.axis == axis % len(signal.shape)

    def _end(self, residual: Residual) -> nn.Module:
        """The module behind which a branch is scaled: the first that returns it alone, from its end to the sum."""
        at = residual.branch
        while at is not residual.sum:
            path = self._structure.returned.get(at)
            if len(at.users) != 1:
                break
            if path is not None and self._entered(path) == 1:
                return self._structure.root.get_submodule(path)
            at = next(iter(at.users))
        raise ValueError(
            f"{CALLER}: the residual branch of {residual.path or 'the model'} must end in a module that is called "
            f"once, so that it can be scaled, and it ends in {residual.branch.target}; let it end in a separate module."
        )

"""Opacus' validator and fixer: whether a layer's samples depend on each other, and which layer can replace it."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from torch import nn

from normwise.layers import (
    NORMALIZERS,
    EvoNormB0,
    EvoNormS0,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from normwise.layers.batch_layer import BatchLayer

_INSTANCE = {1: InstanceNorm1d, 2: InstanceNorm2d, 3: InstanceNorm3d}


def register(validators: ModuleType) -> None:
    """Tell Opacus of every layer that pools statistics over the batch, or remembers any."""
    errors: Any = validators.errors
    classes = dict.fromkeys(cls for row in NORMALIZERS.values() for cls in row.layers.values())
    over_batch = [cls for cls in classes if issubclass(cls, BatchLayer)]  # Opacus ignores layers without parameters
    instances = list(_INSTANCE.values())

    def validate_batch(module: nn.Module) -> list[Exception]:
        return [
            errors.ShouldReplaceModuleError(
                f"{type(module).__name__} of normwise normalizes a sample by the others of its batch, which "
                "differential privacy does not allow; take GroupNorm, InstanceNorm or another layer without statistics "
                "of the batch."
            )
        ]

    def validate_instance(module: nn.Module) -> list[Exception]:
        if not module.track_running_stats:
            return []
        return [
            errors.IllegalModuleConfigurationError(
                f"{type(module).__name__} of normwise with track_running_stats=True remembers statistics of the "
                "samples, which differential privacy does not allow; write track_running_stats=False."
            )
        ]

    validators.register_module_validator(over_batch)(validate_batch)
    validators.register_module_fixer(over_batch)(_per_sample)
    validators.register_module_validator(instances)(validate_instance)
    validators.register_module_fixer(instances)(_forgetful)


def _per_sample(module: Any, **options: Any) -> nn.Module:
    """The layer that Opacus puts in the place of torch's batch norm, with this layer's own activation."""
    if isinstance(module, EvoNormB0):
        return EvoNormS0(module.num_features, activation=module.activation)
    if not module.plain_in:
        raise ValueError(
            f"{type(module).__name__} of normwise has no counterpart without statistics of the batch; choose one for "
            "its place, such as GroupNorm or ConditionalInstanceNorm."
        )
    channels, activation = module.num_features, module.activation
    if options.get("replace_bn_with_in", False):
        if module.rank not in _INSTANCE:
            raise ValueError(f"{type(module).__name__} of normwise has any rank, InstanceNorm one; leave it GroupNorm.")
        return _INSTANCE[module.rank](channels, affine=module.affine, activation=activation)
    groups = options.get("num_groups")
    return GroupNorm(groups or math.gcd(32, channels), channels, affine=module.affine, activation=activation)


def _forgetful(module: Any, **_options: Any) -> nn.Module:
    """The same layer without running statistics."""
    if not module.track_running_stats:
        return module
    plain = type(module)(module.num_features, module.eps, affine=module.affine, activation=module.activation)
    plain.load_state_dict(dict(module.named_parameters()))
    return plain

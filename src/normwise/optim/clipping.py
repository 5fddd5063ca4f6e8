"""Adaptive gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .report import ClipReport
from .units import Classifier, Target, classifier_weights, is_distributed, targets_of

#: Avoids a division by zero for a zero gradient; the number of the official code.
SMALLEST_NORM = 1e-6


@torch.no_grad()
def adaptive_clip_grad_(
    parameters: nn.Module | Tensor | Iterable[Tensor],
    clip: float = 0.01,
    eps: float = 1e-3,
    *,
    classifier: Classifier = "final",
) -> ClipReport:
    r"""Scale gradients down, in place, where they are large compared with the weights they belong to.

    .. math:: G_i \leftarrow \lambda\,\frac{\max(\|W_i\|, \epsilon)}{\max(\|G_i\|, 10^{-6})}\,G_i
              \qquad \text{where } \|G_i\| > \lambda \max(\|W_i\|, \epsilon)

    i counts output units: the weights that feed one output. For ``Linear``, convolutions of any rank and groups,
    embeddings and recurrent weights that is dimension 0; for transposed convolutions (group, dimension 1); a scalar
    or a vector (also ``[C, 1, 1]``) is a single unit. Norms are Euclidean, in fp32 (fp64 for fp64).

    Args:
        parameters: a model, or tensors. A model also tells which convolutions are transposed, the classifier and names:
            for bare tensors dimension 0 is the unit, and all are clipped.
        clip: λ. The paper's 0.01 is for a batch size of 4096; smaller batches allow more.
        eps: a lower bound of the weight's norm, so that weights that start at zero can change.
        classifier: keyword only; the layer whose weight is not clipped (its bias is), by its role: ``"final"``,
            the last layer of the model, which must be a ``Linear``; or a module, or several; or None.

    Returns a `ClipReport`: which units were clipped. Reading it waits for the device, calling this does not.

    Under ``fully_shard`` (FSDP2) every process clips the units that it holds, and reports these; the result is the same
    as in one process. Raises ValueError where the classifier is not found, for ``clip`` or ``eps`` that are not
    positive, for sparse gradients and for shards that cut through units; TypeError for anything but a model or tensors.

    Source: Brock, De, Smith and Simonyan 2021, arXiv:2102.06171, with the units of their code.

    The trap: call it after the backward pass and after ``GradScaler.unscale_``, before the optimizer's step;
    `AdaptiveGradientClipping` does so by itself. The flattened parameters of FSDP1 have lost their units.

    >>> net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    >>> _ = nn.init.ones_(net[0].weight)
    >>> net(torch.ones(1, 3)).sum().mul(100).backward()
    >>> report = adaptive_clip_grad_(net)
    >>> net[0].weight.grad.norm(dim=1) / net[0].weight.detach().norm(dim=1)
    tensor([0.0100, 0.0100])
    >>> report.rates, report.excluded
    ({'0.weight': 1.0}, ('1.weight',))
    """
    caller = "adaptive_clip_grad_"
    check_numbers(caller, clip, eps)
    if isinstance(parameters, nn.Module):
        weights = classifier_weights(parameters, classifier, caller)
        return clip_targets(list(targets_of(parameters).values()), weights, clip, eps)
    tensors = [parameters] if isinstance(parameters, Tensor) else parameters
    if not isinstance(tensors, Iterable):
        raise TypeError(f"{caller} expects a model or tensors, received {type(parameters).__name__}.")
    tensors = list(tensors)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{caller} expects a model or tensors, received {type(tensor).__name__}.")
    unique = {id(tensor): tensor for tensor in tensors}.values()
    weights = classifier_weights(None, classifier, caller)
    return clip_targets([Target(str(i), tensor) for i, tensor in enumerate(unique)], weights, clip, eps)


def check_numbers(caller: str, clip: float, eps: float) -> None:
    for name, value in (("clip", clip), ("eps", eps)):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ValueError(f"{caller}: {name} must be a positive number, received {value!r}.")


@torch.no_grad()
def clip_targets(targets: Sequence[Target], left_out: Sequence[Tensor], clip: float, eps: float) -> ClipReport:
    """Clip the gradients of the targets, with those of one device and precision in one operation."""
    spared = {id(tensor) for tensor in left_out}
    report = ClipReport(excluded=tuple(t.name for t in targets if id(t.parameter) in spared))
    groups: dict[tuple[torch.device, torch.dtype], list[Target]] = {}
    for target in targets:
        grad = target.parameter.grad
        if grad is not None and grad.numel() and id(target.parameter) not in spared:
            _check_gradient(target, grad)
            groups.setdefault((grad.device, torch.promote_types(grad.dtype, torch.float32)), []).append(target)
    for group in groups.values():
        _clip(group, clip, eps, report)
    return report


def _clip(targets: Sequence[Target], clip: float, eps: float, report: ClipReport) -> None:
    """Clip the gradients of targets of one device and precision, and add them to the report."""
    grads: list[Tensor] = [target.parameter.grad for target in targets]  # type: ignore[misc]
    # One table of all units: a handful of operations on it, for any number of tensors.
    of_weights = [target.norms(target.parameter) for target in targets]
    limit = torch.cat(of_weights).clamp_min_(eps).mul_(clip)
    norm = torch.cat([target.norms(grad) for target, grad in zip(targets, grads, strict=True)])
    clipped = norm > limit
    scale = torch.where(clipped, limit / norm.clamp_min(SMALLEST_NORM), 1.0)
    counts = [len(units) for units in of_weights]
    torch._foreach_mul_(  # pyright: ignore[reportPrivateImportUsage]
        [target.blocks(grad) for target, grad in zip(targets, grads, strict=True)],
        [target.per_unit(values) for target, values in zip(targets, scale.split(counts), strict=True)],
    )
    report.note([target.name for target in targets], clipped.int().split(counts))


def _check_gradient(target: Target, grad: Tensor) -> None:
    """ValueError for a sparse gradient, or one whose shards cut through units."""
    if grad.layout != torch.strided:
        raise ValueError(
            f"adaptive gradient clipping: the gradient of {target.name!r} is sparse ({grad.layout}); build the layer "
            "with sparse=False, or leave its parameters out."
        )
    if is_distributed(grad):
        cut = [placement for placement in grad.placements if not placement.is_replicate()]  # type: ignore[attr-defined]
        if any(not p.is_shard(0) for p in cut) or (cut and target.fan_in.groups is not None):
            raise ValueError(
                f"adaptive gradient clipping: {target.name!r} is placed as {grad.placements}, which cuts through its "  # type: ignore[attr-defined]
                "output units; shard it on dimension 0 (the weight of a transposed convolution not at all)."
            )

"""Functions that return ``y`` alone: of one sample, pixel, row or value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from normwise.core import formulas
from normwise.core.arguments import as_mask, check_floating, check_input
from normwise.core.bound import bound
from normwise.core.formulas import Formula
from normwise.core.layout import check_memory
from normwise.core.moments import epsilon, statistics_dtype
from normwise.core.numbers import as_row_shape, check_dim, check_eps, check_groups, check_rows
from normwise.core.single_value import WITHOUT_EFFECT, check_values_per_group
from normwise.core.tables import check_optional, check_required_tables, check_scalars_or_tables
from normwise.operations import pointwise
from normwise.operations.normalize import normalize, run_for_y
from normwise.operations.request import PIXELS, Request, View

from . import adaptive
from .running import Epilogue, Options, check_maps, check_options

if TYPE_CHECKING:
    from typing_extensions import Unpack


def adaptive_instance_norm(
    x: Tensor, style: Tensor | tuple[Tensor, Tensor], *, eps: float = 1e-5, **options: Unpack[Options]
) -> Tensor:
    """`AdaptiveInstanceNorm`: a style tensor ``[N, C, *space]``, or its ``(mean, std)`` from `style_statistics`.

    >>> import torch
    >>> x = torch.randn(2, 3, 8, 8)
    >>> torch.allclose(adaptive_instance_norm(x, x), x, atol=1e-4)
    True
    """
    check_eps("adaptive_instance_norm", eps)
    return adaptive.adaptive_instance_norm(x, style, eps, **options)


def filter_response_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    learned_eps: Tensor | None = None,
    *,
    eps: float = 1e-6,
    **options: Unpack[Options],
) -> Tensor:
    """`FilterResponseNorm2d` before its threshold: each plane divided by its root mean square.

    >>> import torch
    >>> y = filter_response_norm(torch.randn(2, 3, 8))
    >>> torch.allclose(y.square().mean(2), torch.ones(2, 3), atol=1e-4)
    True
    """
    check_maps("filter_response_norm", x, eps, weight=weight, bias=bias)
    if learned_eps is not None:
        check_scalars_or_tables("filter_response_norm", x, learned_eps=learned_eps)
    check_options("filter_response_norm", options)
    formula = bound(formulas.filter_response_norm, eps=eps)
    return normalize(x, formula, weight, bias, learned_eps, **options)


def global_response_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, eps: float = 1e-6, **options: Unpack[Options]
) -> Tensor:
    """`GlobalResponseNorm`: the input, plus the share that each channel has in the response of all.

    >>> import torch
    >>> x = torch.randn(2, 3, 8)
    >>> torch.allclose(global_response_norm(x, torch.zeros(3)), x)
    True
    """
    check_maps("global_response_norm", x, eps, bias=bias)
    check_required_tables("global_response_norm", x, weight=weight)
    check_options("global_response_norm", options)
    return normalize(x, bound(formulas.global_response_norm, eps=eps), weight, bias, **options)


def evo_norm_s0(
    x: Tensor,
    v: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    **options: Unpack[Options],
) -> Tensor:
    """`EvoNormS0`: ``x sigmoid(v x)`` over the deviation of each group, with ``v`` ``[C]``.

    >>> import torch
    >>> evo_norm_s0(torch.zeros(2, 4, 3), torch.ones(4), 2).abs().max()
    tensor(0.)
    """
    check_maps("evo_norm_s0", x, eps, weight=weight, bias=bias)
    check_required_tables("evo_norm_s0", x, v=v)
    check_options("evo_norm_s0", options)
    check_groups("evo_norm_s0", num_groups, x.shape[1])
    check_values_per_group("evo_norm_s0", x, x.shape[1] // num_groups)
    return normalize(x, bound(formulas.evo_norm_s0, groups=num_groups, eps=eps), weight, bias, v, **options)


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    zero_centered: bool = False,
    **epilogue: Unpack[Epilogue],
) -> Tensor:
    """`LayerNorm` of rows ``[*, *normalized_shape]``; γ is ``1 + weight`` if ``zero_centered``.

    >>> import torch
    >>> x = torch.randn(2, 5, 4)
    >>> torch.allclose(layer_norm(x, [4]), torch.nn.functional.layer_norm(x, [4]), atol=1e-6)
    True
    """
    shape = _row_shape("layer_norm", x, normalized_shape)
    check_eps("layer_norm", eps)
    weight = _gain("layer_norm", x, shape, weight, zero_centered)
    return _along_rows("layer_norm", x, shape, bound(formulas.instance_norm, eps=eps), (weight, bias), epilogue)


def rms_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    *,
    eps: float | None = None,
    zero_centered: bool = False,
    **epilogue: Unpack[Epilogue],
) -> Tensor:
    """`RMSNorm` of rows ``[*, *normalized_shape]``; ``eps=None`` is the machine epsilon of the statistics' dtype.

    γ is ``1 + weight`` if ``zero_centered``.

    >>> import torch
    >>> rms_norm(torch.full((1, 4), 3.0), [4])
    tensor([[1., 1., 1., 1.]])
    """
    shape = _row_shape("rms_norm", x, normalized_shape)
    if eps is not None:
        check_eps("rms_norm", eps)
    formula = bound(formulas.rms_norm, eps=epsilon(x, eps))
    weight = _gain("rms_norm", x, shape, weight, zero_centered)
    return _along_rows("rms_norm", x, shape, formula, (weight, None), epilogue)


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    zero_centered: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""The sum of a transformer's residual stream and a branch, and its `layer_norm`: one pass over memory each way.

    .. math:: h = x + \text{residual}, \qquad y = \gamma\,\frac{h - \mu_h}{\sqrt{\sigma_h^2 + \epsilon}} + \beta

    Returns ``(y, h)``; ``h`` is the stream for the next addition. ``x`` and ``residual`` get the same gradient.

    Raises ValueError for a residual of another shape or device.

    >>> import torch
    >>> x, branch = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    >>> y, h = add_layer_norm(branch, x, 4)
    >>> torch.equal(h, x + branch), torch.allclose(y, layer_norm(h, 4), atol=1e-6)
    (True, True)
    """
    shape = _row_shape("add_layer_norm", x, normalized_shape)
    check_eps("add_layer_norm", eps)
    formula = bound(formulas.instance_norm, eps=eps)
    weight = _gain("add_layer_norm", x, shape, weight, zero_centered)
    return _along_sums("add_layer_norm", x, residual, shape, formula, (weight, bias))


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    *,
    eps: float | None = None,
    zero_centered: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""The sum of a transformer's residual stream and a branch, and its `rms_norm`: ``(y, h)`` as in `add_layer_norm`.

    >>> import torch
    >>> add_rms_norm(torch.full((1, 4), 2.0), torch.full((1, 4), 1.0), 4)
    (tensor([[1., 1., 1., 1.]]), tensor([[3., 3., 3., 3.]]))
    """
    shape = _row_shape("add_rms_norm", x, normalized_shape)
    if eps is not None:
        check_eps("add_rms_norm", eps)
    formula = bound(formulas.rms_norm, eps=epsilon(x, eps))
    weight = _gain("add_rms_norm", x, shape, weight, zero_centered)
    return _along_sums("add_rms_norm", x, residual, shape, formula, (weight, None))


def layer_norm2d(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-6,
    zero_centered: bool = False,
    **options: Unpack[Options],
) -> Tensor:
    """`LayerNorm2d`: over the channels at each position of ``[N, C, *space]``; ``zero_centered`` as in `layer_norm`.

    >>> import torch
    >>> x = torch.randn(2, 3, 4)
    >>> torch.allclose(layer_norm2d(x).mT, layer_norm(x.mT, [3], eps=1e-6), atol=1e-6)
    True
    """
    check_maps("layer_norm2d", x, eps)
    _check_channels("layer_norm2d", x)
    weight = _gain("layer_norm2d", x, tuple(x.shape[1:2]), weight, zero_centered)
    return _along_pixels("layer_norm2d", x, bound(formulas.instance_norm, eps=eps), (weight, bias), options)


def rms_norm2d(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float | None = 1e-6,
    zero_centered: bool = False,
    **options: Unpack[Options],
) -> Tensor:
    """`RMSNorm2d`: over the channels at each position of ``[N, C, *space]``; ``zero_centered`` as in `rms_norm`.

    >>> import torch
    >>> rms_norm2d(torch.full((1, 4, 1), 3.0), eps=None).flatten()
    tensor([1., 1., 1., 1.])
    """
    check_input(x, "rms_norm2d")
    if eps is not None:
        check_eps("rms_norm2d", eps)
    formula = bound(formulas.rms_norm, eps=epsilon(x, eps))
    weight = _gain("rms_norm2d", x, tuple(x.shape[1:2]), weight, zero_centered)
    return _along_pixels("rms_norm2d", x, formula, (weight, None), options)


def dynamic_tanh(
    x: Tensor,
    alpha: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dim: int = -1,
    **epilogue: Unpack[Epilogue],
) -> Tensor:
    """`DynamicTanh`, with γ and β per channel of dimension ``dim``.

    >>> import torch
    >>> dynamic_tanh(torch.zeros(2, 3), torch.tensor([0.5]), bias=torch.ones(3))[0]
    tensor([1., 1., 1.])
    """
    check_floating(x, "dynamic_tanh")
    check_dim("dynamic_tanh", x, dim)
    return pointwise.dynamic_tanh(x, alpha, weight, bias, dim=dim, **epilogue)


def dynamic_erf(
    x: Tensor,
    alpha: Tensor,
    shift: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dim: int = -1,
    **epilogue: Unpack[Epilogue],
) -> Tensor:
    """`DynamicErf`, with γ and β per channel of dimension ``dim``.

    >>> import torch
    >>> dynamic_erf(torch.zeros(2, 3), torch.tensor([0.5]), torch.tensor([9.0]))[0]
    tensor([1., 1., 1.])
    """
    check_floating(x, "dynamic_erf")
    check_dim("dynamic_erf", x, dim)
    return pointwise.dynamic_erf(x, alpha, shift, weight, bias, dim=dim, **epilogue)


def _gain(caller: str, x: Tensor, shape: tuple[int, ...], weight: Tensor | None, zero_centered: bool) -> Tensor | None:
    """γ, from a ``weight`` that is γ or its distance from 1."""
    if weight is None or not zero_centered:
        return weight
    check_optional(caller, x, shape, weight=weight)
    check_memory(weight)
    return formulas.one_plus(weight, statistics_dtype(x.dtype))


def _along_rows(
    caller: str,
    x: Tensor,
    shape: tuple[int, ...],
    formula: Formula,
    parameters: tuple[Tensor | None, Tensor | None],
    epilogue: Epilogue,
) -> Tensor:
    check_options(caller, epilogue, Epilogue)
    check_optional(caller, x, shape, weight=parameters[0], bias=parameters[1])
    return run_for_y(Request(x, formula, parameters, view=View("rows", len(shape)), **epilogue))


def _along_sums(
    caller: str,
    x: Tensor,
    residual: Tensor,
    shape: tuple[int, ...],
    formula: Formula,
    parameters: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor]:
    check_floating(residual, f"{caller}: residual")
    check_optional(caller, x, shape, weight=parameters[0], bias=parameters[1])
    return run_for_y(Request(x, formula, parameters, residual=residual, view=View("sums", len(shape))))  # type: ignore[return-value]


def _along_pixels(
    caller: str, x: Tensor, formula: Formula, parameters: tuple[Tensor | None, Tensor | None], options: Options
) -> Tensor:
    check_options(caller, options)
    check_optional(caller, x, tuple(x.shape[1:2]), weight=parameters[0], bias=parameters[1])
    mask = options.get("mask")
    options["mask"] = None if mask is None else as_mask(mask, x)
    return run_for_y(Request(x, formula, parameters, view=PIXELS, **options))


def _check_channels(caller: str, x: Tensor) -> None:
    if x.shape[1] == 1:
        raise ValueError(f"{caller}: a single channel is its own mean, got {list(x.shape)}; {WITHOUT_EFFECT}")


def _row_shape(caller: str, x: Tensor, normalized_shape: Any) -> tuple[int, ...]:
    """The trailing dimensions of ``x`` that ``normalized_shape`` names, in the forms that torch's functions accept."""
    check_floating(x, caller)
    shape = as_row_shape(caller, normalized_shape)
    check_rows(caller, x, shape)
    return shape

"""The end of a residual branch: single learned numbers and stochastic depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.layout import check_memory
from normwise.core.numbers import check_number
from normwise.core.symbols import Traceable, as_node, is_symbol
from normwise.core.tables import check_scalars
from normwise.operations.saved import guarded


class Scalar(Traceable, nn.Module):
    """A module with one learnable number, the parameter ``name``, of shape ``[1]``: `fully_shard` needs a dimension.

    Checkpoints in which the number has no dimension can be loaded.
    """

    def __init__(self, name: str, initial: float) -> None:
        super().__init__()
        self._name, self._initial = name, float(initial)
        self.register_parameter(name, nn.Parameter(torch.empty(1)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Restore the constructor's value."""
        nn.init.constant_(self.get_parameter(self._name), self._initial)

    def value(self, x: Tensor, name: str | None = None) -> Tensor:
        """The number, or the buffer ``name``, without dimensions.

        So it never promotes, and ``x`` keeps its dtype under mixed precision.
        """
        number = getattr(self, name or self._name)
        check_scalars(self, x, **{name or self._name: number})
        check_memory(x, number)
        return number.reshape(())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        given = state_dict.get(prefix + self._name)
        if isinstance(given, Tensor) and given.dim() == 0:
            state_dict[prefix + self._name] = given.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)


class SkipGain(Scalar):
    r"""One learnable scalar at the end of a residual branch.

    .. math:: y = \alpha\, g \cdot x

    ``gain`` starts at ``initial``: with 0 every block starts as its shortcut. ``alpha`` is a constant factor, a buffer
    ``[1]``; None means no factor. Any shape; the output has the input's dtype. Do not apply weight decay to ``gain``.

    Source: De and Smith 2020 (SkipInit), arXiv:2002.10444.

    >>> gain = SkipGain()
    >>> bool((gain(torch.ones(2, 3)) == 0).all())
    True
    """

    gain: Tensor
    alpha: Tensor | None

    def __init__(self, initial: float = 0.0, alpha: float | None = None) -> None:
        super().__init__("gain", initial)
        self.register_buffer("alpha", None if alpha is None else torch.full((1,), float(alpha)))

    def forward(self, x: Tensor) -> Tensor:
        if is_symbol(x):
            return as_node(self, x)
        gain = self.value(x)
        factor = gain if self.alpha is None else self.value(x, "alpha").to(gain) * gain
        return guarded(x * factor, x, self.gain, self.alpha)


class ScaledResidual(nn.Module):
    r"""A residual block whose branch receives a signal of variance 1 and adds a known variance.

    .. math:: y = x + \alpha\, f(x / \beta)

    ``branch`` must keep the shape of its input. ``beta`` is the expected standard deviation of ``x``. ``alpha`` is the
    square root of the added variance: if the branch keeps the variance, ``Var[y] = Var[x] + alpha²``, so the next
    block's β is :math:`\sqrt{\beta^2 + \alpha^2}`.

    Raises ValueError for factors that are not positive.

    Source: Brock, De and Smith 2021, arXiv:2101.08692, as in the paper. In their code β is the inverse, and it
    multiplies behind the first activation, which is the same for ReLU only; `NormalizerFreeBlock` follows the code.

    >>> block = ScaledResidual(nn.Identity(), alpha=0.5, beta=2.0)
    >>> block(torch.tensor([4.0]))
    tensor([5.])
    """

    def __init__(self, branch: nn.Module, alpha: float = 0.2, beta: float = 1.0) -> None:
        super().__init__()
        for name, value in {"alpha": alpha, "beta": beta}.items():
            check_number(self, name, value, 0.0)
            if not value > 0:
                raise ValueError(f"ScaledResidual({name}={value!r}): {name} must be positive; write {name}=1.0.")
        self.branch, self.alpha, self.beta = branch, float(alpha), float(beta)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.branch(x / self.beta)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:.6g}"


class StochasticDepth(Traceable, nn.Module):
    r"""Drop the residual branch of each sample with probability ``p``, in training only.

    .. math:: y_n = b_n\, x_n, \quad b_n \sim \operatorname{Bernoulli}(1 - p)

    Shape ``[N, ...]``; one draw for each sample. ``rescale`` divides the survivors by ``1 - p``, which keeps the mean
    and not the second moment.

    Raises ValueError for a ``p`` outside [0, 1), or [0, 1] without ``rescale``.

    Source: Huang et al. 2016, arXiv:1603.09382.

    Trap: the normalizer-free networks of arXiv:2101.08692 do **not** rescale, timm's and torchvision's blocks do; so
    a branch is larger in evaluation than on average in training.

    >>> StochasticDepth(0.9).eval()(torch.ones(2)).tolist()
    [1.0, 1.0]
    """

    def __init__(self, p: float, rescale: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1 or (rescale and p == 1):
            limit = "0 <= p < 1 (what survives is divided by 1 - p)" if rescale else "0 <= p <= 1"
            raise ValueError(f"StochasticDepth(p={p!r}, rescale={rescale}): the share of dropped branches is {limit}.")
        self.p = float(p)
        self.rescale = rescale

    def forward(self, x: Tensor) -> Tensor:
        if is_symbol(x):
            return as_node(self, x)
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(x.shape[:1] + (1,) * (x.dim() - 1), device=x.device) >= self.p
        return x * (keep / (1 - self.p) if self.rescale else keep).to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p:g}, rescale={self.rescale}"

"""The functions of a backend, as protocols: the required ones and the optional ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from normwise.core.activations import Activation
from normwise.core.moments import Moments
from normwise.core.program import Program, RecordedFormula
from normwise.core.responses import Response
from normwise.core.running import RunningStatistics


class Backend(Protocol):
    """The kernels over the big tensor; all tables are ``[N, C]`` in the statistics' dtype, any strides."""

    @property
    def name(self) -> str: ...

    def unavailable(self) -> str | None: ...

    def serves(self, x: Tensor) -> bool: ...

    def moments(self, x: Tensor, mask: Tensor | None) -> Moments: ...

    def apply(
        self,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor | None,
        activation: Activation | None,
    ) -> Tensor: ...

    def backward_reduce(
        self,
        grad_y: Tensor,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor | None,
        activation: Activation | None,
    ) -> tuple[Tensor, Tensor]: ...

    def backward_apply(
        self,
        grad_y: Tensor,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor | None,
        activation: Activation | None,
        slope: Tensor | None,
        offset: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]: ...


#: Known mean and variance, one of each channel, in any floating dtype.
Known = tuple[Tensor, Tensor]
#: Gradients of x, residual, weight and bias, None if not needed; those of parameters in their shape and dtype.
StandardizationGradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
#: The statistics of rows that a backend keeps for its own backward pass.
RowTables = tuple[Tensor | None, ...]
#: Gradients of the sum's terms (one for both), weight and bias, None if not needed; parameters' in shape and dtype.
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

#: Gradients of x, residual, α, s, weight and bias, for the tensors that are there; of x and residual if needed.
SquashGradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Standardization(Protocol):
    """Standardization over plain pools, for all calls whose tensors are of the same kinds as the first ones."""

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        known: Known | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """``y`` and, for the backward pass if ``keep``, the moments' table ``[2, N, groups]`` or ``[2, 1, C]``.

        ``known`` moments may change later on; the table does not.
        """
        ...

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        table: Tensor,
        *,
        known: bool,
        values: bool,
        same: bool,
    ) -> StandardizationGradients:
        """The gradients; those of x and the residual only if ``values``.

        ``same``: whether x, residual and parameters are still of the same kinds, strides included.
        """
        ...


@runtime_checkable
class Fused(Backend, Protocol):
    """A backend that also measures, pools and standardizes over plain pools in one kernel each way."""

    def standardization(
        self,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None,
        activation: Activation | None,
        known: Known | None,
    ) -> Standardization:
        """The standardization for tensors of these kinds, over ``groups`` of channels in each sample; 0: the batch."""
        ...


@runtime_checkable
class Rows(Backend, Protocol):
    """A backend that also normalizes rows: of tokens over trailing dimensions, of pixels over their channels.

    ``y = f(γ (x - μ) rstd + β + residual)`` with ``center``, else ``y = f(γ x rstd + β + residual)``, where
    ``rstd = 1/√(v + ε)`` and v is the biased variance, or the mean square. The parameters have as many values as a row
    and any floating dtype, the residual the dtype and layout of ``x``.
    """

    def rows(
        self,
        x: Tensor,
        width: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        center: bool,
        keep: bool,
        residual: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, RowTables]:
        """Normalize contiguous ``x``, seen as ``[rows, width]``; also the statistics to ``keep`` for the backward."""
        ...

    def rows_backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        width: int,
        weight: Tensor | None,
        bias: Tensor | None,
        tables: RowTables,
        center: bool,
        needs: tuple[bool, bool, bool, bool],
        residual: Tensor | None = None,
        activation: Activation | None = None,
        flow: Tensor | None = None,
    ) -> StandardizationGradients:
        """The gradients that ``needs`` selects; ``grad_y`` is contiguous as well.

        ``flow`` ``[2, rows]`` in fp64 is the gradient of mean and variance, for rows around their mean.
        """
        ...

    def columns(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        center: bool,
        keep: bool,
        residual: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, RowTables]:
        """Normalize contiguous ``x[N, C, *space]``, each pixel over its C channels."""
        ...

    def columns_backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        tables: RowTables,
        center: bool,
        needs: tuple[bool, bool, bool, bool],
        residual: Tensor | None = None,
        activation: Activation | None = None,
        flow: Tensor | None = None,
    ) -> StandardizationGradients:
        """See `rows_backward`."""
        ...

    def row_statistics(self, tables: RowTables) -> tuple[Tensor, Tensor]:
        """Mean and rstd of each row or pixel from the kept tables, for rows around their mean."""
        ...


class DenseRows(Protocol):
    """Normalization of rows, or of pixels over their channels, for tensors of the kinds that it was made for."""

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """``y`` in the layout of ``x``, and the table for the backward pass if ``keep``."""
        ...

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        table: Tensor,
        needs: Sequence[bool],
        same: bool,
    ) -> StandardizationGradients:
        """The gradients that ``needs`` names; ``same`` as in `Standardization.backward`."""
        ...


@runtime_checkable
class BoundRows(Rows, Protocol):
    """A backend that also normalizes rows and pixels without conversions, with one preparation for a kind of call."""

    def dense_rows(
        self,
        x: Tensor,
        width: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        center: bool,
        residual: Tensor | None,
        activation: Activation | None,
    ) -> DenseRows | None:
        """The normalization for tensors of these kinds, ``width`` 0 for pixels; None where one needs a conversion."""
        ...


@runtime_checkable
class ModulatedRows(Backend, Protocol):
    """A backend that also normalizes rows with an affine map for every ``per`` of them; see `Rows`.

    ``y = (plus + scale) z + shift`` for the normalized row z; the tables are ``[rows / per, width]``, of any floating
    dtype, and either may be absent (γ is 1 without a scale).
    """

    def modulated_rows(
        self,
        x: Tensor,
        width: int,
        per: int,
        scale: Tensor | None,
        shift: Tensor | None,
        plus: float,
        eps: float,
        center: bool,
        keep: bool,
    ) -> tuple[Tensor, RowTables]:
        """Normalize contiguous ``x``, seen as ``[rows, width]``; also the statistics to ``keep`` for the backward."""
        ...

    def modulated_rows_backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        width: int,
        per: int,
        scale: Tensor | None,
        shift: Tensor | None,
        plus: float,
        tables: RowTables,
        center: bool,
        needs: tuple[bool, bool, bool],
    ) -> Gradients:
        """The gradients of x, scale and shift; ``grad_y`` is contiguous as well."""
        ...


@runtime_checkable
class RowsOfSums(Backend, Protocol):
    """A backend that also normalizes the rows of a sum of two tensors, in the same pass that adds them; see `Rows`."""

    def rows_of_sum(
        self,
        x: Tensor,
        added: Tensor,
        width: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        center: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor, RowTables]:
        """For contiguous tensors of one dtype: ``y``, the sum that it is computed from, in their dtype, and tables."""
        ...

    def rows_of_sum_backward(
        self,
        grad_y: Tensor,
        grad_sum: Tensor,
        total: Tensor,
        width: int,
        weight: Tensor | None,
        bias: Tensor | None,
        tables: RowTables,
        center: bool,
        needs: tuple[bool, bool, bool],
    ) -> Gradients:
        """The gradients of the terms (the one through ``y``, plus ``grad_sum``), weight and bias."""
        ...


@runtime_checkable
class Squashing(Backend, Protocol):
    """A backend that also computes ``y = f(γ c(α x + s) + β + residual)`` in one pass each way.

    The ``curve`` c is ``"tanh"`` or ``"erf"``; α and s are one number each, γ and β run along dimension ``dim``.
    """

    def squash(
        self,
        x: Tensor,
        dim: int,
        curve: str,
        alpha: Tensor,
        shift: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: Activation | None,
    ) -> Tensor:
        """The result for contiguous ``x`` and ``residual`` of one dtype."""
        ...

    def squash_backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        dim: int,
        curve: str,
        alpha: Tensor,
        shift: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: Activation | None,
        needs: tuple[bool, bool],
    ) -> SquashGradients:
        """The gradients; ``needs`` says whether those of x and the residual are needed."""
        ...


@runtime_checkable
class Responses(Backend, Protocol):
    """A backend that also serves the responses of `core.responses`; ``tables`` are a response's, in their order."""

    def respond(self, x: Tensor, response: Response, tables: Sequence[Tensor], residual: Tensor | None) -> Tensor: ...

    def respond_reduce(
        self, grad_y: Tensor, x: Tensor, response: Response, tables: Sequence[Tensor], residual: Tensor | None
    ) -> tuple[Tensor, ...]: ...

    def respond_backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        response: Response,
        tables: Sequence[Tensor],
        residual: Tensor | None,
        mean: Tensor,
        slope: Tensor | None,
        offset: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]: ...


@runtime_checkable
class Formulas(Backend, Protocol):
    """A backend that also runs recorded formulas, with both passes over the tensor, in one call each way.

    Inputs and outputs of a program are contiguous tensors, fp32 or fp64 as its ports say.
    """

    def run(self, program: Program, dtype: torch.dtype, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Run a program alone and write its outputs; ``dtype`` is that of the tensor to which the tables belong."""
        ...

    def prepare(self, recorded: RecordedFormula) -> Any:
        """The formula in the form that `normalize` and `normalize_backward` need."""
        ...

    def normalize(
        self,
        formula: Any,
        x: Tensor,
        residual: Tensor | None,
        activation: Activation | None,
        mask: Tensor | None,
        entering: Sequence[Tensor],
        leaving: Sequence[Tensor],
        measured: bool,
    ) -> tuple[Tensor, Tensor]:
        """y and the tables, ``[1 + tables, N, C]``; further outputs of the program are written to ``leaving``.

        If ``measured``, the first of ``entering`` are written, too: mean, variance and, with a mask, the counts.
        """
        ...

    def normalize_backward(
        self,
        formula: Any,
        grad_y: Tensor,
        x: Tensor,
        residual: Tensor | None,
        activation: Activation | None,
        mask: Tensor | None,
        entering: Sequence[Tensor],
        leaving: Sequence[Tensor],
        tables: Tensor,
        measured: bool,
        values: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of x and the residual, if ``values``; those of ``entering`` are written to ``leaving``."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A backend that updates running statistics in one call."""

    def remembers(self, dtype: torch.dtype, running: RunningStatistics) -> bool:
        """Whether `remember` supports these buffers, for a layer whose input is of ``dtype``."""
        ...

    def remember(
        self,
        dtype: torch.dtype,
        running: RunningStatistics,
        mean: Tensor,
        var: Tensor | None,
        count: int,
    ) -> bool:
        """`RunningStatistics.update_from_batch` for contiguous fp64 ``mean`` and ``var`` of ``count`` values each.

        Only for buffers that `remembers` accepts. If ``var`` is None, ``mean`` is a table of `Standardization.forward`.
        Returns False and changes nothing if the statistics would not be finite: the layer's policy then decides.
        """
        ...

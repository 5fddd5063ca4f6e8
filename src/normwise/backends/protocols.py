"""What a backend offers: its functions by name, the required ones and those that it may have."""

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


#: Mean and variance that are known, one of each channel, in any floating dtype.
Known = tuple[Tensor, Tensor]
#: Of x, residual, weight and bias, those that are needed; a parameter's in its shape and dtype.
StandardizationGradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
#: What a backend keeps of the statistics of rows for its own backward.
RowTables = tuple[Tensor | None, ...]
#: Of either term, weight and bias, those that are needed; a parameter's in its shape and dtype.
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

#: Of x, residual, α, s, weight and bias; of what is there, and x and the residual where they are needed.
SquashGradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Standardization(Protocol):
    """Standardization over plain pools, for all calls whose tensors are of the kinds that it was made for."""

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        known: Known | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """``y`` and, to ``keep`` for the backward, the table ``[2, N, groups]`` or ``[2, 1, C]`` of mean and variance.

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
        """The gradients, those of x and the residual only where the ``values`` need them.

        ``same``: whether x, residual and parameters are of the kinds that it was made for, strides included.
        """
        ...


@runtime_checkable
class Fused(Backend, Protocol):
    """A backend that also standardizes over plain pools in one kernel each way: measured, pooled, applied."""

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
        """For the kinds of these tensors; ``groups`` of channels in each sample, 0 for each channel over the batch."""
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
        """For contiguous ``x``, seen as ``[rows, width]``; also what is to ``keep`` for the backward."""
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
        """The gradients; ``grad_y`` is contiguous as well, ``needs`` says which ones.

        ``flow`` ``[2, rows]`` in fp64 is what comes back through mean and variance, of rows around their mean.
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
        """For contiguous ``x[N, C, *space]``, each pixel over its C channels."""
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
        """As `rows_backward`."""
        ...

    def row_statistics(self, tables: RowTables) -> tuple[Tensor, Tensor]:
        """Of what was kept: mean and rstd, one of each row or pixel, of rows around their mean."""
        ...


class DenseRows(Protocol):
    """Rows, or pixels over their channels, for all calls whose tensors are of the kinds that it was made for."""

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """``y``, which lies as ``x``, and what is to ``keep`` for the backward."""
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
    """A backend that also normalizes rows and pixels as they lie, and finds out once what all calls of a kind share."""

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
        """For the kinds of these tensors, of ``width`` 0 for pixels; None where one of them would be converted."""
        ...


@runtime_checkable
class ModulatedRows(Backend, Protocol):
    """A backend that also normalizes rows of which every ``per`` have an affine map of their own; see `Rows`.

    ``y = (plus + scale) z + shift`` of the normalized row z; the tables are ``[rows / per, width]``, of any floating
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
        """For contiguous ``x``, seen as ``[rows, width]``; also what is to ``keep`` for the backward."""
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
    """A backend that also normalizes the rows of a sum of two tensors, in the pass that adds them; see `Rows`."""

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
        """For contiguous tensors of one dtype: ``y``, the sum rounded to their dtype, of which ``y`` is, and tables."""
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
        """The gradients, the first of either term: what comes through ``y``, plus ``grad_sum``."""
        ...


@runtime_checkable
class Squashing(Backend, Protocol):
    """A backend that also has ``y = f(γ c(α x + s) + β + residual)`` in one pass each way.

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
        """For contiguous ``x`` and ``residual`` of one dtype."""
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
        """The gradients; ``needs`` says whether those of x and the residual are wanted."""
        ...


@runtime_checkable
class Responses(Backend, Protocol):
    """A backend that also serves the responses of `core.responses`; ``tables`` are theirs, in their order."""

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

    What enters and leaves a program are contiguous tensors, fp32 or fp64 as its ports say.
    """

    def run(self, program: Program, dtype: torch.dtype, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """A program alone, which writes the outputs; ``dtype`` is that of a tensor whose tables they are."""
        ...

    def prepare(self, recorded: RecordedFormula) -> Any:
        """The formula as `normalize` and `normalize_backward` want it."""
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
        """y and the tables, ``[1 + tables, N, C]``; what leaves the program besides them is written.

        So are the first of those that enter, mean and variance and with a mask the counts, where ``measured``.
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
        """The gradients of x and the residual, where ``values`` need them; those of what entered are written."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A backend that moves running statistics in one call."""

    def remembers(self, dtype: torch.dtype, running: RunningStatistics) -> bool:
        """Whether `remember` takes these buffers, of a layer whose input is of ``dtype``."""
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

        `remembers` was asked of such buffers. Without ``var`` the mean is a whole table, see `Standardization.forward`.
        False, and nothing changed, where the statistics would not be finite: the layer's policy judges.
        """
        ...

"""Numbers for each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..metric import MAE, R2, RMSE
from .task import Task, shape_of, tensor_of


class Regression(Task):
    """Targets float32 `[N, T]`, outputs `[N, T]` (or `[N]`) in units of the training targets: mean 0, variance 1.

    The loss is the mean squared error in these units; the metrics are in those of the targets, means over the T columns
    as scikit-learn has them.
    """

    name = "regression"
    metrics = (RMSE, MAE, R2)
    model, data = "mlp", "diabetes"
    norms = ("batch", "group", "layer", "none")
    epochs = 40
    loss_in_words = "Mean squared error of the standardized targets"

    def loss(self, output: Any, y: Tensor) -> Tensor:
        return (self._prediction(output) - self._standardized(y)).square().mean()

    def sums(self, output: Any, y: Tensor) -> Tensor:
        scale, target = self._scale(y).double(), self._standardized(y).double()
        errors = (self._prediction(output).double() - target) * scale
        off = target * scale
        return torch.cat([errors.square(), errors.abs(), off, off.square(), torch.ones_like(off[:, :1])], 1)

    def values(self, total: Tensor) -> dict[str, float]:
        samples = total[-1]
        squared, absolute, off, off_squared = total[:-1].view(4, -1) / samples
        explained = 1 - squared / (off_squared - off.square())
        return {
            "rmse": float(squared.sqrt().mean()),
            "mae": float(absolute.mean()),
            "r2": float(explained.mean()),
            "loss": float((squared / self._scale(squared).double().square()).mean()),
        }

    def constant(self, y: Tensor) -> Tensor:
        """The mean of the training targets."""
        return torch.zeros_like(y)

    def _prediction(self, output: Any) -> Tensor:
        output = tensor_of(output).float()
        return output.unsqueeze(1) if output.dim() == 1 else output

    def _standardized(self, y: Tensor) -> Tensor:
        return ((y.double() - self.statistics.mean.to(y.device)) / self._scale(y).double()).float()

    def _scale(self, y: Tensor) -> Tensor:
        std = self.statistics.std
        return torch.where(std > 0, std, torch.ones_like(std)).to(y.device)

    @staticmethod
    def targets(name: str, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG004
        y = y.unsqueeze(1) if y.dim() == 1 else y
        if y.is_complex() or y.dim() != 2 or not y.shape[1]:
            raise InputError(
                f"{name}: targets are {y.dtype} of shape {list(y.shape)}; give one number per sample, [N], or several, "
                "[N, T]."
            )
        if not bool(torch.isfinite(y).all()):
            raise InputError(f"{name}: {int((~torch.isfinite(y)).sum())} targets are NaN or infinite; leave them out.")
        return y.float()

    @staticmethod
    def check_output(name: str, output: Any, x: Tensor, classes: int) -> None:
        shape = shape_of(output)
        if shape != [len(x), classes] and (classes > 1 or shape != [len(x)]):
            raise InputError(
                f"{name} must give the {classes} numbers of each sample, [N, {classes}], it gives {shape} for {len(x)} "
                "samples; let the model's function take `outputs`, or build the model with that many."
            )

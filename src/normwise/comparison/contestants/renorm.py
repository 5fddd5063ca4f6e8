"""The contestant `renorm`: Batch Renormalization with a schedule as long as the run."""

from __future__ import annotations

from torch import nn

from ...layers.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d

RENORM = "renorm"

# Shares of the run's steps: plain BatchNorm until the first, then the limits of r and d widen. In the paper these are
# 0.03, 0.16 and 0.25 (5000, 25 000 and 40 000 of 160 000 steps). The running statistics start at 0 and 1 and need some
# tens of steps before a correction towards them makes sense; short runs have only hundreds of steps.
START, D_AT, R_AT = 0.1, 0.3, 0.5
R_MAX, D_MAX = 3.0, 5.0

PROTOCOL = (
    f"{RENORM} widens its limits with the length of the run: it is BatchNorm for the first {START:.0%} of the steps, "
    f"then d_max goes from 0 to {D_MAX:g} until {D_AT:.0%} of them and r_max from 1 to {R_MAX:g} until {R_AT:.0%} (the "
    "paper's schedule, arXiv:1702.03275, is for runs of 160 000 steps); its momentum is BatchNorm's 0.1."
)


def fit_schedules(model: nn.Module, steps: int) -> None:
    """Scale the schedules of every BatchRenorm layer to a run of so many steps."""
    for module in model.modules():
        if isinstance(module, (BatchRenorm1d, BatchRenorm2d, BatchRenorm3d)):
            module.r_max = ((START * steps, 1.0), (R_AT * steps, R_MAX))
            module.d_max = ((START * steps, 0.0), (D_AT * steps, D_MAX))

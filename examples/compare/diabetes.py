r"""A tabular regression in your own loop: the progression of diabetes after a year, from ten measurements.

    cd examples/compare
    normwise compare --train diabetes:train --metric rmse:min \
        --norms batch,layer,group,none --batch-sizes 4,32

It stops early by a validation part, which the loop of normwise cannot do. Needs scikit-learn.
"""

import copy

import torch
from sklearn.datasets import load_diabetes
from torch import nn

HELD_OUT, VALIDATION = 110, 60


def split_patients():
    """Standardized training, validation and held-out patients, and mean and standard deviation of the target."""
    x, y = (torch.as_tensor(part).float() for part in load_diabetes(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held_out, validation, rest = order.split([HELD_OUT, VALIDATION, len(x) - HELD_OUT - VALIDATION])
    x = (x - x[rest].mean(0)) / x[rest].std(0)
    mean, deviation = y[rest].mean(), y[rest].std()
    y = ((y - mean) / deviation)[:, None]
    return (x[rest], y[rest]), (x[validation], y[validation]), (x[held_out], y[held_out]), float(deviation)


def train(run):
    (x, y), validation, held_out, deviation = split_patients()
    net = nn.Sequential(
        *(nn.Linear(10, 64), run.norm(64, rank=1), nn.ReLU()),
        *(nn.Linear(64, 64), run.norm(64, rank=1), nn.ReLU()),
        nn.Linear(64, 1),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=run.learning_rate or 1e-3, weight_decay=1e-2)
    order = torch.Generator().manual_seed(run.seed)
    best, best_net = float("inf"), net
    for epoch in range(run.epochs):
        net.train()
        for batch in torch.randperm(len(x), generator=order).split(run.batch_size)[:-1]:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
        rmse = error(net, *validation, deviation)
        run.report(epoch + 1, train_loss=loss, validation_rmse=rmse)
        if rmse < best:
            best, best_net = rmse, copy.deepcopy(net)
    judged_by = validation if run.choosing else held_out
    return {"rmse": error(best_net, *judged_by, deviation), "validation_rmse": best}


@torch.no_grad()
def error(net, x, y, deviation):
    """Root of the mean squared error, in units of the target."""
    return deviation * float((net.eval()(x) - y).square().mean().sqrt())

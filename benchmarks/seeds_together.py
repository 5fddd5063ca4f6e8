"""Seeds of one contestant trained together by torch.func, against one after the other: time and gradients.

    OMP_NUM_THREADS=1 python benchmarks/seeds_together.py

Medians of processor time over rounds in turns; three nets of one kind, each with a batch of its own.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F

import normwise as nw
from normwise.comparison.contestants.small_nets import UNet, mlp

SEEDS, WARM_UP, ROUNDS = 3, 3, 12
Loss = Callable[[Tensor, Tensor], Tensor]
#: A net by its normalizer; samples and targets of a batch; the loss.
CASES: dict[str, tuple[Callable[[str], nn.Module], Callable[[int], tuple[Tensor, Tensor]], Loss]] = {
    "mlp": (lambda norm: mlp(norm, 10, 1), lambda n: (torch.randn(n, 10), torch.randn(n, 1)), F.mse_loss),
    "resnet8": (
        lambda norm: nw.nets.resnet(8, norm, 1, 10),
        lambda n: (torch.randn(n, 1, 8, 8), torch.randint(10, (n,))),
        F.cross_entropy,
    ),
    "unet": (
        lambda norm: UNet(norm, 3, 3),
        lambda n: (torch.randn(n, 3, 32, 32), torch.randint(3, (n, 32, 32))),
        F.cross_entropy,
    ),
}
TRIED = (
    *(("mlp", norm, size) for norm in ("layer", "batch", "none") for size in (2, 16)),
    *(("resnet8", norm, size) for norm in ("group", "batch", "none") for size in (2, 16)),
    ("unet", "group", 2),
)


def compared(case: str, norm: str, size: int) -> str:
    make, batch_of, loss_of = CASES[case]
    models = [make(norm) for _ in range(SEEDS)]
    batches = [batch_of(size) for _ in models]
    x, y = (torch.stack([batch[i] for batch in batches]) for i in (0, 1))
    parameters, buffers = stack_module_state(copy.deepcopy(models))
    skeleton = copy.deepcopy(models[0]).to("meta")

    def loss(parameters: dict, buffers: dict, x: Tensor, y: Tensor) -> Tensor:
        return loss_of(functional_call(skeleton, (parameters, buffers), (x,)), y)

    step = vmap(grad_and_value(loss))

    def together() -> dict[str, Tensor]:
        return step(parameters, buffers, x, y)[0]

    def apart() -> None:
        for model, (samples, targets) in zip(models, batches, strict=True):
            model.zero_grad()
            loss_of(model(samples), targets).backward()

    found = together()
    apart()
    expected = {name: torch.stack([dict(m.named_parameters())[name].grad for m in models]) for name in found}
    largest = max(float(grad.abs().max()) for grad in expected.values())
    error = max(float((found[name] - expected[name]).abs().max()) for name in found) / largest
    times: dict[Callable, list[float]] = {together: [], apart: []}
    for number in range(WARM_UP + ROUNDS):
        for way in (together, apart) if number % 2 else (apart, together):
            start = time.process_time()
            way()
            times[way].append(time.process_time() - start)
    medians = {way: 1e3 * statistics.median(taken[WARM_UP:]) for way, taken in times.items()}
    ratio = medians[together] / medians[apart]
    said = "the same bits" if error == 0 else f"gradients apart by {error:.0e} of the largest"
    return f"{case}, {norm}, batches of {size}: together / apart {ratio:.2f}; {said}"


def main() -> None:
    torch.set_num_threads(1)
    nw.build_kernels(torch.float32)
    warnings.simplefilter("ignore")  # operators without a rule for vmap
    for case in TRIED:
        print(compared(*case), flush=True)


if __name__ == "__main__":
    main()

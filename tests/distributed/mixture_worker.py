"""What one process of a group does with the batch-dependent layers that are not plain; started by torchrun."""

import sys
import warnings
from itertools import pairwise

import torch
import torch.distributed as dist
from torch.testing import assert_close

import normwise as nw

SAMPLES, CHANNELS, SPACE = 9, 4, (3, 2)
SCHEDULE = {"r_max": ((0, 1.0), (2, 1.4)), "d_max": ((0, 0.0), (2, 0.6))}
LAYERS = {
    "renorm": lambda **o: nw.BatchRenorm2d(CHANNELS, **SCHEDULE, **o),
    "switchable": lambda **o: nw.SwitchableNorm2d(CHANNELS, **o),
    "batch-instance": lambda **o: nw.BatchInstanceNorm2d(CHANNELS, **o),
    "evo-b0": lambda **o: nw.EvoNormB0(CHANNELS, **o),
}


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SAMPLES, CHANNELS, *SPACE, generator=generator, dtype=torch.float64) * 2 + 1


def whole_and_shards_agree(name, sizes, rank):
    """Three steps: y, every gradient and the memory of the shards are those of one process on the whole."""
    alone, together = LAYERS[name](dtype=torch.float64), LAYERS[name](dtype=torch.float64, process_group="world")
    for layer in (alone, together):
        for k, parameter in enumerate(layer.parameters()):
            parameter.data = torch.linspace(0.2 + 0.1 * k, 0.9, parameter.numel(), dtype=torch.float64)
    edges = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    start, stop = list(pairwise(edges))[rank]
    for seed in range(3):
        x, cotangent = data(seed), data(seed + 50)
        mask = None if seed < 2 else data(99)[:, 0] > 0
        whole, part = x.clone().requires_grad_(), x[start:stop].clone().requires_grad_()
        expected = alone(whole, mask=mask)
        y = together(part, mask=None if mask is None else mask[start:stop])
        assert_close(y, expected[start:stop], rtol=1e-9, atol=1e-10)
        alone.zero_grad(), together.zero_grad()
        expected.backward(cotangent)
        y.backward(cotangent[start:stop])
        assert_close(part.grad, whole.grad[start:stop], rtol=1e-8, atol=1e-9)
        for got, want in zip(together.parameters(), alone.parameters(), strict=True):
            dist.all_reduce(got.grad)
            assert_close(got.grad, want.grad, rtol=1e-8, atol=1e-9)
        assert_close(dict(together.named_buffers()), dict(alone.named_buffers()), rtol=1e-12, atol=0)


def main():
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name in LAYERS:
        for sizes in ([4, 5], [0, 9]):
            whole_and_shards_agree(name, sizes, rank)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.write(f"rank {rank}: all properties hold\n")


if __name__ == "__main__":
    main()

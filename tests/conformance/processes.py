"""Promises of rows that pool over the batch, in two real processes (gloo).

As a script it is one of the two, and the first prints all outcomes: python -m tests.conformance.processes
"""

import json
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.testing import assert_close

from normwise.layers import NORMALIZERS
from normwise.layers.batch_layer import BatchLayer

from .cases import NOT_APPLICABLE, SAMPLES, WORKS, Case, cases

SIZES = (3, SAMPLES - 3)


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    outcomes = {f"{case.name}-{case.rank}": synchronized(case) for case in cases()}
    dist.barrier()
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(outcomes))
    dist.destroy_process_group()


def synchronized(case: Case) -> str:
    """Two training steps of two processes with shards of a batch, against one process with the whole of it."""
    if not NORMALIZERS[case.name].uses_batch or case.name == "ghost":
        return NOT_APPLICABLE  # ghost batches are each process' own by definition
    alone, together = case.layer(), case.layer()
    for layer, group in ((alone, None), (together, "world")):
        for part in layer.modules():
            if isinstance(part, BatchLayer):
                part.process_group = group
    rows = slice(0, SIZES[0]) if dist.get_rank() == 0 else slice(SIZES[0], SAMPLES)
    for step in range(2):
        x, cotangent = case.input(seed=step), case.input(seed=step + 10)
        whole, part = x.clone().requires_grad_(), x[rows].clone().requires_grad_()
        expected = alone(whole, *case.condition())
        y = together(part, *(c[rows] for c in case.condition()))
        expected.backward(cotangent)
        y.backward(cotangent[rows])
        assert_close(y, expected[rows], rtol=1e-9, atol=1e-10)
        assert_close(part.grad, whole.grad[rows], rtol=1e-8, atol=1e-9)
    for name, buffer in together.named_buffers():
        assert_close(buffer, dict(alone.named_buffers())[name], rtol=1e-10, atol=1e-12)
    for name, parameter in together.named_parameters():
        total = parameter.grad.clone()
        dist.all_reduce(total)
        assert_close(total, dict(alone.named_parameters())[name].grad, rtol=1e-8, atol=1e-9)
    return WORKS


if __name__ == "__main__":
    main()

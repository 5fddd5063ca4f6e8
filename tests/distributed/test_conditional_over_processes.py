"""Conditional batch normalization and SPADE over real processes: any split is one process on the whole."""

import textwrap

import pytest
from several_processes import ended_together

SCRIPT = textwrap.dedent(
    """
    import torch, torch.distributed as dist, normwise as nw
    from datetime import timedelta
    from torch.testing import assert_close

    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    x, cotangent, labels = draw(5, 4, 3, 2) + 50, draw(5, 4, 3, 2), torch.tensor([2, 0, 1, 1, 0])
    maps = torch.randint(3, (5, 6, 4), generator=generator)
    part = slice(0, 2) if rank == 0 else slice(2, 5)

    def conditional(process_group):
        return nw.ConditionalBatchNorm2d(4, 3, process_group=process_group, dtype=torch.float64)

    def spade(process_group):
        torch.manual_seed(0)
        return nw.SPADE(4, 3, "batch" if process_group is None else "sync", hidden=2).double()

    for make, condition in ((conditional, labels), (spade, maps)):
        alone, together = make(None), make("world")
        whole, mine = x.clone().requires_grad_(), x[part].clone().requires_grad_()
        expected, y = alone(whole, condition), together(mine, condition[part])
        expected.backward(cotangent)
        y.backward(cotangent[part])
        assert_close(y, expected[part])
        assert_close(mine.grad, whole.grad[part])
        for one, other in zip(together.parameters(), alone.parameters(), strict=True):
            dist.all_reduce(one.grad)
            assert_close(one.grad, other.grad)
        assert_close(dict(together.named_buffers()), dict(alone.named_buffers()))
    dist.destroy_process_group()
    print("agrees")
    """
)


@pytest.mark.slow  # the fast suite: tests/conformance, all layers in one pair of processes
def test_any_split_over_processes_is_one_process_on_the_whole():
    for done in ended_together(SCRIPT):
        assert done.stdout == "agrees\n", done.stderr[-3000:]

"""A parameter of another size, type or device is refused before a kernel reads past it."""

import pytest
import torch

from normwise.backends.triton_kernels import on_pools, on_rows

from .support import needs_triton, seeded

pytestmark = needs_triton


def _released(count):
    weight = torch.ones(count)
    weight.untyped_storage().resize_(0)
    return weight


WRONG = [
    torch.ones(0),
    torch.ones(1),
    torch.ones(3),
    torch.ones(8),
    torch.ones(4, dtype=torch.complex64),
    torch.ones(4, dtype=torch.int64),
    torch.ones(4, device="meta"),
]


@pytest.mark.parametrize(
    "wrong", [*WRONG, None], ids=lambda t: "released" if t is None else f"{list(t.shape)}-{t.dtype}"
)
def test_a_parameter_that_does_not_fit_is_refused(wrong):
    weight = _released(4) if wrong is None else wrong
    x, table = seeded(2, 4, 3, dtype=torch.float32, seed=0), torch.ones(2, 2, 2, dtype=torch.float64)
    rows = x.movedim(1, -1).contiguous()
    with pytest.raises(ValueError, match="4 values of each parameter"):
        on_pools.standardize(x, 2, weight, None, 1e-5, None, None, None, False)
    with pytest.raises(ValueError, match="4 values of each parameter"):
        on_pools.standardize(x, 0, None, None, 1e-5, None, None, (torch.ones(4), weight), False)
    with pytest.raises(ValueError, match="4 values of each parameter"):
        on_pools.standardize_backward(x, x, 2, weight, None, 1e-5, None, None, table, known=False, values=True)
    with pytest.raises(ValueError, match="4 values of each parameter"):
        on_rows.rows(rows, 4, weight, None, 1e-5, True, True)
    with pytest.raises(ValueError, match="4 values of each parameter"):
        on_rows.columns(x, weight, None, 1e-5, True, True)

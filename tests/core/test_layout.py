"""A result lies in memory as its input does, and what is read is there."""

import pytest
import torch

from normwise.core.layout import check_memory


@pytest.mark.parametrize("view", [lambda t: t, lambda t: t[:, ::2], lambda t: t.t(), lambda t: t[:1].expand(5, -1)])
def test_a_storage_that_was_cut_is_noticed_whatever_the_strides(view):
    whole = torch.zeros(4, 6)
    t = view(whole)
    check_memory(t)
    last = t.storage_offset() + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    whole.untyped_storage().resize_((last + 1) * 4)
    check_memory(t)  # its last value is still there
    whole.untyped_storage().resize_(last * 4)
    with pytest.raises(RuntimeError, match="released or cut"):
        check_memory(t)

"""What the tests of the Triton kernels share: on a GPU they run there, otherwise in Triton's interpreter."""

import pytest
import torch
from torch.testing import assert_close
from triton_interpreter import prepare

from normwise.backends import triton_kernels as kernels

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
REASON = kernels.unavailable()
needs_triton = pytest.mark.skipif(REASON is not None, reason=str(REASON))
needs_gpu = pytest.mark.skipif(not GPU, reason="no GPU: torch finds no CUDA device")
if REASON is None and not GPU:
    prepare()

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# One rounding of the output's type, and for the wider ones a few of the arithmetic's.
ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 2**-8, torch.float16: 2**-11}
# One value per plane, odd and prime sizes, 7x7 maps; and planes of several tiles, in one program and in several.
SMALL = [(3, 5), (2, 3, 1), (5, 6, 7, 7), (1, 13, 3, 5, 2)]
LARGE = [(2, 2, 50, 51), (1, 2, 130, 131)]


def seeded(*shape, seed=0, dtype=torch.float64):
    """Normal values that ``dtype`` holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def laid_out(t, layout):
    """``t`` contiguous, with neighbouring channels, or at an address that no vector is aligned to."""
    if layout == "last" and t.dim() > 2:
        return t.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "shifted":
        return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)
    return t.contiguous()


def exact(value):
    """The same arguments in fp64, so that the specification's own rounding plays no part."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    return [exact(v) for v in value] if isinstance(value, list) else value


def close(got, want, dtype, steps=1, what=""):
    """Relative to the largest value: sums and differences of values of one size carry the rounding of that size."""
    size = max(want.abs().max().item(), 1.0) if want.numel() else 1.0
    got, want = got.double() / size, want / size
    assert_close(got, want, rtol=0, atol=steps * ROUNDING[dtype], msg=lambda m: f"{what}: {m}")

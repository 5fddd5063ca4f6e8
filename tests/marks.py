"""Marks of tests that some machines cannot run."""

import pytest

from normwise.backends import cpu

#: Skipped, visibly, where the kernels of the CPU cannot be compiled.
needs_kernels = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))

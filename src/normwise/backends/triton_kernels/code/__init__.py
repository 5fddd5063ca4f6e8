"""The kernels themselves, in Triton's language; imported on first use, where Triton is installed.

Sums are in registers, in one order for each shape: no atomics, and no dependence on the machine.
"""

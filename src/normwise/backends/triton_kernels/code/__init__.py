"""The kernels themselves, in Triton's dialect; imported on first use, where Triton is installed.

Sums are in registers, in one order for one shape: no atomics, and no dependence on the machine.
"""

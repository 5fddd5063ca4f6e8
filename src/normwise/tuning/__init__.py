"""Kernels against torch's operators on this machine: what `normwise tune` and a new cache measure.

`contests` are the operations, `measuring` times them, `program` is what a process in the background runs, `command`
what the command line calls. What they find is kept by `normwise.backends.tunings`.
"""

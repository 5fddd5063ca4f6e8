"""Kernels against torch's operators on this machine, measured by `normwise tune` and for a new cache.

`contests` are the operations, `measuring` times them, `program` is run by a background process, `command`
serves the command line. `normwise.backends.tunings` stores the results.
"""

"""Measurements of which way is faster, made on this machine, or on one like it and shipped with the package.

`record` holds the measurements, `stored` finds those that apply. `normwise.tuning` measures.
"""

from .record import Tuning as Tuning
from .record import Verdict as Verdict

#: Below this many values the code of `torch.compile` is finished before an operator of the kernels is even called. It
#: is not measured on each machine, since compiling takes minutes: `benchmarks/compiled_cpu.py` on a 2-core Xeon with
#: AVX-512, 2026-11-21.
COMPILED_FROM = 1 << 16

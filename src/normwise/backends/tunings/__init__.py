"""Which way was measured to be the faster one: on this machine, or on one like it and shipped with the package.

`record` is what was measured, `stored` finds the one that holds. `normwise.tuning` measures.
"""

from .record import Tuning as Tuning
from .record import Verdict as Verdict

#: Below this many values the code of `torch.compile` is done before an operator of the kernels is called. No tuning
#: says so, since compiling takes minutes: `benchmarks/compiled_cpu.py` on a 2-core Xeon with AVX-512, 2026-11-21.
COMPILED_FROM = 1 << 16

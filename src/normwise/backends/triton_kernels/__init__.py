"""The kernels in Triton, for CUDA devices; `reference.py` is their specification.

`geometry` decides how a tensor is cut, `code` holds the kernels, and the rest binds them. Triton is imported with the
first kernel that runs.
"""

from .device import serves as serves
from .device import unavailable as unavailable
from .planes import apply as apply
from .planes import backward_apply as backward_apply
from .planes import backward_reduce as backward_reduce
from .planes import moments as moments
from .rows import columns as columns
from .rows import columns_backward as columns_backward
from .rows import rows as rows
from .rows import rows_backward as rows_backward
from .standardize import standardize as standardize
from .standardize import standardize_backward as standardize_backward

name = "triton"

"""The kernels in Triton, for CUDA devices; `reference.py` is their specification.

`geometry` decides how a tensor is divided into tiles, `code` holds the kernels, and the other modules call them. Triton
is imported with the first kernel that runs.
"""

from .device import serves as serves
from .device import unavailable as unavailable
from .on_planes import apply as apply
from .on_planes import backward_apply as backward_apply
from .on_planes import backward_reduce as backward_reduce
from .on_planes import moments as moments
from .on_pools import standardization as standardization
from .on_pools import standardize as standardize
from .on_pools import standardize_backward as standardize_backward
from .on_rows import columns as columns
from .on_rows import columns_backward as columns_backward
from .on_rows import row_statistics as row_statistics
from .on_rows import rows as rows
from .on_rows import rows_backward as rows_backward

name = "triton"

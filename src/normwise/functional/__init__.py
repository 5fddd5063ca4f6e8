"""The normalizers as functions: statistics in, statistics out, and nothing remembered in between.

They compute the same as the layers, and work under `torch.func` (vmap, grad, jvp), `functional_call`, compile and
export. Each names its layer, whose docstring has formula, paper and traps.

**Statistics.** ``y, statistics = batch_norm(x, None, weight, bias)`` measures the input ``[N, C, *space]`` and returns
its statistics, as `Moments` without a gradient. ``y, _ = batch_norm(x, statistics, weight, bias)`` uses given ones
instead of measuring: evaluation, or the tiles of an image by the statistics of the whole. They are a `Running`, a
`Moments`, or any object with a ``mean`` and a ``var`` of ``[C]``, ``[1, C]`` or ``[N, C]``; no gradient flows into
them. A function whose statistics have no further use returns ``y`` alone.

**Running statistics** are values, too, with the same content as a layer's buffers:

    running = initial_statistics(channels)
    y, batch = batch_norm(x, None, weight, bias)                # training
    running = update_statistics(running, batch, momentum=0.1)
    y, _ = batch_norm(x, running, weight, bias)                 # evaluation

**Parameters.** ``weight`` and ``bias`` of a function of maps are ``[C]``, or ``[N, C]`` where each sample has its own
(conditional normalization), or None.

**Epilogue.** All take, keyword only, ``activation`` (a name) and ``residual`` (of ``x``'s shape), for
``y = f(norm(x) + residual)``; those that measure maps also ``mask``, boolean ``[N, *space]``: the statistics are those
of the values where it is true.

Errors: TypeError for integer, complex or sparse tensors and for numbers of another type; ValueError for shapes, devices
and sizes that do not fit, and for one value per group, where the output would be the bias, as in the layers.
"""

from types import FunctionType as _FunctionType

from ..core.symbols import one_node as _one_node
from ..operations.measure import measure as measure
from ..operations.positional import moment_shortcut as moment_shortcut
from .adaptive import Style as Style
from .adaptive import style_statistics as style_statistics
from .conditioned import gated_rms_norm as gated_rms_norm
from .conditioned import modulated_layer_norm as modulated_layer_norm
from .conditioned import modulated_rms_norm as modulated_rms_norm
from .plain import adaptive_instance_norm as adaptive_instance_norm
from .plain import add_layer_norm as add_layer_norm
from .plain import add_rms_norm as add_rms_norm
from .plain import dynamic_erf as dynamic_erf
from .plain import dynamic_tanh as dynamic_tanh
from .plain import evo_norm_s0 as evo_norm_s0
from .plain import filter_response_norm as filter_response_norm
from .plain import global_response_norm as global_response_norm
from .plain import layer_norm as layer_norm
from .plain import layer_norm2d as layer_norm2d
from .plain import rms_norm as rms_norm
from .plain import rms_norm2d as rms_norm2d
from .pooled import batch_instance_norm as batch_instance_norm
from .pooled import batch_norm as batch_norm
from .pooled import batch_renorm as batch_renorm
from .pooled import evo_norm_b0 as evo_norm_b0
from .pooled import ghost_batch_norm as ghost_batch_norm
from .pooled import group_norm as group_norm
from .pooled import ibn as ibn
from .pooled import instance_norm as instance_norm
from .pooled import switchable_norm as switchable_norm
from .positional import positional_norm as positional_norm
from .running import Running as Running
from .running import initial_statistics as initial_statistics
from .running import update_statistics as update_statistics

# For torch.fx each of them is one node, as the layers are.
for _name, _function in list(globals().items()):
    if isinstance(_function, _FunctionType) and not _name.startswith("_"):
        globals()[_name] = _one_node(_function)

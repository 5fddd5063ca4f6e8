"""Every function with fixed parameters, and its layer."""

import copy

import torch

import normwise as nw
import normwise.functional as nf

N, C = 4, 6
SHAPE = (N, C, 5, 3)


def tables(count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return [torch.rand(C, generator=generator, dtype=dtype) + 0.5 for _ in range(count)]


def data(seed=0, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1


WEIGHT, BIAS, V, GATE = tables(4)
MIX = torch.tensor([0.3, -0.4, 1.1], dtype=torch.float64)
ALPHA, SHIFT = torch.tensor([0.7], dtype=torch.float64), torch.tensor([-0.2], dtype=torch.float64)
RUNNING = nf.Running(BIAS, WEIGHT, torch.tensor(3))
STYLE = data(5, (N, C, 4))

#: Functions that give statistics back: the function of x and statistics, and the layer in training.
POOLED = {
    "batch": (lambda x, s=None, **o: nf.batch_norm(x, s, WEIGHT, BIAS, **o), nw.BatchNorm2d(C)),
    "ghost": (
        lambda x, s=None, **o: nf.ghost_batch_norm(x, s, WEIGHT, BIAS, ghost_size=3, **o),
        nw.GhostBatchNorm2d(C, ghost_size=3),
    ),
    "switchable": (
        lambda x, s=None, **o: nf.switchable_norm(x, MIX, MIX.flip(0), s, WEIGHT, BIAS, **o),
        nw.SwitchableNorm2d(C),
    ),
    "batch-instance": (
        lambda x, s=None, **o: nf.batch_instance_norm(x, GATE / 2, s, WEIGHT, BIAS, **o),
        nw.BatchInstanceNorm2d(C),
    ),
    "evo-b0": (lambda x, s=None, **o: nf.evo_norm_b0(x, V, s, WEIGHT, BIAS, **o), nw.EvoNormB0(C)),
    "instance": (
        lambda x, s=None, **o: nf.instance_norm(x, s, WEIGHT, BIAS, **o),
        nw.InstanceNorm2d(C, affine=True, track_running_stats=True),
    ),
    "group": (lambda x, s=None, **o: nf.group_norm(x, 3, s, WEIGHT, BIAS, **o), nw.GroupNorm(3, C)),
}
#: Functions that return the output alone, and their layers.
PLAIN = {
    "adaptive": (lambda x, **o: nf.adaptive_instance_norm(x, STYLE, **o), None),
    "filter-response": (lambda x, **o: nf.filter_response_norm(x, WEIGHT, BIAS, **o), None),
    "global-response": (lambda x, **o: nf.global_response_norm(x, WEIGHT, BIAS, **o), nw.GlobalResponseNorm(C)),
    "evo-s0": (lambda x, **o: nf.evo_norm_s0(x, V, 3, WEIGHT, BIAS, **o), nw.EvoNormS0(C, 3)),
    "layer2d": (lambda x, **o: nf.layer_norm2d(x, WEIGHT, BIAS, **o), nw.LayerNorm2d(C)),
    "rms2d": (lambda x, **o: nf.rms_norm2d(x, WEIGHT, **o), nw.RMSNorm2d(C)),
    "layer": (lambda x, **o: nf.layer_norm(x, SHAPE[-2:], **o), nw.LayerNorm(SHAPE[-2:])),
    "rms": (lambda x, **o: nf.rms_norm(x, SHAPE[-1:], **o), nw.RMSNorm(SHAPE[-1:])),
    "tanh": (lambda x, **o: nf.dynamic_tanh(x, ALPHA, WEIGHT, BIAS, dim=1, **o), nw.DynamicTanh(C, dim=1)),
    "erf": (lambda x, **o: nf.dynamic_erf(x, ALPHA, SHIFT, WEIGHT, BIAS, dim=1, **o), nw.DynamicErf(C, dim=1)),
}
VALUES = {
    "weight": WEIGHT,
    "bias": BIAS,
    "v": V,
    "mean_weight": MIX,
    "var_weight": MIX.flip(0),
    "gate": GATE / 2,
    "alpha": ALPHA,
    "shift": SHIFT,
}
EVERY = [*POOLED, *PLAIN]
WITH_LAYER = [name for name in EVERY if {**POOLED, **PLAIN}[name][1] is not None]


def outputs(name):
    """The function as a map from x to y."""
    if name in PLAIN:
        return PLAIN[name][0]
    return lambda x, **options: POOLED[name][0](x, **options)[0]


def with_values(layer):
    """The layer in float64 with the parameters of the functions above."""
    layer = copy.deepcopy(layer).double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "affine" not in name and parameter.shape == VALUES[name].shape:
                parameter.copy_(VALUES[name])
    return layer

"""Numbers, shapes and conditions that do not fit: one clear error, from layers and functions alike."""

import functools
import inspect

import pytest
import torch

import normwise as nw
import normwise.functional as nf

X, ROWS, SAMPLE = torch.randn(4, 6, 5, 3), torch.randn(4, 5, 6), torch.randn(1, 6, 1, 1)
ONES, ZEROS = torch.ones(6), torch.zeros(6)
NO_NUMBERS = [True, 1j, "1", torch.tensor(1.0)]
#: A call of every function, with one value per group where it is given `SAMPLE`, and of groups of one channel.
CALLS = {
    "batch_norm": lambda x, **o: nf.batch_norm(x, **o),
    "ghost_batch_norm": lambda x, **o: nf.ghost_batch_norm(x, **o),
    "batch_renorm": lambda x, **o: nf.batch_renorm(x, nf.initial_statistics(6), **o),
    "instance_norm": lambda x, **o: nf.instance_norm(x, **o),
    "group_norm": lambda x, **o: nf.group_norm(x, 6, **o),
    "switchable_norm": lambda x, **o: nf.switchable_norm(x, torch.ones(3), torch.ones(3), **o),
    "batch_instance_norm": lambda x, **o: nf.batch_instance_norm(x, ONES, **o),
    "evo_norm_b0": lambda x, **o: nf.evo_norm_b0(x, ONES, **o),
    "evo_norm_s0": lambda x, **o: nf.evo_norm_s0(x, ONES, 6, **o),
    "adaptive_instance_norm": lambda x, **o: nf.adaptive_instance_norm(x, X[: len(x)], **o),
    "filter_response_norm": lambda x, **o: nf.filter_response_norm(x, **o),
    "global_response_norm": lambda x, **o: nf.global_response_norm(x, ONES, **o),
    "layer_norm2d": lambda x, **o: nf.layer_norm2d(x, **o),
    "rms_norm2d": lambda x, **o: nf.rms_norm2d(x, **o),
    "layer_norm": lambda x, **o: nf.layer_norm(x, [3], **o),
    "rms_norm": lambda x, **o: nf.rms_norm(x, [3], **o),
    "add_layer_norm": lambda x, **o: nf.add_layer_norm(x, x, [3], **o),
    "add_rms_norm": lambda x, **o: nf.add_rms_norm(x, x, [3], **o),
    "ibn": lambda x, **o: nf.ibn(x, 3, **o),
    "positional_norm": lambda x, **o: nf.positional_norm(x, **o),
    "modulated_layer_norm": lambda x, **o: nf.modulated_layer_norm(x, None, **o),
    "modulated_rms_norm": lambda x, **o: nf.modulated_rms_norm(x, None, **o),
    "gated_rms_norm": lambda x, **o: nf.gated_rms_norm(x, x, **o),
}
#: The functions whose layers take a single value, which is no group's own mean for them.
WITHOUT_MEAN = {
    *("filter_response_norm", "global_response_norm", "rms_norm2d", "layer_norm2d", "layer_norm", "rms_norm"),
    *("add_layer_norm", "add_rms_norm", "positional_norm"),
    *("modulated_layer_norm", "modulated_rms_norm", "gated_rms_norm"),
}


def test_every_function_is_called_here():
    public = {
        name for name, f in vars(nf).items() if inspect.isfunction(f) and "eps" in inspect.signature(f).parameters
    }
    assert public == set(CALLS)


@pytest.mark.parametrize("name", sorted(set(CALLS) - WITHOUT_MEAN))
def test_one_value_per_group(name, backend):
    with backend():
        CALLS[name](X)
        with pytest.raises(ValueError, match=r"(?i)expected more than 1 value|one value in each plane"):
            CALLS[name](SAMPLE)


def test_one_value_per_chunk_and_per_pixel():
    with pytest.raises(ValueError, match=r"ghost_batch_norm\(ghost_size=1\): .*single value per channel.*larger"):
        nf.ghost_batch_norm(torch.randn(4, 6), ghost_size=1)
    with pytest.raises(ValueError, match="layer_norm2d: a single channel is its own mean"):
        nf.layer_norm2d(X[:, :1])


def test_given_statistics_serve_one_value():
    known = nf.Running(ZEROS, ONES, torch.tensor(1))
    for name in ("batch_norm", "ghost_batch_norm", "instance_norm", "group_norm"):
        y, _ = CALLS[name](SAMPLE, statistics=known)
        torch.testing.assert_close(y, SAMPLE / (1 + 1e-5) ** 0.5)


@pytest.mark.parametrize("name", CALLS)
def test_eps_of_a_function(name):
    for wrong in NO_NUMBERS:
        with pytest.raises(TypeError, match=f"{name}: eps must be a number"):
            CALLS[name](X, eps=wrong)
    for wrong in (-1e-5, float("nan")):
        with pytest.raises(ValueError, match=f"{name}: eps must be at least 0, received"):
            CALLS[name](X, eps=wrong)


LAYERS = {
    **{f"BatchNorm{rank}d": (6,) for rank in (1, 2, 3)},
    **{f"InstanceNorm{rank}d": (6,) for rank in (1, 2, 3)},
    "SyncBatchNorm": (6,),
    "GhostBatchNorm2d": (6,),
    "BatchRenorm2d": (6,),
    "SwitchableNorm2d": (6,),
    "BatchInstanceNorm2d": (6,),
    "EvoNormB0": (6,),
    "EvoNormS0": (6,),
    "GroupNorm": (3, 6),
    "LayerNorm": (6,),
    "RMSNorm": (6,),
    "LayerNorm2d": (6,),
    "RMSNorm2d": (6,),
    "FilterResponseNorm2d": (6,),
    "GlobalResponseNorm": (6,),
    "ConditionalBatchNorm2d": (6, 2),
    "ConditionalInstanceNorm2d": (6, 2),
    "DynamicTanh": (6,),
    "DynamicErf": (6,),
    "SPADE": (6, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_sizes_of_a_layer(name):
    """Negative, not whole, a flag, no number: no layer is built that fails only when it runs."""
    build, sizes = getattr(nw, name), LAYERS[name]
    build(*sizes)
    for position in range(len(sizes)):
        for wrong in (-1, 4.0, True, "4", None, torch.ones(2)):
            arguments = [*sizes[:position], wrong, *sizes[position + 1 :]]
            with pytest.raises((ValueError, TypeError), match=rf"^{name}.*(must|expects|not divisible)"):
                build(*arguments)


@pytest.mark.parametrize("name", [n for n in LAYERS if "eps" in inspect.signature(getattr(nw, n)).parameters])
def test_eps_and_momentum_of_a_layer(name):
    build = functools.partial(getattr(nw, name), *LAYERS[name])
    for option in ("eps", "momentum"):
        if option not in inspect.signature(getattr(nw, name)).parameters:
            continue
        for wrong in NO_NUMBERS:
            with pytest.raises(TypeError, match=f"{name}: {option} must be a number"):
                build(**{option: wrong})
        for wrong in (-0.1, float("nan")):
            with pytest.raises(ValueError, match=f"{name}: {option} must be (at least|from) 0"):
                build(**{option: wrong})


@pytest.mark.parametrize("function", [nf.layer_norm, nf.rms_norm])
def test_the_shape_of_a_row(function):
    """As torch's functions take it, and a number for one dimension, as torch's layers do."""
    name = function.__name__
    theirs = getattr(torch.nn.functional, name)
    for right in ([6], (5, 6), [4, 5, 6], torch.Size([6])):
        torch.testing.assert_close(function(ROWS, right, torch.ones(right)), theirs(ROWS, right))
    torch.testing.assert_close(function(ROWS, 6), theirs(ROWS, [6]))
    for wrong in ((5,), (0,), (24,), (2**62, 6), (6, 5), (7, 4, 5, 6), 5):
        with pytest.raises(ValueError, match=rf"{name}: expected input of shape \[\*, .*got \[4, 5, 6\]"):
            function(ROWS, wrong)
    for wrong in ((), (-1,), -1):
        with pytest.raises(ValueError, match=f"{name}: normalized_shape must name at least one dimension"):
            function(ROWS, wrong)
    for wrong in ((6.0,), (True,), 6.0, True, "6", None, torch.tensor([6])):
        with pytest.raises(TypeError, match=f"{name}: normalized_shape must be the sizes.*received"):
            function(ROWS, wrong)


@pytest.mark.parametrize("build", [nw.LayerNorm, nw.RMSNorm])
def test_the_shape_of_a_rows_layer(build):
    for wrong in ((), (-1,), -1, (6.0,), (True,), 6.0, "6", None):
        with pytest.raises((ValueError, TypeError), match=f"{build.__name__}: normalized_shape must"):
            build(wrong)


@pytest.mark.parametrize("call", [lambda g: nf.group_norm(X, g), lambda g: nf.evo_norm_s0(X, ONES, g)])
def test_groups(call):
    for wrong in (0, -1, 4, 12):
        with pytest.raises(ValueError, match=rf"_(norm|s0)\(num_groups={wrong}\): 6 channels are not divisible"):
            call(wrong)
    for wrong in (2.0, True, "2", None):
        with pytest.raises(TypeError, match="num_groups must be a whole number, received"):
            call(wrong)


def test_sizes_of_ghosts():
    for build in (functools.partial(nf.ghost_batch_norm, X), functools.partial(nw.GhostBatchNorm2d, 6)):
        for wrong, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError), (None, TypeError)):
            with pytest.raises(error, match=r"ghost_size must be (at least 1|a whole number), received"):
                build(ghost_size=wrong)


def test_the_dimension_of_the_channels():
    for wrong, error in ((4, ValueError), (-5, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="dynamic_tanh: dim must be"):
            nf.dynamic_tanh(X, torch.tensor(0.5), dim=wrong)


def test_limits_of_renormalization():
    for option, low in (("r_max", 0.5), ("d_max", -1.0)):
        for wrong in (low, float("nan"), *NO_NUMBERS):
            with pytest.raises((ValueError, TypeError), match=f"batch_renorm: {option} must be"):
                CALLS["batch_renorm"](X, **{option: wrong})


def test_what_a_layer_is_conditioned_on():
    conditional, adaptive, spade = nw.ConditionalInstanceNorm2d(6, 3), nw.AdaptiveInstanceNorm(), nw.SPADE(6, 3)
    labels = torch.zeros(4, dtype=torch.long)
    for call in (
        lambda: conditional(X, labels.to("meta")),
        lambda: conditional(X, torch.ones(4, 3, device="meta")),
        lambda: adaptive(X, X.to("meta")),
        lambda: adaptive(X, (torch.ones(4, 6), torch.ones(4, 6, device="meta"))),
        lambda: spade(X, torch.ones(4, 3, 5, 3, device="meta")),
        lambda: nw.BatchNorm2d(6)(X, mask=torch.ones(4, 5, 3, device="meta") > 0),
        lambda: nw.LayerNorm(6)(ROWS, mask=torch.ones(4, 5, 6, device="meta") > 0),
    ):
        with pytest.raises(ValueError, match=r"must be on the input's device, cpu, received one on meta"):
            call()
    with pytest.raises(ValueError, match="lengths must have values"):
        nw.BatchNorm1d(6)(ROWS.mT, lengths=labels.to("meta"))


@pytest.mark.parametrize("name", ["mlp_gamma", "mlp_beta"])
def test_maps_of_a_replaced_convolution(name):
    """One channel would be broadcast, and a map without values be taken for one of zeros."""
    for other in (torch.nn.Conv2d(128, 1, 3, padding=1), torch.nn.Conv2d(128, 6, 3, padding=1, device="meta")):
        layer = nw.SPADE(6, 3)
        setattr(layer, name, other)
        with pytest.raises(ValueError, match=rf"SPADE: ({name}|weight of a convolution) must be"):
            layer(X, torch.ones(4, 3, 5, 3))

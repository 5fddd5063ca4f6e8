"""Every public layer, for tensors of any kind: by the C++ kernels as by the specification in fp64, and by the paper."""

import copy

import hypothesis.strategies as st
import numpy as np
import torch
from any_tensor import DTYPES, SIZES, UNIT, assert_within, in_numpy, map_shapes, masks, searched, values
from hypothesis import assume
from layer_cases import Case, by_the_paper, randomize
from marks import needs_kernels

import normwise as nw
from normwise import NORMALIZERS, use_backend
from normwise.core.moments import statistics_dtype

pytestmark = needs_kernels

#: Far from zero, and ε so large that a pool of equal values does not divide a rounding by it.
DISTANCE, EPS = st.sampled_from([0.0, 1.0, 30.0, 1000.0]), 0.1
UNMASKED = {"token-tanh", "token-erf", "tanh", "erf", "none"}
#: Whose output is rounded more often than once: SPADE normalizes to x's dtype, then modulates.
ROUNDINGS = {"spade": 3.0}
LAYERS = [
    (name, rank)
    for name, row in NORMALIZERS.items()
    for rank in (row.layers if 0 not in row.layers else (0, 1, 2, 3))
    if name != "sync"  # between processes only; tests/distributed
]


@st.composite
def calls(draw):
    """A layer and what is given to it; no samples, or no positions, now and then."""
    name, rank = draw(st.sampled_from(LAYERS))
    shape, dtype = draw(map_shapes(most=2000)), draw(st.sampled_from(DTYPES))
    rows = not NORMALIZERS[name].of_maps
    if rows:
        channels = shape[-1]
    else:
        shape = (*shape, *(1, 3, 2))[: rank + 2]
        channels = shape[1]
    empty = draw(st.sampled_from([None] * 9 + [0, -1]))
    if empty is not None and not rows:
        shape = tuple(0 if i in (empty, empty % len(shape)) and i != 1 else size for i, size in enumerate(shape))
    x, grad_y = draw(values(shape, dtype, draw(DISTANCE))), draw(values(shape, dtype))
    mask = None if name in UNMASKED or rows else draw(masks(shape))
    assume(channels > 1 or name not in ("ibn", "positional", "pixel-layer"))
    layer = NORMALIZERS[name].make(channels, rank or 2, None).to(statistics_dtype(dtype))
    for part in layer.modules():
        if isinstance(getattr(part, "eps", None), float):
            part.eps = EPS
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(draw(values(p.shape, p.dtype)), alpha=0.2)
    return {
        "name": name,
        "layer": layer.train(draw(st.booleans())),
        "x": x,
        "grad_y": grad_y,
        "condition": draw(conditions(NORMALIZERS[name].condition, x)),
        "mask": mask,
    }


@st.composite
def conditions(draw, kind, x):
    """What the layer takes after x."""

    def table(*shape):
        return draw(values(shape, statistics_dtype(x.dtype)))

    if kind == "labels":
        return [torch.arange(x.shape[0]) % 2]
    if kind == "segmentation":
        return [table(x.shape[0], 2, *x.shape[2:])]
    if kind == "style":
        return [(table(*x.shape[:2]), table(*x.shape[:2]).abs() + 0.5)]
    if kind == "vector":
        return [table(*x.shape[:1], 2) if x.dim() > 1 else table(2)]
    if kind == "gate":
        return [table(*x.shape)]
    return []


def outcome(layer, call, dtype, backend):
    """Output and gradients, or why there are none."""
    x = call["x"].to(dtype).detach().requires_grad_()
    options = {} if call["mask"] is None else {"mask": call["mask"]}
    try:
        with use_backend(backend):
            y = layer(x, *call["condition"], **options)
            leaves = {"x": x, **dict(layer.named_parameters())}
            grads = torch.autograd.grad(y, list(leaves.values()), call["grad_y"].to(dtype), allow_unused=True)
    except ValueError as error:
        return str(error)
    return {"y": y, **dict(zip(leaves, grads, strict=True))}


@searched(150, 1500, calls())
def test_the_kernels_give_what_the_specification_gives(call):
    exact = copy.deepcopy(call["layer"]).double()
    want = outcome(exact, {**call, "condition": in_double(call["condition"])}, torch.float64, "reference")
    got = outcome(call["layer"], call, call["x"].dtype, "cpu")
    if isinstance(want, str) or isinstance(got, str):
        assert got == want
        return
    dtype = call["x"].dtype
    unit, roundings = UNIT[statistics_dtype(dtype)], ROUNDINGS.get(call["name"], 1.01)
    # In fp64 nothing is wider that could keep what rounding takes from a mean: √ε and a gain of 2 enlarge it.
    away = 8 * float(call["x"].abs().max()) if dtype is torch.float64 and call["x"].numel() else 0.0
    for name, expected in want.items():
        assert (got[name] is None) == (expected is None), name
        if expected is None or expected.numel() == 0:
            continue
        expected = in_numpy(expected)
        # Terms that cancel are as large as the largest number, and the mean's rounding in fp32 plays no part.
        bound = roundings * UNIT[got[name].dtype] * np.abs(expected) + (400 + away) * unit * max(
            1.0, np.abs(expected).max()
        )
        assert_within(got[name], expected, bound, f"{call['name']}: {name} ")


def in_double(condition):
    return [
        tuple(t.double() for t in c) if isinstance(c, tuple) else c.double() if c.is_floating_point() else c
        for c in condition
    ]


@st.composite
def papers(draw):
    """A classic layer as `layer_cases` describes it, with its input."""
    family, dtype = (
        draw(st.sampled_from(["BatchNorm", "InstanceNorm", "GroupNorm", "Rows"])),
        draw(st.sampled_from(DTYPES)),
    )
    if family == "Rows":
        shape = tuple(draw(st.lists(SIZES, min_size=1, max_size=3))[:5])
        assume(np.prod(shape) <= 6000)
        dims = draw(st.integers(1, min(2, len(shape))))
        cls = draw(st.sampled_from([nw.LayerNorm, nw.RMSNorm]))
        case = Case(cls.__name__, cls, cls, (shape[-dims:], EPS), {}, shape)
    else:
        shape = draw(map_shapes())
        shape = shape if len(shape) > 2 else (*shape, draw(SIZES))
        name = family if family == "GroupNorm" else f"{family}{len(shape) - 2}d"
        channels = shape[1]
        groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
        args = (groups, channels, EPS) if family == "GroupNorm" else (channels, EPS)
        case = Case(name, getattr(nw, name), getattr(nw, name), args, {}, shape)
        # A pool of one value is an error.
        assume(
            {"BatchNorm": shape[0], "InstanceNorm": 1, "GroupNorm": channels // groups}[family] * np.prod(shape[2:]) > 1
        )
    mask = None if family == "Rows" else draw(masks(shape))
    return case, draw(values(shape, dtype, draw(DISTANCE))), mask


@searched(100, 1000, papers())
def test_the_classics_are_those_of_their_papers(drawn):
    case, x, mask = drawn
    assume(mask is None or bool(mask.flatten(1).any(1).all()))  # without any value a pool has no mean
    layer = randomize(case.build())
    with use_backend("cpu"):
        y = layer(x) if mask is None else layer(x, mask=mask)
    want = by_the_paper(case, layer, x, None if mask is None else mask.squeeze(1))
    size = 1 + np.abs(want) + np.abs(want).max()
    unit = UNIT[statistics_dtype(x.dtype)]
    # fp64 itself has no more digits of a mean a thousand times as large.
    bound = 1.01 * UNIT[x.dtype] * np.abs(want) + (32 * unit + 3e4 * UNIT[torch.float64]) * size
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert_within(y, want, bound, f"{case.id}: ")

"""What is kept for the backward pass, counted in bytes."""

import pytest
import torch
from marks import needs_kernels
from rich.console import Console
from torch import nn

import normwise as nw
from normwise.bench import kept
from normwise.bench.tables import show_kept
from normwise.comparison.settings import InputError

SHAPE = (2, 64, 7, 8)
SIZE = 4 * 2 * 64 * 7 * 8


def test_storages_count_once_and_parameters_do_not():
    x = torch.randn(SHAPE, requires_grad=True)
    assert kept.kept_bytes(lambda x: x.exp(), x) == SIZE
    assert kept.kept_bytes(lambda x: x.exp().tanh(), x) == 2 * SIZE  # each keeps its output
    assert kept.kept_bytes(lambda x: x.exp().sin(), x) == SIZE  # sin its input
    convolution = nn.Conv2d(64, 8, 1)
    assert kept.kept_bytes(convolution, x, *convolution.parameters()) == SIZE
    assert kept.kept_bytes(lambda x: x + 1, x) == 0


@needs_kernels
def test_the_tables_of_our_passes_count():
    x = torch.randn(SHAPE, requires_grad=True)
    layer = nw.InstanceNorm2d(64)
    assert kept.kept_bytes(layer, x) == SIZE + 2 * 8 * 2 * 64  # mean and variance of each plane in fp64


@needs_kernels
def test_a_lean_layer_keeps_what_the_convolution_behind_it_keeps():
    found = {(row["layer"], row["activation"]): row for row in kept.rows(SHAPE, ("fp32",))}
    assert len(found) == 12
    for (_, activation), row in found.items():
        sizes = {name: round(float(row[name]) / 4) for name in ("torch", "ours", "lean") if row[name]}
        assert sizes["ours"] == 2
        assert sizes["torch"] == (2 if activation in ("none", "relu") else 3)
        assert sizes.get("lean") == (1 if activation in ("none", "leaky_relu") else None)


def test_what_is_not_looked_at():
    for wrong in ({"shape": (2, 64, 7)}, {"names": ("layer",)}):
        with pytest.raises(InputError, match="bench memory looks at batch, group, instance on maps such as 8x64x56x56"):
            next(kept.rows(**{"shape": SHAPE, **wrong}))


@needs_kernels
def test_the_table():
    console = Console(width=120, record=True)
    show_kept(console, list(kept.rows(SHAPE, ("bf16",), ("batch",))))
    text = console.export_text()
    assert "ours, lean" in text
    line = next(line for line in text.splitlines() if "leaky_relu" in line)
    assert [round(float(cell)) for cell in line.split()[3:]] == [6, 4, 4, 2]

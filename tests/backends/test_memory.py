"""No kernel reads or writes outside a tensor, whatever has happened to the tensor since it was made."""

import ctypes

import pytest
import torch
from marks import needs_kernels
from torch import nn

import normwise as nw
from normwise.backends import cpu, cpu_formulas, cpu_rows, cpu_running, cpu_tensors
from normwise.core.layout import values_in_memory
from normwise.core.program import Instruction, Operand, Port, Program
from normwise.core.running import RunningStatistics

pytestmark = needs_kernels

WRONG_SIZES = pytest.mark.parametrize("size", [0, 1, 3, 5, 8])
X = torch.randn(2, 4, 3, 3)


@WRONG_SIZES
def test_a_parameter_has_one_value_for_each_channel(size):
    wrong = torch.ones(size)
    rest = (1e-5, None, None, None, True)
    table = torch.ones(2, 1, 4, dtype=torch.float64)
    for weight, bias in ((wrong, None), (None, wrong)):
        with pytest.raises(ValueError, match="one value for each channel"):
            cpu.standardize(X, 0, weight, bias, *rest)
        with pytest.raises(ValueError, match="one value for each channel"):
            cpu.standardize_backward(X, X, 0, weight, bias, 1e-5, None, None, table, known=False, values=True)
        with pytest.raises(ValueError, match=r"position"):
            cpu_rows.rows(torch.randn(3, 4), 4, weight, bias, 1e-5, True, True)
        with pytest.raises(ValueError, match="one value for each channel"):
            cpu_rows.columns(X, weight, bias, 1e-5, True, True)
    for known in ((wrong, torch.ones(4)), (torch.ones(4), wrong)):
        with pytest.raises(ValueError, match="one value for each channel"):
            cpu.standardize(X, 0, None, None, 1e-5, None, None, known, True)


@WRONG_SIZES
@pytest.mark.parametrize("which", ["running_mean", "running_var", "mean", "var"])
def test_running_statistics_have_one_value_for_each_channel(size, which):
    tensors = {name: torch.ones(4) for name in ("running_mean", "running_var", "mean", "var")}
    tensors[which] = torch.ones(size)
    running = RunningStatistics(tensors["running_mean"], tensors["running_var"], torch.tensor(0), 0.1)
    with pytest.raises(ValueError, match="one value for each channel"):
        cpu_running.remember(torch.float32, running, tensors["mean"].double(), tensors["var"].double(), 18)
    assert running.batches == 0


@WRONG_SIZES
def test_statistics_kept_for_the_backward_have_their_size(size):
    table = torch.ones(size, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"values agree|without any"):
        cpu.standardize_backward(X, X, 4, None, None, 1e-5, None, None, table, known=False, values=True)
    with pytest.raises(ValueError, match=r"values agree|without any"):
        cpu_rows.rows_backward(X, X, 3, None, None, (table,), True, (True, False, False, False))


@pytest.mark.parametrize("shape", [(2, 4, 3, 4), (1, 4, 3, 3), (2, 4, 9, 1, 1), (72,)])
def test_a_tensor_beside_the_input_has_its_shape(shape):
    other = torch.randn(shape)
    with pytest.raises(ValueError, match=r"\[2, 4, 3, 3\]|values agree"):
        cpu.standardize(X, 0, None, None, 1e-5, other, None, None, False)


def test_tables_of_a_formula_reach_every_plane():
    table = torch.ones(2, 4)
    short = torch.ones(1, 4).expand(2, 4)
    assert torch.equal(cpu.apply(X, short, table, table, None, None), cpu.apply(X, table, table, table, None, None))
    cut = torch.ones(2, 4)
    cut.untyped_storage().resize_(7 * 4)
    with pytest.raises(ValueError, match="values agree"):
        cpu.apply(X, table, cut, table, None, None)
    with pytest.raises(TypeError, match="float64"):
        cpu.apply(X, table, table.double(), table, None, None)
    with pytest.raises(TypeError, match="meta"):
        cpu.apply(X, table, table.to("meta"), table, None, None)


@pytest.mark.parametrize("keep", [0, 4, 60])
def test_released_memory_is_not_read(keep):
    x = torch.randn(2, 4, 3, 3)
    x.untyped_storage().resize_(keep)
    assert values_in_memory(x) == keep // 4
    with pytest.raises(RuntimeError, match="released or cut"):
        cpu.standardize(x, 0, None, None, 1e-5, None, None, None, False)
    with pytest.raises(RuntimeError, match="released or cut"):
        cpu.moments(x, None)


def test_the_memory_of_a_part_ends_where_the_whole_does():
    whole = torch.arange(10.0)
    assert values_in_memory(whole[6:]) == 4
    assert cpu_tensors.span(whole[6:])[1] == 4


class Wrapped(torch.Tensor):
    """A tensor of a class of somebody else."""


def test_what_another_class_of_tensors_holds_is_not_known():
    weight = torch.ones(4).as_subclass(Wrapped)
    with pytest.raises(TypeError, match="Wrapped"):
        cpu.standardize(X, 0, weight, None, 1e-5, None, None, None, False)
    layer = nw.BatchNorm2d(4)
    layer.weight = nn.Parameter(weight)
    torch.testing.assert_close(layer(X).as_subclass(torch.Tensor), nn.BatchNorm2d(4)(X))


def test_a_negative_view_is_not_read_as_it_lies_in_memory():
    negative = torch.complex(torch.randn(8, 4, 9, 9), torch.randn(8, 4, 9, 9)).conj().imag
    assert negative.is_neg()
    plain = negative.resolve_neg()
    for layer in (nw.BatchNorm2d(4), nw.GroupNorm(2, 4), nw.SwitchableNorm2d(4), nw.LayerNorm(9), nw.LayerNorm2d(4)):
        for backend in ("cpu", "reference"):
            with nw.use_backend(backend):
                torch.testing.assert_close(layer(negative), layer(plain))
                torch.testing.assert_close(layer(plain, negative), layer(plain, plain))


def test_zeros_that_autograd_only_names_are_zeros():
    zeros = torch._efficientzerotensor((2, 4, 3, 3))
    assert zeros._is_zerotensor()
    with nw.use_backend("cpu"):
        y = nw.GroupNorm(2, 4)(X.clone().requires_grad_())
        y.backward(zeros)
        torch.testing.assert_close(nw.GroupNorm(2, 4)(zeros), torch.zeros(2, 4, 3, 3))


def _program(**changed):
    """to = a + a for four values, in an array of nine."""
    parts = {"sizes": (4,), "target": Operand(5, (1,)), "source": Operand(1, (1,)), "size": 9, "at": 1, "count": 4}
    parts |= changed
    step = Instruction("add", parts["sizes"], parts["target"], (parts["source"], parts["source"]))
    ports = (Port(parts["at"], parts["count"], True),), (Port(5, 4, True),)
    return Program((step,), (0.0,), *ports, parts["size"])


def test_a_program_stays_inside_its_array():
    given, found = torch.arange(4.0, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    cpu_formulas.run(_program(), torch.float32, [given], [found])
    assert torch.equal(found, 2 * given)
    outside = (
        {"sizes": (5,)},
        {"sizes": (2**62, 4)},
        {"sizes": (-1,)},
        {"target": Operand(6, (1,))},
        {"target": Operand(-1, (1,))},
        {"source": Operand(1, (3,))},
        {"source": Operand(8, (-1,))},
        {"size": 8},
        {"at": 6},
        {"count": 9},
        {"count": -1},
    )
    for change in outside:
        with pytest.raises(ValueError, match="nw_run"):
            cpu_formulas.run(_program(**change), torch.float32, [given], [found])
    for wrong in ([], [given[:3]], [given, given]):
        with pytest.raises(ValueError, match=r"nw_run|program takes"):
            cpu_formulas.run(_program(), torch.float32, wrong, [found])
    assert ctypes.sizeof(cpu_formulas._Program) == 8 * 8

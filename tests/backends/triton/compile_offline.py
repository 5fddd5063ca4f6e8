"""Compile every kernel for sm_90 without a GPU: the bindings run as they are, but a launch compiles and does not run.

    python compile_offline.py [--all]

Prints one line for each kernel and specialization. TRITON_INTERPRET must not be set.
"""

import re
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from normwise import ACTIVATIONS
from normwise.backends import triton_kernels as kernels
from normwise.backends.triton_kernels import geometry, on_pools

TARGET = GPUTarget("cuda", 90, 32)
NAMES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
NAMES |= {torch.uint8: "*u8"}
NARROW = re.compile(r"tt\.addptr .*, (?:tensor<[\dx]+x)?i32\b")
seen = set()


def compile_only(kernel, *args, grid, warmup, num_warps=4, **kwargs):
    """What a launch would compile: 1 is a constant, multiples of 16 are known as such."""
    bound = kernel.signature.bind(*args, **kwargs).arguments
    signature, constants, attributes = {}, {}, {}
    for place, (name, value) in enumerate(bound.items()):
        constant = kernel.params[place].is_constexpr
        if constant or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = NAMES[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
    key = (kernel.fn.__name__, num_warps, str(signature), str(constants))
    if key in seen:
        return
    seen.add(key)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    found = triton.compile(source, target=TARGET, options={"num_warps": num_warps})
    module = kernel.fn.__module__.rsplit(".", 1)[1]
    narrow = len(NARROW.findall(found.asm["ttir"]))
    size = len(found.asm["cubin"])
    print(f"{module}.{kernel.fn.__name__} {num_warps} warps {size} bytes {narrow} offsets of 32 bits", flush=True)


def exercise(x, activation):
    """Every kernel once, with everything that a caller may pass."""
    n, c = x.shape[:2]
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    residual, grad_y = torch.empty_like(x), torch.empty_like(x)
    tables = [torch.empty(n, c, dtype=kind) for _ in range(5)]
    mask = torch.empty(n, 1, *x.shape[2:], dtype=torch.bool)
    weight, bias = torch.empty(2, c, dtype=x.dtype)
    kernels.moments(x, mask)
    rest = (*tables[:3], residual, activation)
    kernels.apply(x, *rest)
    kernels.backward_reduce(grad_y, x, *rest)
    kernels.backward_apply(grad_y, x, *rest, *tables[3:], mask)
    for groups in (0, 2, c):
        table = torch.empty((2, n, groups) if groups else (2, 1, c), dtype=torch.float64)
        for budget in (2**20, 0):
            on_pools.ON_CHIP_FORWARD = on_pools.ON_CHIP_BACKWARD = budget
            kernels.standardize(x, groups, weight, bias, 1e-5, residual, activation, None, True)
            options = {"known": False, "values": True}
            kernels.standardize_backward(grad_y, x, groups, weight, bias, 1e-5, residual, activation, table, **options)


def exercise_rows(x):
    width = x.shape[-1]
    weight, bias = torch.empty(2, width, dtype=x.dtype)
    for center in (True, False):
        parameters = weight, bias if center else None
        _, tables = kernels.rows(x, width, *parameters, 1e-5, center, True)
        kernels.rows_backward(x, x, width, *parameters, tables, center, (True, False, True, center))
    weight, bias = torch.empty(2, x.shape[1], dtype=x.dtype)
    _, tables = kernels.columns(x, weight, bias, 1e-5, True, True)
    kernels.columns_backward(x, x, weight, bias, tables, True, (True, False, True, True))


def main():
    JITFunction.run = compile_only
    everything = "--all" in sys.argv
    dtypes = [torch.bfloat16, torch.float32, torch.float64, torch.float16] if everything else [torch.bfloat16]
    for dtype in dtypes:
        exercise(torch.empty(2, 4, 16, 16, dtype=dtype).to(memory_format=torch.channels_last), ACTIVATIONS["silu"])
        exercise_rows(torch.empty(2, 48, 64, dtype=dtype))
        if everything:
            exercise(torch.empty(3, 6, 7, 7, dtype=dtype), None)
            exercise(torch.empty(3, 6, dtype=dtype), ACTIVATIONS["gelu"])
            exercise_rows(torch.empty(2, 7, 33, dtype=dtype))
    chosen = geometry.row_tiling
    geometry.row_tiling = lambda pools, kind, budget: chosen(pools, kind, 0)
    exercise_rows(torch.empty(2, 48, 64, dtype=torch.bfloat16))
    for shape in ((1, 1, 40000), (2, 64, 80000)):  # shares to be merged
        x, parameter = torch.empty(shape), torch.empty(shape[1])
        kernels.moments(x, None)
        kernels.standardize(x, shape[1], parameter, parameter, 1e-5, None, None, None, True)
    if everything:
        x, table = torch.empty(2, 4, 9), torch.empty(2, 4)
        for activation in ACTIVATIONS.values():
            for dtype in (torch.float32, torch.float64):
                y, tables = x.to(dtype), [table.to(dtype)] * 3
                kernels.apply(y, *tables, None, activation)
                kernels.backward_apply(y, y, *tables, None, activation, None, None, None)


if __name__ == "__main__":
    main()

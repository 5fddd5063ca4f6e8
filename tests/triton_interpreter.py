"""Triton's interpreter, made to round as a GPU does, and to do its preparations once."""

from functools import cache

import numpy as np
import torch


@cache
def prepare():
    """Before the first interpreted kernel runs."""
    round_to_nearest()
    patch_once()


def round_to_nearest():
    """Triton's interpreter cuts fp32 down to bf16; the hardware rounds to nearest even, which tolerances rely on."""
    import triton.language as tl
    from triton.runtime import interpreter

    truncating = interpreter.InterpreterBuilder.cast_impl

    def cast(self, source, to):
        if to.scalar == tl.bfloat16 and source.dtype.scalar in (tl.float32, tl.float64):
            rounded = torch.from_numpy(np.array(source.data)).bfloat16().view(torch.int16)
            return interpreter.TensorHandle(rounded.numpy().view(np.uint16), tl.bfloat16)
        return truncating(self, source, to)

    interpreter.InterpreterBuilder.cast_impl = cast


def patch_once():
    """Triton patches its language anew for every launch and for every call of one function by another.

    It searches whole modules for what to patch, which takes longer than the kernels. Where everything is interpreted,
    the first time is enough.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    patch, modules = interpreter._patch_lang, set()

    def patch_new(function):
        if function.__module__ not in modules:
            modules.add(function.__module__)
            patch(function)
            tl.tensor.__index__ = lambda self: self.handle.data.item()  # NumPy warns of how Triton 3.6 does it
        return interpreter._LangPatchScope()  # nothing to be restored

    interpreter._patch_lang = patch_new

"""Promises about what a layer is and keeps: saved, copied, begun anew, recomputed, made without memory."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from normwise.backends import cpu
from normwise.layers import NORMALIZERS

from .cases import NOT_APPLICABLE, WORKS, Case, modes, needs_processes, results_of


def saved_and_copied(case: Case) -> str:
    """A state_dict, a copy and a pickled layer go on with the same bits."""
    layer, condition = case.layer(torch.float32), case.condition(torch.float32)
    for seed in range(2 if True in modes(case) else 0):
        layer(case.input(torch.float32, seed), *condition)
    loaded, copied, pickled = case.made(), copy.deepcopy(layer), _written_and_read(layer, weights_only=False)
    loaded.load_state_dict(_written_and_read(layer.state_dict(), weights_only=True))
    x = case.input(torch.float32, seed=9)
    for training in modes(case):
        expected = layer.train(training)(x, *condition)
        for other in (loaded, copied, pickled):
            assert_close(other.train(training)(x, *condition), expected, rtol=0, atol=0)
            assert_close(other.state_dict(), layer.state_dict(), rtol=0, atol=0)
    return WORKS


def _written_and_read(what, weights_only):
    file = io.BytesIO()
    torch.save(what, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


def begun_anew(case: Case) -> str:
    """`reset_parameters` makes of empty memory what the constructor makes."""
    assert_begun_anew(case.made)
    return WORKS


def assert_begun_anew(make: Callable[[], nn.Module]) -> None:
    """As after `to_empty`, which a model made on the meta device needs."""
    with torch.device("meta"):
        model = make()
    model.to_empty(device="cpu")
    fresh = dict(make().named_modules())
    for name, module in model.named_modules():
        state = {**module._parameters, **module._buffers}
        random = {"weight"} if isinstance(module, nn.modules.conv._ConvNd) else set()
        tensors = {key: t for key, t in state.items() if t is not None and key not in random}
        if not tensors or not type(module).__module__.startswith("normwise."):
            continue
        for t in tensors.values():
            t.data.fill_(7)
        module.reset_parameters()
        expected = {key: getattr(fresh[name], key) for key in tensors}
        if name.startswith("parametrizations") and "_u" in tensors:  # the vectors start anew, without a weight
            assert all(t.isfinite().all() and not (t == 7).any() for t in tensors.values())
        else:
            assert_close(tensors, expected, rtol=0, atol=0)


def every_other():
    """A policy of selective checkpoints that depends on how many operators ran before in the same pass.

    torch 2.11 asks it again in the recomputation, torch 2.13 does not.
    """
    counts = {False: itertools.count(), True: itertools.count()}

    def policy(context, operator, *arguments, **options):
        saved = next(counts[context.is_recompute]) % 2
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


def _contexts():
    return create_selective_checkpoint_contexts(every_other())


def checkpointed(case: Case) -> str:
    """A recomputed pass gives the same gradients and is remembered once; two passes come before one backward."""
    if needs_processes(case):
        return NOT_APPLICABLE
    cotangent, condition = case.input(seed=7), case.condition()
    ways = [None, {"use_reentrant": False}, {"use_reentrant": True}, {"use_reentrant": False, "context_fn": _contexts}]
    if "rms" in case.name and cpu.unavailable() is not None:
        ways.pop()  # F.rms_norm adds eps in place to a result that this policy keeps
    results = []
    for options in ways:
        layer = case.layer()
        run = layer if options is None else partial(checkpoint, layer, **options)

        def twice(x, run=run):
            return run(x, *condition).tanh() + run(x * 2 + 1, *condition).tanh()

        results.append(results_of(twice, layer, case.input(), cotangent))
    for found in results[1:]:
        assert_close(found, results[0])
    return WORKS


def without_memory(case: Case) -> str:
    """A pass on the meta device: whoever asks a tensor for its value there gets an error."""
    if NORMALIZERS[case.name].condition == "labels":
        return NOT_APPLICABLE  # labels are looked at
    for training in modes(case):
        layer = case.layer(torch.float32).to("meta").train(training)
        x, *condition = (t.to("meta") for t in (case.input(torch.float32), *case.condition(torch.float32)))
        layer(x.requires_grad_(), *condition).sum().backward()
        assert x.grad.shape == x.shape
    return WORKS

"""One call and the rules that it must keep."""

from __future__ import annotations

import traceback
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from .call import Call
from .faults import must_be_refused
from .functions import REFUSED
from .oracle import difference, specification
from .paper import ContradictionError
from .scene import Outcome, Scene, perform

ORDINARY = (ValueError, TypeError, RuntimeError, NotImplementedError)
LEAST_MESSAGE = 20
#: Characters of an error that a find shows.
MOST_SHOWN = 300


class Finding(NamedTuple):
    """``kind`` groups finds, ``detail`` says what happened, ``place`` where, as far as that is known."""

    kind: str
    detail: str
    place: str = ""


def judge(call: Call) -> Finding | None:
    """What is wrong with how the call goes; None where nothing is, or where the call makes no sense."""
    if not applies(call):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _judge(call)
        except ContradictionError as error:
            return Finding("specification", str(error))


def applies(call: Call) -> bool:
    """Whether the call's fault makes a difference and the subject takes what it brings."""
    try:
        scene = Scene(call)
    except ORDINARY:
        return False
    if call.fault is None:
        return True
    return scene.applied and call.fault.target in scene.everything()


def _judge(call: Call) -> Finding | None:
    if call.warm and call.fault is not None:
        perform(Scene(call.without_fault()))
    scene = Scene(call)
    before = _snapshots(scene.everything() | {"cotangent": scene.cotangent})
    got = perform(scene)
    if got.error is not None:
        return _judge_error(call, scene, got, before)
    written = _written(scene, before, remembers=call.training)
    if written is not None:
        return Finding("input changed", written)
    return _judge_values(call, scene, got)


def _judge_error(call: Call, scene: Scene, got: Outcome, before: dict[str, Snapshot]) -> Finding | None:
    error = got.error
    place = _place(error)
    text = f"{type(error).__name__}: {error}".partition("\n")[0][:MOST_SHOWN]
    if not isinstance(error, ORDINARY) or isinstance(error, RecursionError):
        return Finding("exception", text, place)
    if len(str(error)) <= LEAST_MESSAGE or "INTERNAL ASSERT" in str(error):
        return Finding("message", text, place)
    written = _written(scene, before, remembers=got.stage == "backward" and call.training)
    if written is not None:
        return Finding("changed although it failed", f"{written}; {text}", place)
    if call.fault is None:
        if call.subject in REFUSED or call.meta or specification(call).error is not None:
            return None
        return Finding("refused", text, place)
    return _judge_recovery(call, scene, text)


def _judge_recovery(call: Call, scene: Scene, text: str) -> Finding | None:
    """The same object serves the right call afterwards."""
    clean = Scene(call.without_fault())
    if call.meta:
        return None
    clean.instance = scene.instance
    after = perform(clean)
    expected = specification(call.without_fault())
    if expected.error is not None:
        return None
    if after.error is not None:
        return Finding("does not recover", f"{type(after.error).__name__}: {after.error}; before: {text}")
    problem = difference(call.without_fault(), expected, after)
    return None if problem is None else Finding("does not recover", f"{problem}; before: {text}")


def _judge_values(call: Call, scene: Scene, got: Outcome) -> Finding | None:
    y = got.values["y"]
    if call.meta:
        right = y.device.type == "meta" and y.shape == scene.shape and y.dtype == scene.dtype
        return None if right else Finding("meta", f"{y.device} {y.dtype} {list(y.shape)} for meta {list(scene.shape)}")
    counter = call.fault is not None and call.fault.target.endswith("num_batches_tracked")
    learned = call.fault is not None and call.fault.target in scene.instance.learned
    refused = must_be_refused(call, learned=learned, broadcasts=scene.subject.broadcasts, counter=counter)
    if scene.x.numel() > 0 and (refused or call.subject in REFUSED):
        return Finding("accepted", "a result where nothing but an error is right")
    expected = specification(call)
    if expected.error is not None:
        return Finding("accepted", f"the specification says {type(expected.error).__name__}: {expected.error}")
    if y.dtype != scene.dtype or y.device.type != "cpu":
        return Finding("type of the output", f"{y.dtype} on {y.device}")
    problem = difference(call, expected, got)
    if problem is None:
        return None
    return Finding("NaN" if "NaN" in problem else "wrong", problem, problem.partition(":")[0])


class Snapshot(NamedTuple):
    """Every byte that a tensor's memory holds, those around the tensor too."""

    bytes: Tensor | None
    sizes: tuple[torch.Size, tuple[int, ...], torch.dtype]


def _snapshots(tensors: dict[str, Tensor]) -> dict[str, Snapshot]:
    return {name: _snapshot(t) for name, t in tensors.items()}


def _snapshot(t: Tensor) -> Snapshot:
    if t.layout is not torch.strided:
        return Snapshot(None, (t.shape, (), t.dtype))
    content = None
    if t.device.type == "cpu":
        content = torch.empty(0, dtype=torch.uint8).set_(t.detach().untyped_storage()).clone()
    return Snapshot(content, (t.shape, t.stride(), t.dtype))


def _written(scene: Scene, before: dict[str, Snapshot], *, remembers: bool) -> str | None:
    """Which tensor is not as it was; ``remembers``: buffers may move."""
    fault = scene.call.fault
    for name, t in (scene.everything() | {"cotangent": scene.cotangent}).items():
        if fault is not None and fault.between and fault.target == name:
            continue
        if remembers and _is_memory(name):
            continue
        now = _snapshot(t)
        if now.sizes != before[name].sizes:
            return f"{name} is another tensor now"
        if now.bytes is not None and not torch.equal(now.bytes, before[name].bytes):
            return f"{name} was written to"
    return None


def _is_memory(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")


def _place(error: BaseException | None) -> str:
    """The last line of the package that an error came through."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    ours = [f for f in frames if "/normwise/" in f.filename]
    return f"{ours[-1].filename.rpartition('/normwise/')[2]}:{ours[-1].name}" if ours else ""

"""What a call must give: the specification in fp64 on contiguous copies, and how far from it a result may be.

The bound follows from the condition of the case: the specification is run again in fp32, on inputs that are off by some
roundings, and what that changes is what the roundings of any way through the kernels may change.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normwise import use_backend
from tests.any_tensor import UNIT

from .call import DTYPES, Call
from .paper import by_the_paper
from .scene import Outcome, Scene, perform

#: Roundings of fp32 that an input is off by in a trial: more than any way makes, so that a kink nearby is crossed.
ROUNDINGS = 32
TRIALS = 3
#: What a result may differ by in terms of the trials' largest difference.
MARGIN = 16.0
#: Layers whose own convolutions or linear layer predict a map, in their parameters' type.
PREDICTED = ("spade", "adaptive-layer", "adaptive-rms")
#: Roundings of the output's own type: of y, of a sum with the residual and of an activation.
LAST_ROUNDINGS = 4
#: Roundings of the cotangent that a gradient may be off by where its terms cancel to 0, in the trials exactly.
CANCELLED = 64
#: A value alone in its row has no deviation: its gradient's terms are divided by √ε before they cancel to 0.
ALONE = 1e-5**-0.5
#: A gate that is all but closed stays at 2e-35, so that nothing becomes subnormal.
LEAST = 1e-27


def specification(call: Call, offset: int = 0) -> Outcome:
    """The call in fp64, contiguous, on the reference backend; a fault between the passes does not happen.

    ``offset`` numbers a trial.
    """
    fault = call.fault
    scene = Scene(call.without_fault() if fault is not None and fault.between else call)
    generator = torch.Generator().manual_seed(offset)
    unit = ROUNDINGS * UNIT[torch.float32] if offset else 0.0
    clean = Scene(call.without_fault())
    originals = clean.everything()

    def exact(name: str, t: Tensor) -> Tensor:
        if not originals[name].is_floating_point() or t.is_complex() or t.device.type == "meta":
            return t
        wide = t.detach().to(torch.float64, copy=True).contiguous()
        if unit:
            wide *= 1 + unit * (torch.randint(0, 2, wide.shape, generator=generator) * 2 - 1)
            wide = wide.float()
        return wide.requires_grad_(t.requires_grad)

    scene.x = exact("x", scene.x)
    scene.residual = None if scene.residual is None else exact("residual", scene.residual)
    scene.tensors = {name: exact(name, t) for name, t in scene.tensors.items()}
    scene.cotangent = scene.cotangent.double().contiguous()
    if unit:
        signs = torch.randint(0, 2, scene.cotangent.shape, generator=generator) * 2 - 1
        scene.cotangent = (scene.cotangent * (1 + unit * signs)).float()
    with use_backend("reference"):
        outcome = perform(scene)
    if not offset and fault is None and outcome.error is None:
        by_the_paper(scene, outcome.values["y"])
    return outcome


def difference(call: Call, expected: Outcome, got: Outcome) -> str | None:
    """Which value of ``got`` is not what it must be, in words; None where all are."""
    trials = [specification(call, offset).values for offset in range(1, TRIALS + 1)]
    cotangent = Scene(call.without_fault()).cotangent.double()
    for name, value in got.values.items():
        if name not in expected.values:
            return f"{name}: there, and should not be"
        want = expected.values[name]
        if value.shape != want.shape:
            return f"{name}: shape {list(value.shape)} instead of {list(want.shape)}"
        moved = [(trial[name].double() - want.double()).abs() for trial in trials if name in trial]
        spread = max((float(m[m.isfinite()].max()) for m in moved if m.isfinite().any()), default=0.0)
        spread = MARGIN * spread * _unit(call) / UNIT[torch.float32]
        if name.endswith("gradient") and cotangent.numel():
            spread += (ALONE if 1 in call.shape else 1) * CANCELLED * _unit(call) * float(cotangent.abs().max())
        problem = _difference(value, want.double(), spread)
        if problem is not None:
            return f"{name}{problem}"
    missing = {name for name, want in expected.values.items() if want.numel() > 0} - got.values.keys()
    if call.fault is not None and call.fault.between:
        missing.discard(f"{call.fault.target} gradient")  # torch itself forgets a leaf whose data has another type
    return f"missing: {', '.join(sorted(missing))}" if missing else None


def _difference(value: Tensor, want: Tensor, spread: float) -> str | None:
    if value.numel() == 0:
        return None
    kind = value.dtype if value.is_floating_point() else torch.float64
    got = value.detach().double()
    finite = want.isfinite()
    if (got.isnan() & finite).any():
        return f": NaN in {int((got.isnan() & finite).sum())} of {got.numel()} values, where there should be none"
    compared = finite & (want.abs() < 0.99 * torch.finfo(kind).max)  # beyond, infinity is right
    if not compared.any():
        return None
    largest = float(want[compared].abs().max())
    bound = spread + LAST_ROUNDINGS * torch.finfo(kind).eps / 2 * largest + LEAST
    error = torch.where(compared, (got - want).abs(), 0)
    worst = float(error.max())
    if worst <= bound:
        return None
    at = int(error.argmax())
    values = f"{float(got.flatten()[at]):.9g} instead of {float(want.flatten()[at]):.9g}"
    return f": {values}, off by {worst:.2g} where {bound:.2g} is right"


def _unit(call: Call) -> float:
    """One rounding of the type that the call computes in."""
    if call.subject.startswith(PREDICTED):
        return max(UNIT[DTYPES[call.dtype]], UNIT[DTYPES[call.kept]])
    narrowed = call.fault is not None and call.fault.target == "x" and call.fault.change != "data fp64"
    return UNIT[torch.float64 if call.dtype == "fp64" and not narrowed else torch.float32]

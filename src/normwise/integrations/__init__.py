"""Registration of the layers with tools that look up exact types: torch's eager quantization, Opacus.

Nothing is imported for that before the tool is: `import normwise` alone brings no torch.
"""

from types import ModuleType

from .when_imported import when_imported as _when_imported


def _tell_opacus(validators: ModuleType) -> None:
    from .opacus import register

    register(validators)


# torch's own tool is there with torch, whose import is not over when it comes: `normwise/_public.py` tells it.
_when_imported("opacus.validators", _tell_opacus)

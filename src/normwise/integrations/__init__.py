"""Registration of the layers in tools that look up exact classes: torch's eager quantization, Opacus.

No tool is imported for that: each is told of the layers when it is imported. `import normwise` alone imports no torch.
"""

from types import ModuleType

from .when_imported import when_imported as _when_imported


def _tell_opacus(validators: ModuleType) -> None:
    from .opacus import register

    register(validators)


# torch's own tool is registered by `normwise/_public.py`: at this point torch's import may not be finished.
_when_imported("opacus.validators", _tell_opacus)

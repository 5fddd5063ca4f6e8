"""Tools that look up the exact types of layers are told of ours: torch's eager quantization, Opacus."""

from .opacus import register as _register_in_opacus
from .quantization import register as _register_in_quantization
from .when_imported import when_imported as _when_imported

_when_imported("torch.ao.quantization.fuser_method_mappings", _register_in_quantization)
_when_imported("opacus.validators", _register_in_opacus)

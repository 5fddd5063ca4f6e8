"""Plain modules that `torch.jit.script` compiles instead of the layers, with the layers' tensors."""

from .conditioned import ScriptedGatedRMSNorm as ScriptedGatedRMSNorm
from .conditioned import ScriptedModulated as ScriptedModulated
from .conditioned import ScriptedModulatedWithGate as ScriptedModulatedWithGate
from .of_one_sample import ScriptedEvoNormS0 as ScriptedEvoNormS0
from .of_one_sample import ScriptedFilterResponseNorm as ScriptedFilterResponseNorm
from .of_one_sample import ScriptedGlobalResponseNorm as ScriptedGlobalResponseNorm
from .of_one_sample import ScriptedGroupNorm as ScriptedGroupNorm
from .of_one_sample import ScriptedRows as ScriptedRows
from .of_one_sample import ScriptedSquash as ScriptedSquash
from .of_one_sample import ScriptedSums as ScriptedSums
from .positional import ScriptedMomentShortcut as ScriptedMomentShortcut
from .positional import ScriptedPositionalNorm as ScriptedPositionalNorm
from .positional import ScriptedPositionalNormWithMoments as ScriptedPositionalNormWithMoments
from .remembering import ScriptedBatchNorm as ScriptedBatchNorm
from .remembering import ScriptedEvoNormB0 as ScriptedEvoNormB0
from .remembering import ScriptedIBN as ScriptedIBN
from .remembering import ScriptedInstanceNorm as ScriptedInstanceNorm
from .scripted import Scripted as Scripted
from .scripted import refuse as refuse

"""A parameter or buffer whose storage was released, as FSDP does it: an error, never a crash."""

import forked

PROGRAM = """
import torch
from conformance.cases import cases, modes

def tensors(layer):
    inside = (torch.nn.Conv2d, torch.nn.Linear)  # torch's own
    for prefix, module in layer.named_modules():
        if not isinstance(module, inside):
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                yield f"{prefix}.{name}"

for case in cases():
    for training in modes(case):
        for samples in (0, 3):
            for name in tensors(case.made()):
                layer = case.made().train(training)
                owner, _, leaf = name.rpartition(".")
                getattr(layer.get_submodule(owner), leaf).untyped_storage().resize_(0)
                print(case.id, training, samples, name, end=" ", flush=True)
                try:
                    layer(*(t[:samples] for t in (case.input(torch.float32), *case.condition(torch.float32))))
                    print("served")
                except Exception as error:
                    print(type(error).__name__)
"""


def test_no_layer_reads_released_memory():
    done = forked.Forked(PROGRAM).ended()
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1], done.stderr)
    assert len(lines) > 400
    # What is not read may be released: a counter in evaluation, and of an empty batch that is refused.
    served = [line for line in lines if line.endswith("served")]
    assert all(" False " in line and "num_batches_tracked" in line for line in served), served

"""What the commands print, for the tests of several of them."""


def complaints(errors):
    """What a command said beside its output; on a machine without a compiler it also says what serves instead."""
    return [line for line in errors.splitlines() if not line.endswith("; plain PyTorch serves.")]

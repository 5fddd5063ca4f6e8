"""The shapes of residual networks by depth, and the checks that all builders share."""

from __future__ import annotations

from typing import Literal, NamedTuple

Stem = Literal["small", "imagenet"]

BOTTLENECK_EXPANSION = 4

# Depth: convolutions per block, blocks per stage.
IMAGENET_FORM = {
    18: (2, (2, 2, 2, 2)),
    26: (3, (2, 2, 2, 2)),
    34: (2, (3, 4, 6, 3)),
    50: (3, (3, 4, 6, 3)),
    101: (3, (3, 4, 23, 3)),
    152: (3, (3, 8, 36, 3)),
    200: (3, (3, 24, 36, 3)),
    288: (3, (24, 24, 24, 24)),
    600: (3, (50, 50, 50, 50)),
}


class BlockSizes(NamedTuple):
    """Channels before, inside and after a block, its stride, and the number of its convolutions (2 or 3)."""

    inputs: int
    width: int
    outputs: int
    stride: int
    convolutions: int

    @property
    def projects(self) -> bool:
        """Whether the shortcut must change the shape."""
        return self.stride != 1 or self.inputs != self.outputs

    def branch(self) -> list[tuple[int, int, int, int]]:
        """(inputs, outputs, kernel, stride) of each convolution of the basic or bottleneck branch."""
        if self.convolutions == 2:
            return [(self.inputs, self.width, 3, self.stride), (self.width, self.width, 3, 1)]
        return [
            (self.inputs, self.width, 1, 1),
            (self.width, self.width, 3, self.stride),
            (self.width, self.outputs, 1, 1),
        ]


class ResidualForm(NamedTuple):
    """`convolutions` per block, `blocks` per stage, channels of the first stage's inner convolutions, the stem."""

    convolutions: int
    blocks: tuple[int, ...]
    width: int
    stem: Stem

    @property
    def stem_window(self) -> tuple[int, int]:
        """Kernel and stride of the stem's convolution; 3×3 max-pooling with stride 2 follows the larger one."""
        return (7, 2) if self.stem == "imagenet" else (3, 1)

    @property
    def pools(self) -> bool:
        return self.stem == "imagenet"

    @property
    def features(self) -> int:
        """Channels after the last stage."""
        return self.stages()[-1][-1].outputs

    def stages(self) -> list[list[BlockSizes]]:
        """The blocks of every stage: each stage doubles the channels, and its first block has stride 2."""
        stages, inputs = [], self.width
        for i, count in enumerate(self.blocks):
            width = self.width * 2**i
            outputs = width * (BOTTLENECK_EXPANSION if self.convolutions == 3 else 1)
            first = BlockSizes(inputs, width, outputs, 2 if i > 0 else 1, self.convolutions)
            rest = BlockSizes(outputs, width, outputs, 1, self.convolutions)
            stages.append([first] + [rest] * (count - 1))
            inputs = outputs
        return stages


def residual_form(caller: str, depth: int, stem: Stem | None, width: int | None) -> ResidualForm:
    """The family of a depth, with another stem or width if given; ValueError for a depth of neither family."""
    if isinstance(depth, int) and depth in IMAGENET_FORM:
        form = ResidualForm(*IMAGENET_FORM[depth], 64, "imagenet")
    elif isinstance(depth, int) and depth >= 8 and (depth - 2) % 6 == 0:
        form = ResidualForm(2, ((depth - 2) // 6,) * 3, 16, "small")
    else:
        raise ValueError(
            f"{caller}(depth={depth!r}): the depth must be {', '.join(map(str, IMAGENET_FORM))} or 6n+2 (8, 14, 20, "
            "32, 44, 56, 110, ...)."
        )
    if stem is not None:
        form = form._replace(stem=checked_choice(caller, "stem", stem, ("small", "imagenet")))
    if width is not None:
        form = form._replace(width=width)
    check_sizes(caller, width=form.width)
    return form


def checked_choice(caller: str, name: str, value: str, choices: tuple[str, ...]) -> str:
    """The value, or a ValueError that lists the allowed ones."""
    if value not in choices:
        raise ValueError(f"{caller}({name}={value!r}): the {name} is {' or '.join(map(repr, choices))}.")
    return value


def check_sizes(caller: str, **sizes: int) -> None:
    """Require every size to be a positive integer."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{caller}({name}={value!r}): {name} must be a positive integer.")

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


class ResidualForm(NamedTuple):
    """`convolutions` per block, `blocks` per stage, channels of the first stage's inner convolutions, the stem."""

    convolutions: int
    blocks: tuple[int, ...]
    width: int
    stem: Stem

    @property
    def expansion(self) -> int:
        """Output channels of a block over its inner channels."""
        return BOTTLENECK_EXPANSION if self.convolutions == 3 else 1


def residual_form(caller: str, depth: int, stem: Stem | None, width: int | None) -> ResidualForm:
    """The family of a depth, with another stem or width where given; ValueError for a depth of neither family."""
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
    """The value, or a ValueError that lists what it can be."""
    if value not in choices:
        raise ValueError(f"{caller}({name}={value!r}): the {name} is {' or '.join(map(repr, choices))}.")
    return value


def check_sizes(caller: str, **sizes: int) -> None:
    """Every size must be a positive integer."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{caller}({name}={value!r}): {name} must be a positive integer.")

"""The experiment of the instance normalization paper: does a painting depend on the photograph's contrast?

A net of each normalizer and batch size is trained for one style, and paints a photograph at full, half and a quarter of
its contrast.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import files
from ..errors import InputError
from .features import Features
from .painting import paint
from .photographs import listed
from .pictures import Picture, read_picture, write_picture
from .plan import Plan, check_plan, names_of
from .sheets import contact_sheet
from .style_file import ONE, load_style
from .training import Listener, run_training

CONTRASTS = (0.5, 0.25)
OTHERS = 4
SHOWN = 320
#: The least standard deviation of a photograph's pixels, in units of their range.
LEAST_CONTRAST = 0.01
ROWS, SHEET = "contrast.json", "contrast.png"


class Trained(NamedTuple):
    """A net of the experiment, and its painting at full contrast and at each of `CONTRASTS`."""

    norm: str
    batch_size: int
    seed: int
    paintings: tuple[Tensor, ...]
    distances: tuple[float, ...]


def contrast(
    photo: str | Path,
    photos: str | Path | Sequence[str | Path],
    style: str | Path,
    out: str | Path,
    *,
    features: Features,
    norms: Sequence[str] = ("instance", "batch"),
    batch_sizes: Sequence[int] = (1, 4, 16),
    seeds: int = 2,
    steps: int = 200,
    size: int = 64,
    on_net: Callable[[str], Listener] = lambda _: lambda _: None,
) -> list[dict[str, Any]]:
    r"""Train a net with each normalizer, batch size and seed, and measure how its painting depends on contrast.

    The distance of a contrast is :math:`\|net(x_c) - net(x)\| / \text{mean}_k \|net(x_k) - net(x)\|`: x the photograph,
    :math:`x_c` the same with its deviations from its mean times c, :math:`x_k` other photographs; all in evaluation. 0
    means that contrast has no effect, 1 that its effect is as large as that of another photograph.

    Args:
        photo: the photograph to paint. photos: the training photographs, files or folders. style: the style's picture.
        out: a folder for the nets, the rows (``contrast.json``) and the picture (``contrast.png``); nets in it that
            were finished with the same settings are not trained again.
        on_net: a function that returns the listener for a net's training, called with the net's name.

    Returns the rows: norm, batch size, seed, contrast, distance.
    """
    folder = Path(out)
    for option, values in (("--norms", norms), ("--batch-sizes", batch_sizes)):
        if len(set(values)) < len(values):
            raise InputError(f"{option} {','.join(map(str, values))}: write each of them once.")
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: write a whole number of at least 1.")
    sources = listed([photos] if isinstance(photos, (str, Path)) else photos, "photographs")
    base = _plan(tuple(sources), Path(style), steps, size)
    plans = [
        replace(base, norm=norm, batch_size=batch_size, seed=seed)
        for norm in norms
        for batch_size in batch_sizes
        for seed in range(seeds)
    ]
    for plan in plans:
        check_plan(plan)
    content = read_picture(photo, SHOWN).pixels
    if float(content.std((1, 2), correction=0).max()) < LEAST_CONTRAST:
        raise InputError(f"{photo} has no contrast to lower; write a photograph whose pixels differ.")
    others = [read_picture(path, SHOWN).pixels for path in sources if path.resolve() != Path(photo).resolve()][:OTHERS]
    if not others:
        raise InputError("The experiment needs other photographs than the painted one; name them with --photos.")
    files.make_folder(folder)
    found = [_measured(plan, features, folder, content, others, on_net) for plan in plans]
    rows = [
        {"norm": net.norm, "batch_size": net.batch_size, "seed": net.seed, "contrast": c, "distance": distance}
        for net in found
        for c, distance in zip(CONTRASTS, net.distances, strict=True)
    ]
    files.replace(folder / ROWS, json.dumps(rows, indent=1))
    write_picture(folder / SHEET, _sheet(content, [net for net in found if net.seed == 0]))
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as lines of text: the mean over seeds and the range."""
    lines = [f"{'':24}" + "".join(f"{f'contrast {c:g}':>24}" for c in CONTRASTS)]
    for norm, batch_size in dict.fromkeys((row["norm"], row["batch_size"]) for row in rows):
        cells = []
        for c in CONTRASTS:
            wanted = (norm, batch_size, c)
            values = [r["distance"] for r in rows if (r["norm"], r["batch_size"], r["contrast"]) == wanted]
            cells.append(f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        lines.append(f"{f'{norm}, batch size {batch_size}':24}" + "".join(f"{cell:>24}" for cell in cells))
    return lines


def lowered(pixels: Tensor, share: float) -> Tensor:
    """A picture ``[3, H, W]`` with its deviations from each channel's mean times ``share``."""
    middle = pixels.mean((1, 2), keepdim=True)
    return middle + share * (pixels - middle)


def _plan(photos: tuple[Path, ...], style: Path, steps: int, size: int) -> Plan:
    return Plan(
        kind=ONE,
        photos=photos,
        styles=tuple(listed([style], "the style")),
        names=names_of([style]),
        norm="instance",
        width=16,
        blocks=3,
        size=size,
        style_size=2 * size,
        steps=steps,
        batch_size=1,
        content_weight=1.0,
        style_weight=10.0,
        smoothness=0.1,
        loss="gram",
        learning_rate=4e-3,
        seed=0,
    )


def _measured(
    plan: Plan, features: Features, folder: Path, content: Tensor, others: Sequence[Tensor], on_net: Any
) -> Trained:
    name = f"{plan.norm.replace(':', '')}-{plan.batch_size}-{plan.seed}"
    path = folder / f"{name}.pt"
    if not _finished(path, plan, features):
        run_training(plan, features, path, on_net(name))
    net = load_style(path).net
    painted = tuple(paint(net, lowered(content, share)) for share in (1.0, *CONTRASTS))
    unit = mean(_distance(paint(net, _like(other, content)), painted[0]) for other in others)
    distances = tuple(_distance(low, painted[0]) / unit for low in painted[1:])
    return Trained(plan.norm, plan.batch_size, plan.seed, painted, distances)


def _finished(path: Path, plan: Plan, features: Features) -> bool:
    if not path.exists():
        return False
    style = load_style(path)
    return style.trained == plan.record(features) and style.plan == plan.net(features)


def _like(picture: Tensor, content: Tensor) -> Tensor:
    """A picture resized to the size of another."""
    sizes = content.shape[1], content.shape[2]
    return torch.nn.functional.interpolate(picture.unsqueeze(0), sizes, mode="bilinear", antialias=True)[0]


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def _sheet(content: Tensor, nets: Sequence[Trained]) -> Any:
    """Content and paintings, a row for each net, a column for each contrast."""
    shares = (1.0, *CONTRASTS)
    pictures = [Picture(lowered(content, share)) for share in shares]
    captions = [f"the photograph, contrast {share:g}" for share in shares]
    for net in nets:
        pictures += map(Picture, net.paintings)
        distances = ("", *(f", distance {distance:.3f}" for distance in net.distances))
        captions += [f"{net.norm}, batch size {net.batch_size}{distance}" for distance in distances]
    return contact_sheet(pictures, captions, columns=len(shares), longest=SHOWN)

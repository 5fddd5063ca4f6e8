"""The interactive page: measured cubes that can be turned, at other batch sizes, with equation, trap and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..pages import document
from ..pages.palette import SERIES
from .drawing import FRONT, SIDE, TOP, color_of
from .pictures import Effect, axis_of, data_uri, histogram, shown
from .terminal import as_grid

if TYPE_CHECKING:
    from .findings import Findings

HERE = Path(__file__).parent


def page(findings: Mapping[str, Sequence[Findings]], command: str, effects: Mapping[str, Effect] | None = None) -> str:
    """One file that needs no network; ``findings`` has the variants of each name, ``command`` repeats the page."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    effects = effects or {}
    colors = "".join(
        f"--g{number}{face}: {color_of(number, white)}; "
        for number in range(len(SERIES))
        for face, white in (("f", FRONT), ("t", TOP), ("s", SIDE))
    )
    buttons = "".join(f'<button type="button" data-name="{escape(name)}">{escape(name)}</button>' for name in findings)
    told_as_json = json.dumps({name: [_plain(one) for one in each] for name, each in findings.items()})
    sections = "\n".join(_section(name, each[0], effects.get(name)) for name, each in findings.items())
    body = f"""<h1>What a normalizer does</h1>
<p class="quiet">Which values share a mean and a variance, measured from the layer's own dependence: equal numbers share
all their statistics. Drag the cube, or use the arrow keys.</p>
<div class="choices"{" hidden" if len(findings) < 2 else ""}>{buttons}</div>
<div class="two">
<div>
<svg id="cube" viewBox="0 0 560 470" tabindex="0" role="img" aria-label="The cube of group numbers"></svg>
<div class="controls">
<span class="turn">{_turns()}</span>
<label>Batch size <input id="samples" type="range" min="0" step="1"><output id="samples-said"></output></label>
<label><span id="number-name">Groups</span>
<input id="number" type="range" min="0" step="1"><output id="number-said"></output></label>
<span class="mode"><button type="button" data-mode="train">training</button>
<button type="button" data-mode="eval">evaluation</button></span>
</div>
<p id="said" role="status"></p>
</div>
<div><table><tbody id="properties"></tbody></table></div>
</div>
{sections}
<details open><summary>Repeat it</summary><pre><code>{escape(command)}</code></pre></details>
<script type="application/json" id="told">{told_as_json.replace("<", chr(92) + "u003c")}</script>"""
    return document("What a normalizer does", body, f":root {{ {colors}}}\n{style}", script)


def _turns() -> str:
    signs = {"left": "←", "right": "→", "up": "↑", "down": "↓"}
    return "".join(
        f'<button type="button" data-turn="{way}" aria-label="turn {way}">{sign}</button>'
        for way, sign in signs.items()
    )


def _plain(findings: Findings) -> dict[str, Any]:
    """The data of a variant for the script, its grid flattened: samples, channels, positions."""
    full = findings.to_dict()
    grid = as_grid(findings.cube, findings.rows)
    places = as_grid(torch.arange(findings.cube.numel()).reshape(findings.cube.shape), findings.rows)
    where = {place: number for number, place in enumerate(places.flatten().tolist())}
    number = findings.name.partition(":")[2]
    return {
        "name": findings.name,
        "number": int(number) if number.isdigit() else None,
        "training": findings.training is not False,
        "shape": full["shape"],
        "grid": list(grid.shape),
        "cube": grid.flatten().tolist(),
        "reads": [[where[place] for place in places] for places in full["reads"]],
        "reads_of": as_grid(torch.tensor(full["reads_of"]), findings.rows).flatten().tolist(),
        "properties": full["properties"],
    }


def _section(name: str, findings: Findings, effect: Effect | None) -> str:
    """The sentences, formula and pictures of one name."""
    row = findings.row
    parts = [f"<h2>{escape(name if row is None else row.title)}</h2>"]
    if row is not None:
        equation = f'<p class="equation">{escape(row.equation)}</p><p class="quiet">{escape(row.paper)}</p>'
        parts.append(f'<div class="beside"><div><h3>The paper\'s equation</h3>{equation}</div>{_code(findings)}</div>')
        parts.append(f"<p><strong>Use it for.</strong> {escape(row.when_to_use)}</p>")
        parts.append(f'<p class="trap"><strong>Trap.</strong> {escape(row.trap)}</p>')
    parts.append(f"<p><strong>Cost.</strong> {escape(findings.cost[:1].upper() + findings.cost[1:])}.</p>")
    if row is None:
        parts.append(_code(findings))
    if effect is not None:
        parts.append(_pictures(effect))
    return f'<section data-of="{escape(name)}">{"".join(parts)}</section>'


def _code(findings: Findings) -> str:
    """The formula as it runs, beside the equation."""
    if findings.formula is None:
        return ""
    return f"<div><h3>The formula in code</h3><pre><code>{escape(findings.formula)}</code></pre></div>"


def _pictures(effect: Effect) -> str:
    """The pictures before and after, each with its histogram."""
    second = "the same, faded and warm" if effect.same else "second"
    figures = []
    for when, pair, contrasts in (("before", effect.before, 0), ("after", effect.after, 1)):
        visible = pair.clamp(0, 1) if when == "before" else shown(pair)
        for number, title in enumerate(("first", second)):
            label = f"{title}, {when}: contrast {effect.contrasts[contrasts][number]:.2f}"
            figures.append(
                f'<figure><img src="{data_uri(visible[number])}" alt="{escape(label)}">'
                f"{_histogram(pair, number)}<figcaption>{escape(label)}</figcaption></figure>"
            )
    before, after = effect.apart
    return (
        "<h3>What it does to a batch of two pictures</h3>"
        "<p>Contrast is the standard deviation of the values; below each picture is their histogram. The two differ by "
        f"{before:.2f} of their contrast before and by {after:.2f} after.</p>"
        f'<div class="pictures">{"".join(figures)}</div>'
    )


def _histogram(pair: torch.Tensor, number: int) -> str:
    low, high = axis_of(pair)
    shares = histogram(pair[number], pair)
    rects = "".join(
        f'<rect x="{10 * k}" y="{40 * (1 - share):.1f}" width="9" height="{40 * share:.1f}"/>'
        for k, share in enumerate(shares)
    )
    frame = f'viewBox="0 0 {10 * len(shares)} 40" preserveAspectRatio="none" role="img"'
    return f'<svg {frame} aria-label="histogram from {low:.2f} to {high:.2f}">{rects}</svg>'

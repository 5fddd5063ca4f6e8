"""Write the tables of docs/nets.md, with sizes counted on the networks: python docs/make_nets.py"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from normwise import nets

PAGE = Path(__file__).with_name("nets.md")
HEADS, RULE = ("net", "parameters", "GMAC", "image", "top-1 %"), ("---", "---:", "---:", "---:", "---:")


class Row(NamedTuple):
    """A network, the side of its test images, and its published top-1 accuracy if the source was read."""

    name: str
    make: Callable[[], nn.Module]
    side: int
    top1: str = ""


# Networks with their own function.
NF_REGNETS = ("b0", "b1", "b2", "b3", "b4", "b5")
# From the README of the authors' code.
NFNET_TOP1 = {"f0": "83.6", "f1": "84.7", "f2": "85.1", "f3": "85.7", "f4": "85.9", "f5": "86.0", "f6": "86.5 (SAM)"}


def normalizer_free() -> list[Row]:
    """The three families."""
    rows = [Row(f"nf_resnet{depth}", partial(nets.nf_resnet, depth), 224) for depth in (26, 50, 101, 152, 200, 288)]
    for variant in NF_REGNETS:
        side = nets.NF_REGNETS[variant].test_size
        rows.append(Row(f"nf_regnet_{variant}", partial(nets.nf_regnet, variant), side))
    for variant, sizes in nets.NFNETS.items():
        top1 = NFNET_TOP1.get(variant, "")
        rows.append(Row(f"nfnet_{variant}", partial(nets.nfnet, variant), sizes.test_size, top1))
    return rows


def baselines() -> list[Row]:
    """The baselines of the papers: depth 50, and EfficientNets."""
    return [
        Row("resnet(50)", partial(nets.resnet, 50, num_classes=1000), 224),
        Row("resnet(50, preactivation=True)", partial(nets.resnet, 50, num_classes=1000, preactivation=True), 224),
        Row("skipinit_resnet(50)", partial(nets.skipinit_resnet, 50), 224),
        Row("fixup_resnet(50)", partial(nets.fixup_resnet, 50), 224),
        *(
            Row(f'efficientnet("{variant}")', partial(nets.efficientnet, variant), sizes.size)
            for variant, sizes in nets.EFFICIENTNETS.items()
        ),
    ]


def table(rows: list[Row]) -> str:
    """A table of the rows; without a column for accuracies if there are none."""
    columns = len(HEADS) if any(row.top1 for row in rows) else len(HEADS) - 1
    lines = [HEADS, RULE, *map(cells, rows)]
    return (
        "".join("| " + " | ".join(line[:columns]) + " |\n" for line in lines)
        .replace(" --- ", "---")
        .replace(" ---: ", "---:")
    )


def cells(row: Row) -> tuple[str, ...]:
    """A network, counted."""
    with torch.device("meta"):
        net = row.make()
    macs = f"{nets.count_macs(net, (1, 3, row.side, row.side)) / 1e9:.3f}"
    return f"`{row.name}`", f"{nets.count_parameters(net):,}", macs, str(row.side), row.top1


def page(text: str) -> str:
    """The page with both tables replaced between their comments."""
    for name, rows in (("normalizer_free", normalizer_free()), ("baselines", baselines())):
        text, found = re.subn(rf"(?s)(<!-- {name} -->\n).*?(<!-- end -->)", _between(table(rows)), text)
        if found != 1:
            raise ValueError(f"{PAGE.name} must have one place for a table: <!-- {name} --> ... <!-- end -->")
    return text


def _between(middle: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match[1] + middle + match[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

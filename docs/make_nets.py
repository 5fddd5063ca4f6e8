"""Write the tables of docs/nets.md, sizes counted on the networks themselves: python docs/make_nets.py"""

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
HEAD = "| net | parameters | GMAC | image | top-1 % |\n|---|---:|---:|---:|---:|\n"


class Row(NamedTuple):
    """A network, the side of its test images, its published top-1; `recalled`: quoted without seeing the source."""

    name: str
    make: Callable[[], nn.Module]
    side: int
    top1: str = ""
    recalled: bool = False


# arXiv:2101.08692, with dropout and stochastic depth; depth 26 is not in the paper.
NF_RESNET_TOP1 = {50: "76.8", 101: "78.4", 152: "79.1", 200: "79.6", 288: "79.5"}
NF_REGNET_TOP1 = {"b0": "76.8", "b1": "78.6", "b2": "79.6", "b3": "80.6", "b4": "81.7", "b5": "82.0 to 82.5"}
# README of the authors' code.
NFNET_TOP1 = {"f0": "83.6", "f1": "84.7", "f2": "85.1", "f3": "85.7", "f4": "85.9", "f5": "86.0", "f6": "86.5 (SAM)"}
# arXiv:1905.11946, revised; B0 to B7.
EFFICIENTNET_TOP1 = ("77.1", "79.1", "80.1", "81.6", "82.9", "83.6", "84.0", "84.3")


def normalizer_free() -> list[Row]:
    """The three families."""
    rows = [
        Row(f"nf_resnet{depth}", partial(nets.nf_resnet, depth), 224, NF_RESNET_TOP1.get(depth, ""), True)
        for depth in (26, 50, 101, 152, 200, 288)
    ]
    for variant, top1 in NF_REGNET_TOP1.items():
        side = nets.NF_REGNETS[variant].test_size
        rows.append(Row(f"nf_regnet_{variant}", partial(nets.nf_regnet, variant), side, top1, True))
    for variant, sizes in nets.NFNETS.items():
        top1 = NFNET_TOP1.get(variant, "")
        rows.append(Row(f"nfnet_{variant}", partial(nets.nfnet, variant), sizes.test_size, top1))
    return rows


def baselines() -> list[Row]:
    """What the papers compare with: depth 50, and EfficientNets."""
    return [
        Row("resnet(50)", partial(nets.resnet, 50, num_classes=1000), 224),
        Row(
            "resnet(50, preactivation=True)",
            partial(nets.resnet, 50, num_classes=1000, preactivation=True),
            224,
            "76.4",
            True,
        ),
        Row("skipinit_resnet(50)", partial(nets.skipinit_resnet, 50), 224, "75.8", True),
        Row("fixup_resnet(50)", partial(nets.fixup_resnet, 50), 224, "75.9", True),
        *(
            Row(f'efficientnet("{variant}")', partial(nets.efficientnet, variant), sizes.size, top1, True)
            for (variant, sizes), top1 in zip(nets.EFFICIENTNETS.items(), EFFICIENTNET_TOP1, strict=True)
        ),
    ]


def line(row: Row) -> str:
    """One row of a table."""
    with torch.device("meta"):
        net = row.make()
    parameters = f"{nets.count_parameters(net):,}"
    macs = f"{nets.count_macs(net, (1, 3, row.side, row.side)) / 1e9:.3f}"
    top1 = f"{row.top1} †" if row.top1 and row.recalled else row.top1
    return f"| `{row.name}` | {parameters} | {macs} | {row.side} | {top1} |\n"


def page(text: str) -> str:
    """The page with both tables written anew between their comments."""
    for name, rows in (("normalizer_free", normalizer_free()), ("baselines", baselines())):
        table = HEAD + "".join(map(line, rows))
        text, found = re.subn(rf"(?s)(<!-- {name} -->\n).*?(<!-- end -->)", _between(table), text)
        if found != 1:
            raise ValueError(f"{PAGE.name} must have one place for a table: <!-- {name} --> ... <!-- end -->")
    return text


def _between(table: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match[1] + table + match[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

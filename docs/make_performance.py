"""Make the tables and pictures of docs/performance.md from docs/results: python docs/make_performance.py"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from normwise.bench import environment
from normwise.bench.pictures import panels, speed_up
from normwise.bench.regimes import REUSED
from normwise.bench.storage import Row, read_rows
from normwise.bench.subjects import SUBJECTS
from normwise.bench.summary import (
    DIRECTION_TITLES,
    FLOOR_FROM_BYTES,
    advantage,
    baseline,
    by_layer,
    by_memory,
    faulty,
    figures,
    groups,
    plain,
    slower,
    tensor_bytes,
    timed,
    title,
)

HERE = Path(__file__).parent
PAGE, RESULTS, IMAGES = HERE / "performance.md", HERE / "results", HERE / "images"
BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str) -> str:
    """The page with every block between ``<!-- name -->`` and ``<!-- end -->`` made anew."""
    return BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block[2]]()}{block[3]}", text)


def layers(name: str) -> str:
    """The tables of a grid, one for each regime of memory, and its pictures."""
    rows = latest(read_rows(RESULTS / f"{name}.csv"))
    if not rows:
        return "Not measured yet.\n"
    good, text = timed(rows), about(rows)
    for memory, members in by_memory(good).items():
        said = f"{len(slower(members))} of {len(members)} cells are slower than their baseline.\n"
        text += f"\n{memory.capitalize()}: {said}" if memory else f"\n{said}"
        text += f"\n{layers_table(members)}"
    return f"{text}\n{len(faulty(rows))} of {len(rows)} cells are wrong.\n{pictures(name, good)}"


def layers_table(rows: Sequence[Row]) -> str:
    """Layer by layer, what was measured in one regime."""
    directions = [d for d in DIRECTION_TITLES if any(row["direction"] == d for row in rows)]
    compiled = any(row["compiled_ms"] for row in rows)
    heads = ["layer", "against", "cells"]
    heads += [f"{DIRECTION_TITLES[d]}{part}" for d in directions for part in (", ratio", ", least", ", x floor")]
    heads += ["compiled baseline, ratio"] if compiled else []
    lines = []
    for heading, members in by_layer(rows):
        cells = [heading, baseline(members[0]), str(len(members))]
        for direction in directions:
            of = figures([row for row in members if row["direction"] == direction])
            cells += ["", "", ""] if of is None else [number(of.ratio), number(of.least), number(of.floor)]
        lines.append([*cells, number(advantage(members, "compiled_ms"))] if compiled else cells)
    return table(heads, lines)


def on_cpu() -> list[Row]:
    """The rows of the CPU, with one thread and with all."""
    return [row for name in ("cpu", "cpu_threads") for row in latest(read_rows(RESULTS / f"{name}.csv"))]


def targets() -> str:
    """What was aimed at, and what was measured: forward + backward."""
    rows = on_cpu()
    if not rows:
        return "Not measured yet.\n"
    both = [row for row in timed(rows) if row["direction"] == "both"]
    columns = groups(both, column)
    heads = ["aim", *columns]
    lines = []
    for aim, wanted, value in AIMS:
        found = [value([row for row in members if wanted(row)]) for members in columns.values()]
        lines.append([aim, *found])
    return table(heads, lines)


def column(row: Row) -> str:
    """What a column of the aims has in common: threads and regime of memory."""
    return f"{row['threads']} thread{'' if row['threads'] == '1' else 's'}, memory {row['memory']}"


def mean_ratio(rows: Sequence[Row]) -> str:
    """The geometric mean of the ratios, and the least."""
    found = figures(rows)
    return "" if found is None else f"{number(found.ratio)} (least {number(found.least)}, {found.cells} cells)"


def ceiling(rows: Sequence[Row]) -> str:
    """The ratio of a kernel that needs no more than the floor: how far the baseline itself is from it."""
    logs = [math.log(float(row["ratio"]) * float(row["x_of_floor"])) for row in rows]
    return number(math.exp(fmean(logs))) if logs else ""


def median_floor(rows: Sequence[Row]) -> str:
    """The median distance from the floor."""
    found = figures(rows)
    return "" if found is None else number(found.floor)


def share_slower(rows: Sequence[Row]) -> str:
    """How many cells are slower than their baseline."""
    return f"{len(slower(rows))} of {len(rows)} slower"


def large(row: Row) -> bool:
    """From 1 MB on."""
    return tensor_bytes(row) >= FLOOR_FROM_BYTES


CLASSIC = ("batch", "group", "instance", "layer")
AIMS: tuple[tuple[str, Callable[[Row], bool], Callable[[Sequence[Row]], str]], ...] = (
    ("BN, GN, IN, LN(C, space) alone: 3 times native", lambda r: r["layer"] in CLASSIC and plain(r), mean_ratio),
    (
        "the same from 1 MB on",
        lambda r: r["layer"] in CLASSIC and plain(r) and large(r),
        mean_ratio,
    ),
    (
        "what a kernel at the floor would have there",
        lambda r: r["layer"] in CLASSIC and plain(r) and large(r),
        ceiling,
    ),
    (
        "InstanceNorm in channels_last: 8 times native",
        lambda r: r["layer"] == "instance" and r["layout"] == "channels_last" and plain(r),
        mean_ratio,
    ),
    ("with activation (and residual): 1.5 times native", lambda r: not plain(r), mean_ratio),
    ("layers of papers, from 1 MB on: 5 times the paper", lambda r: baseline(r) == "paper" and large(r), mean_ratio),
    ("layers of papers, smaller", lambda r: baseline(r) == "paper" and not large(r), mean_ratio),
    ("no cell slower than native", lambda r: baseline(r) == "native", share_slower),
    ("from 1 MB on within 1.3 of the floor (median)", large, median_floor),
)


def slower_cells() -> str:
    """Every cell that is slower than its baseline, the slowest first."""
    if not on_cpu():
        return "Not measured yet.\n"
    rows = slower(on_cpu())
    heads = ["layer", "shape", "type", "layout", "pass", "threads", "memory", "ratio", "x floor"]
    lines = []
    for row in rows:
        names = [title(row), row["shape"], row["dtype"], row["layout"], DIRECTION_TITLES[row["direction"]]]
        floor = number(float(row["x_of_floor"])) if large(row) else ""
        lines.append([*names, row["threads"], row["memory"], row["ratio"], floor])
    summary = f"<details><summary>All {len(rows)} slower cells</summary>"
    return f"{summary}\n\n{table(heads, lines)}\n</details>\n"


def pictures(name: str, rows: Sequence[Row]) -> str:
    """One picture for each panel of forward + backward with most threads, as files beside the page."""
    most = max((row["threads"] for row in rows), key=int)
    shown = {k: v for k, v in panels(rows).items() if v[0]["direction"] == "both" and v[0]["threads"] == most}
    text = ""
    for heading, members in shown.items():
        kept = "-reused" if members[0]["memory"] == REUSED else ""
        path = IMAGES / f"bench-{name}-{members[0]['dtype']}-{members[0]['layout']}{kept}.svg"
        path.write_text(speed_up(members) + "\n", encoding="utf-8")
        text += f"\n![Speed-up, {heading}](images/{path.name})\n"
    return text


def overhead() -> str:
    """Microseconds per call."""
    rows = latest(read_rows(RESULTS / "overhead.csv"))
    if not rows:
        return "Not measured yet.\n"
    lines = []
    for row in timed(rows):
        native, ours = (1e3 * float(row[name]) for name in ("native_ms", "ours_ms"))
        cells = [f"{native:.1f}", f"{ours:.1f}", f"{ours - native:+.1f}"]
        lines.append([SUBJECTS[row["layer"]].title, DIRECTION_TITLES[row["direction"]], *cells])
    return f"{about(rows)}\n{table(['layer', 'pass', 'native, µs', 'ours, µs', 'difference'], lines)}"


def step() -> str:
    """Milliseconds of a training step of ResNet-50."""
    rows = latest(read_rows(RESULTS / "step.csv"))
    if not rows:
        return "Not measured yet.\n"
    lines = []
    for row in timed(rows):
        names = [SUBJECTS[row["norm"]].title, f"{row['dtype']}, {row['layout']}", row["threads"], row["memory"]]
        lines.append(names + [f"{float(row[k]):.0f}" for k in ("native_ms", "ours_ms", "none_ms")] + [row["ratio"]])
    heads = ["norm", "type, layout", "threads", "memory", "native, ms", "ours, ms", "no norm, ms", "ratio"]
    return f"{about(rows)}\n{table(heads, lines)}"


def compiled() -> str:
    """The three ways inside torch.compile."""
    rows = latest(read_rows(RESULTS / "compiled_cpu.csv"))
    if not rows:
        return "Not measured yet.\n"
    names = ("formula_ms", "native_ms", "operator_ms", "eager_ms")
    lines = []
    for row in rows:
        name = SUBJECTS[row["layer"]].title + (f" + {row['activation']}" if row["activation"] else "")
        first = [name, row["shape"], row["dtype"], row["layout"]]
        lines.append(first + [f"{float(row[name]):.2f}" for name in names] + [row["fastest"]])
    heads = [
        "layer",
        "shape",
        "type",
        "layout",
        "formula, ms",
        "native, ms",
        "operator, ms",
        "eager native, ms",
        "fastest",
    ]
    return f"{about(rows)}\n{table(heads, lines)}"


def latest(rows: Sequence[Row]) -> list[Row]:
    """The rows of the run that was measured last: one machine, one commit, one setting."""
    if not rows:
        return []
    return [row for row in rows if all(row[name] == rows[-1][name] for name in environment.COLUMNS)]


def about(rows: Sequence[Row]) -> str:
    """Where and when, in a sentence."""
    row = rows[-1]
    facts = [row["machine"], f"torch {row['torch']}", f"commit {row['commit']}", f"{row['clock']} clock"]
    facts += [f"backend {row['backend']}", f"huge pages {row['huge_pages']}", row["allocator"]]
    facts += [row[environment.DATE]]
    return f"{', '.join(facts)}.\n"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, ["---"] * len(heads), *lines))


def number(value: float | None) -> str:
    """Two digits behind the point below ten."""
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


BLOCKS: dict[str, Callable[[], str]] = {
    "cpu": lambda: layers("cpu"),
    "cpu_threads": lambda: layers("cpu_threads"),
    "cuda": lambda: layers("cuda"),
    "targets": targets,
    "slower": slower_cells,
    "overhead": overhead,
    "step": step,
    "compiled": compiled,
}

if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

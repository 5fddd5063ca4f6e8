"""Make the tables and pictures of docs/performance.md from docs/results: python docs/make_performance.py"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from normwise.bench import environment
from normwise.bench.cases import ROWS
from normwise.bench.pictures import panels, speed_up
from normwise.bench.regimes import AS_IT_COMES, REUSED
from normwise.bench.step_nets import NETS
from normwise.bench.storage import Row, read_rows
from normwise.bench.subjects import SUBJECTS
from normwise.bench.summary import (
    DIRECTION_TITLES,
    FLOOR_FROM_BYTES,
    advantage,
    baseline,
    by_layer,
    faulty,
    figures,
    geometric_mean,
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
    """The page with every block between ``<!-- name -->`` and ``<!-- end -->`` replaced."""
    return BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block[2]]()}{block[3]}", text)


def layers(name: str) -> str:
    """The tables of a grid, one for each instruction set and regime of memory, and its pictures."""
    rows = latest(read_rows(RESULTS / f"{name}.csv"))
    if not rows:
        return "Not measured yet.\n"
    good, text = timed(rows), about(rows)
    for regime, members in groups(good, regime_of).items():
        said = f"{len(slower(members))} of {len(members)} cells are slower than their baseline.\n"
        heading = regime if members[0]["instructions"] else regime.capitalize()
        text += f"\n{heading}: {said}" if heading else f"\n{said}"
        text += f"\n{layers_table(members)}"
    return f"{text}\n{len(faulty(rows))} of {len(rows)} cells are wrong.\n{pictures(name, good)}"


def regime_of(row: Row) -> str:
    """Instruction set, as far as it was written down, and regime of memory."""
    return ", ".join(part for part in (row["instructions"], row["memory"] and f"memory {row['memory']}") if part)


def layers_table(rows: Sequence[Row]) -> str:
    """The table of the layers in one regime."""
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
    """The targets and the measurements, for forward + backward."""
    rows = [row for row in timed(on_cpu()) if row["direction"] == "both"]
    if not rows:
        return "Not measured yet.\n"
    columns = groups(rows, column)
    lines = [[aim, *(value(members) for members in columns.values()), _LAYERS] for aim, value in AIMS]
    for aim, command, value in AIMS_OF_ONE_RUN:
        reached = value()
        lines += [[aim, reached, *[""] * (len(columns) - 1), command]] if reached else []
    return table(["aim", *columns, "measured by"], lines)


def column(row: Row) -> str:
    """The heading of a column of the targets: threads, instructions and regime of memory."""
    return f"{row['threads']} thread{'' if row['threads'] == '1' else 's'}, {regime_of(row)}"


def ratios(rows: Sequence[Row]) -> str:
    """The geometric mean of the ratios, and the least."""
    found = figures(rows)
    return "" if found is None else f"{number(found.ratio)} (least {number(found.least)}, {found.cells} cells)"


def distance(rows: Sequence[Row]) -> str:
    """The ratio to the floor for tensors of 1 MB and more: the median, and the 90th percentile."""
    found = sorted(float(row["x_of_floor"]) for row in rows if tensor_bytes(row) >= FLOOR_FROM_BYTES)
    return f"{number(median(found))}, {number(found[math.ceil(0.9 * len(found)) - 1])}" if found else ""


def host_time(direction: str) -> str:
    """The additional microseconds of a call on a tiny tensor over torch's layer: the least, and the most."""
    rows = [row for row in timed(latest(read_rows(RESULTS / "overhead.csv"))) if row["direction"] == direction]
    more = [1e3 * (float(row["ours_ms"]) - float(row["native_ms"])) for row in rows if row["native_ms"]]
    return f"{min(more):+.1f} to {max(more):+.1f} µs ({len(more)} layers)" if more else ""


def recovered_of(dtype: str) -> str:
    """The share of the normalizers' time that training steps in a dtype save, with memory reused."""
    rows = timed(latest(read_rows(RESULTS / "step.csv")))
    return recovered([row for row in rows if row["dtype"] == dtype and row["memory"] == REUSED])


def share_slower(rows: Sequence[Row]) -> str:
    """How many cells are slower than 0.95 of native."""
    native = [float(row["ratio"]) for row in rows if baseline(row) == "native"]
    return f"{sum(ratio < 0.95 for ratio in native)} of {len(native)}" if native else ""


def activated(rows: Sequence[Row]) -> list[Row]:
    """Maps with an activation."""
    return [row for row in rows if row["activation"] and row["layer"] not in ROWS]


def followed(rows: Sequence[Row], *layers: str) -> list[Row]:
    """Those of some layers with a residual or an activation."""
    return [row for row in rows if row["layer"] in layers and not plain(row)]


def short(row: Row) -> bool:
    """A plain layer of torch's on planes of 7 x 7 or 9 x 9."""
    return plain(row) and baseline(row) == "native" and row["shape"].endswith(("x7x7", "x9x9"))


def over_norm(dtype: str) -> Callable[[Sequence[Row]], str]:
    """The time with an activation as a multiple of the norm's own, for one type: the geometric mean, and the most."""

    def value(rows: Sequence[Row]) -> str:
        alone = {_cell(row): float(row["ours_ms"]) for row in rows if plain(row)}
        of = [
            float(row["ours_ms"]) / alone[_cell(row)]
            for row in activated(rows)
            if row["dtype"] == dtype and _cell(row) in alone
        ]
        return f"{number(geometric_mean(of))} (most {number(max(of))}, {len(of)} cells)" if of else ""

    return value


_REGIME = ("instructions", "memory")


def _cell(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in ("layer", "shape", "dtype", "layout", "threads", *_REGIME))


AIMS: tuple[tuple[str, Callable[[Sequence[Row]], str]], ...] = (
    ("from 1 MB on, x floor: median 1.25, nine in ten 1.6", lambda rows: distance([r for r in rows if plain(r)])),
    ("norm + activation, of the norm alone, fp32: 1.5", over_norm("fp32")),
    ("the same, bf16", over_norm("bf16")),
    ("native norm, then native activation: 1.4 times ours", lambda rows: ratios(activated(rows))),
    ("rows with residual or activation: 1.5 times ours", lambda rows: ratios(followed(rows, *ROWS))),
    (
        "pixels with residual or activation: 1.5 times ours",
        lambda rows: ratios(followed(rows, "pixel-layer", "pixel-rms")),
    ),
    ("planes of 7x7 and 9x9: none below 0.95 of native", lambda rows: ratios([r for r in rows if short(r)])),
    ("cells below 0.95 of native: none", share_slower),
    ("norms of maps alone", lambda rows: ratios([r for r in rows if r["layer"] in CLASSIC and plain(r)])),
    ("layers of papers, against the paper", lambda rows: ratios([r for r in rows if baseline(r) == "paper"])),
)
CLASSIC = ("batch", "group", "instance", "layer")
_LAYERS, _OVERHEAD, _STEPS = (f"`docs/measure_performance.py {part}`" for part in ("layers", "overhead", "steps"))
#: Targets that are not measured in every regime.
AIMS_OF_ONE_RUN: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("host time, forward: at most 2 µs more than native", _OVERHEAD, lambda: host_time("forward")),
    ("host time, forward + backward: at most 6 µs more", _OVERHEAD, lambda: host_time("both")),
    ("steps, of the norms' time recovered, fp32: 45%", _STEPS, lambda: recovered_of("fp32")),
    ("the same of steps in bf16", _STEPS, lambda: recovered_of("bf16")),
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
        floor = number(float(row["x_of_floor"])) if tensor_bytes(row) >= FLOOR_FROM_BYTES else ""
        regime = ", ".join(part for part in (row["instructions"], row["memory"]) if part)
        lines.append([*names, row["threads"], regime, row["ratio"], floor])
    summary = f"<details><summary>All {len(rows)} slower cells</summary>"
    return f"{summary}\n\n{table(heads, lines)}\n</details>\n"


def pictures(name: str, rows: Sequence[Row]) -> str:
    """One picture for each panel of forward + backward with most threads, as files beside the page; of several
    instruction sets the first."""
    rows = [row for row in rows if row["instructions"] == rows[0]["instructions"]]
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
    """Milliseconds of the training steps of whole nets, and the share of the normalizers' time that ours save."""
    rows = latest(read_rows(RESULTS / "step.csv"))
    if not rows:
        return "Not measured yet.\n"
    lines = []
    for row in timed(rows):
        names = [f"{NETS[row['net']].title}, {row['shape']}", SUBJECTS[row["norm"]].title]
        names += [f"{row['dtype']}, {row['layout']}", row["threads"], row["memory"]]
        native, ours, none = (float(row[k]) for k in ("native_ms", "ours_ms", "none_ms"))
        times = [f"{ms:.0f}" for ms in (native, ours, none)]
        lines.append([*names, *times, row["ratio"], f"{(native - none) / native:.0%}", recovered([row])])
    heads = ["net", "norm", "type, layout", "threads", "memory", "native, ms", "ours, ms", "no norm, ms", "ratio"]
    text = f"{about(rows)}\n{table([*heads, 'share of the norms', 'of it recovered'], lines)}\n"
    for memory in (AS_IT_COMES, REUSED):
        for dtype in ("fp32", "bf16"):
            members = [row for row in timed(rows) if (row["memory"], row["dtype"]) == (memory, dtype)]
            if members:
                mean, won = number(geometric_mean([float(row["ratio"]) for row in members])), recovered(members)
                text += (
                    f"\n- {dtype}, memory {memory}: {mean} in geometric mean; recovered {won or 'nothing'}"
                    " of what the norms take, summed over the nets where that is more than 5 % of the step"
                )
    return f"{text}\n"


def recovered(rows: Sequence[Row]) -> str:
    """The share of the normalizers' time that ours save, over the rows where it is more than 5 % of the step."""
    times = [tuple(float(row[k]) for k in ("native_ms", "ours_ms", "none_ms")) for row in rows]
    counted = [(native - ours, native - none) for native, ours, none in times if native - none > 0.05 * native]
    return f"{sum(won for won, _ in counted) / sum(all_ for _, all_ in counted):.0%}" if counted else ""


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
    """The rows of the run that was measured last: one machine, one commit, one setting, in all instruction sets."""
    if not rows:
        return []
    shared = [name for name in environment.COLUMNS if name != "instructions"]
    return [row for row in rows if all(row[name] == rows[-1][name] for name in shared)]


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
    """A number with two decimals below ten, else fewer."""
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

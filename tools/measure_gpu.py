"""Test and measure the Triton kernels on a GPU: all their tests, then the bench, as one CSV file and one summary.

    python tools/measure_gpu.py [--dry] [--out results/gpu] [options of normwise bench, such as --quick]

The rows are appended to layers.csv, as by `normwise bench`: the same command continues an interrupted measurement.
``--dry`` checks on a machine without a GPU that the script runs: a few tests in Triton's interpreter, one small tensor
on the CPU. It measures nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from normwise.bench import environment
from normwise.bench.storage import Row, read_rows
from normwise.bench.summary import (
    DIRECTION_TITLES,
    advantage,
    by_layer,
    faulty,
    figures,
    geometric_mean,
    place,
    tensor_bytes,
    timed,
)

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/backends/triton",)
DRY_TESTS = ("tests/backends/triton/test_rows.py", "-k", "far_from_zero_costs")
# Compiling takes longer than everything else, so only the small grid has compiled cells.
BENCHES = (("--device", "cuda", "--quick", "--compile"), ("--device", "cuda"))
DRY_BENCH = ("--shapes", "2x8x6x5", "--layers", "group", "--dtypes", "fp32", "--threads", "1")
OTHERS = {"native_ms": "native", "compiled_ms": "compiled", "autotuned_ms": "max-autotune", "liger_ms": "Liger"}
OTHERS |= {"quack_ms": "quack"}
#: The target: the least share of a copy's bandwidth, and the tensor size from which it applies.
TARGETS = {"forward": 0.85, "backward": 0.75}
LARGE = 32 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="on the CPU, to see that the script runs")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="the folder of both files")
    given, more = parser.parse_known_args()
    out = given.out.resolve()
    tests, failed = run_tests(DRY_TESTS if given.dry else TESTS)
    print(tests, flush=True)
    code = 0
    for chosen in (DRY_BENCH,) if given.dry else BENCHES:
        bench = [sys.executable, "-m", "normwise", "bench", *chosen, *more, "--out", str(out)]
        code = code or subprocess.run(bench, check=False).returncode
    rows = read_rows(out / "layers.csv") if (out / "layers.csv").exists() else []
    heading = "Not measured on a GPU: a dry run." if given.dry else "Measured on a GPU." if rows else "Not measured."
    (out / "summary.md").write_text(summary(heading, tests, rows), encoding="utf-8")
    print(f"Summary: {out / 'summary.md'}")
    sys.exit(code or failed)


def run_tests(which: Sequence[str]) -> tuple[str, int]:
    """Run tests, including slow ones; returns their result in a line, and the exit status of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", *which, f"--junitxml={report}"]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if not report.exists():
            return "Tests: they did not run.", code
        suite = next(ET.parse(report).getroot().iter("testsuite")).attrib
    bad, skipped = int(suite["failures"]) + int(suite["errors"]), int(suite["skipped"])
    return f"Tests: {int(suite['tests']) - bad - skipped} passed, {bad} failed, {skipped} skipped.", code


def summary(heading: str, tests: str, rows: Sequence[Row]) -> str:
    """The results as Markdown: a table by layer, and lists of the cells that are wrong, slower, or below the target."""
    parts = [heading, tests]
    if rows:
        last = rows[-1]
        # A file may hold several runs: the last one is reported.
        rows = [row for row in rows if all(row[name] == last[name] for name in environment.COLUMNS)]
        parts += [
            ", ".join(f"{name} {last[name]}" for name in (*environment.COLUMNS, environment.DATE) if last[name]) + "."
        ]
    good = timed(rows)
    parts += [by_layer_table(good)] if good else ["No cell was timed."]
    parts.append(
        listed("Slower than another", [f"{place(row)}: {named(row)}" for row in good if faster_than_ours(row)])
    )
    below = [row for row in good if is_below_target(row)]
    parts.append(listed("Below the target", [f"{place(row)}: {share(row):.0%} of a copy" for row in below]))
    wrong = [f"{place(row)}: {row['status']} {row['message']}" for row in faulty(rows)]
    return "\n\n".join([*parts, listed("Wrong or failed", wrong)]) + "\n"


def by_layer_table(rows: Sequence[Row]) -> str:
    """Per layer and pass: the geometric means of the others' time over ours, and of our share of a copy's bandwidth."""
    others = {column: name for column, name in OTHERS.items() if any(row[column] for row in rows)}
    heads = ["layer", "pass", "cells", "of a copy", *(f"{name}, ratio" for name in others.values()), "least ratio"]
    lines = [heads, ["---"] * len(heads)]
    for title, members in by_layer(rows):
        for direction, words in DIRECTION_TITLES.items():
            found = [row for row in members if row["direction"] == direction]
            of = figures(found)
            if of is not None:
                ratios = [advantage(found, column) for column in others]
                cells = [title, words, str(of.cells), f"{geometric_mean([share(row) for row in found]):.0%}"]
                lines.append([*cells, *("" if r is None else f"{r:.2f}" for r in ratios), f"{of.least:.2f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share(row: Row) -> float:
    """The bytes that must be moved ÷ our time, as a share of the bandwidth of a copy of the tensor."""
    return float(row["gb_per_s"]) / float(row["copy_gb_per_s"])


def is_below_target(row: Row) -> bool:
    target = TARGETS.get(row["direction"])
    return target is not None and tensor_bytes(row) >= LARGE and share(row) < target


def faster_than_ours(row: Row) -> dict[str, float]:
    """The faster baselines, with their ratios."""
    ratios = {name: float(row[column]) / float(row["ours_ms"]) for column, name in OTHERS.items() if row[column]}
    return {name: ratio for name, ratio in ratios.items() if ratio < 1}


def named(row: Row) -> str:
    return ", ".join(f"{name} {ratio:.2f}" for name, ratio in faster_than_ours(row).items())


def listed(heading: str, lines: Sequence[str]) -> str:
    return f"{heading}: {len(lines)} cells" + "".join(f"\n- {line}" for line in lines)


if __name__ == "__main__":
    main()

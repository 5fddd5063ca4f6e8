"""docs/performance.md: made of the committed rows, and of nothing else."""

import importlib.util
import re
from pathlib import Path

import pytest

from normwise.bench import step, sweep
from normwise.bench.measure import OK

SCRIPT = Path(__file__).parents[2] / "docs" / "make_performance.py"


@pytest.fixture
def maker(tmp_path, monkeypatch):
    """The script, with folders of its own for rows and pictures."""
    spec = importlib.util.spec_from_file_location("make_performance", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "IMAGES", tmp_path)
    return module


def rows_file(path, columns, rows):
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


ABOUT = {"machine": "A Processor", "torch": "2.13", "commit": "abc1234", "clock": "wall", "backend": "automatic"}
ABOUT |= {"huge_pages": "on, system: madvise", "allocator": "glibc 2.36", "date": "2026-01-02", "status": OK}
CELL = {"layer": "batch", "net": "U-Net", "shape": "2x64x128x128", "dtype": "fp32", "layout": "contiguous"}
CELL |= {"direction": "both", "threads": "1", "residual": "0", "ours_ms": "2", "native_ms": "6", "x_of_floor": "1.25"}
CELL |= {"memory": "as it comes"}


def test_the_committed_page_is_what_the_committed_rows_say(maker):
    text = maker.PAGE.read_text(encoding="utf-8")
    assert maker.page(text) == text, "run docs/make_performance.py"
    made = [path.name for path in maker.IMAGES.iterdir()]
    committed = SCRIPT.parent / "images"
    assert [name for name in made if (maker.IMAGES / name).read_text() != (committed / name).read_text()] == []


def test_every_block_of_the_page_is_known(maker):
    names = re.findall(r"<!-- (\w+) -->", maker.PAGE.read_text(encoding="utf-8"))
    assert set(names) - {"end"} == set(maker.BLOCKS)


def test_a_table_by_hand(maker, tmp_path, monkeypatch):
    monkeypatch.setattr(maker, "RESULTS", tmp_path)
    rows = [CELL | ABOUT | {"ratio": "3"}, CELL | ABOUT | {"ratio": "0.75", "shape": "2x4x8x8", "x_of_floor": "30"}]
    older = CELL | ABOUT | {"ratio": "100", "commit": "old"}
    reused = CELL | ABOUT | {"ratio": "1.5", "memory": "reused"}
    rows_file(tmp_path / "cpu.csv", sweep.ALL_COLUMNS, [older, *rows, reused])
    text = maker.layers("cpu")
    assert "A Processor, torch 2.13, commit abc1234, wall clock, backend automatic" in text
    assert "huge pages on, system: madvise, glibc 2.36, 2026-01-02." in text
    comes, kept = text.split("\nMemory reused: 0 of 1 cells are slower than their baseline.\n")
    assert "\nMemory as it comes: 1 of 2 cells are slower than their baseline.\n" in comes
    assert "| BatchNorm | native | 2 | 1.50 | 0.75 | 1.25 |" in comes
    assert "| BatchNorm | native | 1 | 1.50 | 1.50 | 1.25 |" in kept
    assert "0 of 3 cells are wrong." in kept
    assert (tmp_path / "bench-cpu-fp32-contiguous.svg").read_text().count("<rect ") == 2
    assert (tmp_path / "bench-cpu-fp32-contiguous-reused.svg").read_text().count("<rect ") == 1
    wide = [row | {"instructions": "x86-64-v4"} for row in (*rows, reused)]
    narrow = reused | {"instructions": "x86-64-v3", "ratio": "0.5"}
    rows_file(tmp_path / "cpu.csv", sweep.ALL_COLUMNS, [older, *wide, narrow])
    both = maker.layers("cpu")
    assert "\nx86-64-v4, memory reused: 0 of 1 cells are slower than their baseline.\n" in both
    assert "\nx86-64-v3, memory reused: 1 of 1 cells are slower than their baseline.\n" in both
    assert (tmp_path / "bench-cpu-fp32-contiguous-reused.svg").read_text().count("<rect ") == 1


def test_steps_and_calls(maker, tmp_path, monkeypatch):
    monkeypatch.setattr(maker, "RESULTS", tmp_path)
    row = {"net": "diffusion", "norm": "group", "dtype": "bf16", "layout": "channels_last", "threads": "2"}
    row |= {"memory": "reused", "shape": "1x3x64x64"}
    row |= {"native_ms": "200", "ours_ms": "125", "none_ms": "100", "ratio": "1.6"}
    # Normalizers that take less than 5 % of a step are not counted in what is recovered.
    other = row | {"net": "convnext", "norm": "pixel-layer", "ours_ms": "110", "none_ms": "195", "ratio": "2.5"}
    rows_file(tmp_path / "step.csv", step.COLUMNS, [row | ABOUT, other | ABOUT])
    text = maker.step()
    where = "bf16, channels_last | 2 | reused"
    assert f"| diffusion U-Net, 1x3x64x64 | GroupNorm | {where} | 200 | 125 | 100 | 1.6 | 50% | 75% |" in text
    assert f"| ConvNeXt, 1x3x64x64 | LayerNorm2d | {where} | 200 | 110 | 195 | 2.5 | 2% |  |" in text
    assert "- bf16, memory reused: 2.00 in geometric mean; recovered 75% of what the norms take" in text
    rows_file(tmp_path / "overhead.csv", sweep.ALL_COLUMNS, [CELL | ABOUT | {"ours_ms": "0.02", "native_ms": "0.0145"}])
    assert "| BatchNorm | forward + backward | 14.5 | 20.0 | +5.5 |" in maker.overhead()


def test_aims_and_slower_cells(maker, tmp_path, monkeypatch):
    """One and two threads, from two files; a tiny cell has no distance from the floor."""
    monkeypatch.setattr(maker, "RESULTS", tmp_path)
    cells = [CELL | ABOUT | {"ratio": ratio, "threads": "1"} for ratio in ("4.0", "0.25")]
    cells.append(CELL | ABOUT | {"ratio": "0.9", "shape": "8x2048x7x7", "ours_ms": "1", "x_of_floor": "1.25"})
    silu = CELL | ABOUT | {"ratio": "2.0", "activation": "silu", "ours_ms": "3"}
    rows_file(tmp_path / "cpu.csv", sweep.ALL_COLUMNS, [*cells, silu])
    rows_file(tmp_path / "cpu_threads.csv", sweep.ALL_COLUMNS, [CELL | ABOUT | {"ratio": "2.0", "threads": "2"}])
    tiny = CELL | ABOUT | {"ours_ms": "0.02", "native_ms": "0.0145"}
    rows_file(tmp_path / "overhead.csv", sweep.ALL_COLUMNS, [tiny, tiny | {"layer": "group", "ours_ms": "0.01"}])
    step_row = {"net": "diffusion", "norm": "group", "dtype": "fp32", "memory": "reused", "threads": "1"}
    step_row |= {"native_ms": "200", "ours_ms": "125", "none_ms": "100", "ratio": "1.6"}
    rows_file(tmp_path / "step.csv", step.COLUMNS, [step_row | ABOUT])
    lines = maker.targets().splitlines()
    assert lines[0] == "| aim | 1 thread, memory as it comes | 2 threads, memory as it comes | measured by |"
    by = " `docs/measure_performance.py layers` |"
    found = {aim: rest.removesuffix(by) for aim, rest in (line[2:].split(" | ", 1) for line in lines[2:])}
    assert found["host time, forward + backward: at most 6 µs more"] == (
        "-4.5 to +5.5 µs (2 layers) |  | `docs/measure_performance.py overhead` |"
    )
    assert found["steps, of the norms' time recovered, fp32: 45%"] == "75% |  | `docs/measure_performance.py steps` |"
    assert found["planes of 7x7 and 9x9: none below 0.95 of native"] == "0.90 (least 0.90, 1 cells) |  |"
    assert found["from 1 MB on, x floor: median 1.25, nine in ten 1.6"] == "1.25, 1.25 | 1.25, 1.25 |"
    assert found["norm + activation, of the norm alone, fp32: 1.5"] == "1.50 (most 1.50, 1 cells) |  |"
    assert found["native norm, then native activation: 1.4 times ours"] == "2.00 (least 2.00, 1 cells) |  |"
    assert found["cells below 0.95 of native: none"] == "2 of 4 | 0 of 1 |"
    assert found["norms of maps alone"] == "0.97 (least 0.25, 3 cells) | 2.00 (least 2.00, 1 cells) |"
    text = maker.slower_cells()
    assert "All 2 slower cells" in text
    assert text.count("| 0.25 |") == 1


@pytest.mark.parametrize("block", ["cpu", "cpu_threads", "targets", "slower", "cuda", "overhead", "step", "compiled"])
def test_what_was_not_measured_is_not_claimed(block, maker, tmp_path, monkeypatch):
    monkeypatch.setattr(maker, "RESULTS", tmp_path)
    assert maker.BLOCKS[block]() == "Not measured yet.\n"

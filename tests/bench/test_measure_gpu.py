"""tools/measure_gpu.py: what it makes of rows, and that it runs."""

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from normwise.bench import environment
from normwise.bench.measure import FAILED, OK

SCRIPT = Path(__file__).parents[2] / "tools" / "measure_gpu.py"
ABOUT = dict.fromkeys(environment.COLUMNS, "?")
ABOUT |= {"machine": "A GPU", "instructions": "", "backend": "triton", "date": "2026-01-02"}
CELL = {"layer": "group", "shape": "64x256x56x56", "dtype": "bf16", "layout": "contiguous", "direction": "forward"}
CELL |= {
    "activation": "",
    "residual": "0",
    "memory": "",
    "threads": "0",
    "status": OK,
    "message": "",
    "x_of_floor": "1",
}
CELL |= dict.fromkeys(("compiled_ms", "autotuned_ms", "liger_ms", "quack_ms"), "") | {"copy_gb_per_s": "4000"}


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("measure_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(ours, native, gb_per_s, **more):
    times = {"ours_ms": str(ours), "native_ms": str(native), "ratio": str(native / ours), "gb_per_s": str(gb_per_s)}
    return CELL | ABOUT | times | more


def test_a_summary_by_hand(script):
    rows = [
        row(1, 9, 1, commit="older"),
        row(1, 4, 3600, compiled_ms="2"),
        row(2, 2, 3240, compiled_ms="1"),  # 81 % of a copy, below 85 %, and half as fast as the compiler
        row(1, 2, 100, shape="2x32x8x8"),  # too small for a target
        row(1, 2, 3040, direction="backward"),  # 76 %, above 75 %
        row(1, 1, 1) | {"status": FAILED, "message": "out of memory"},
    ]
    text = script.summary("Measured on a GPU.", "Tests: 7 passed, 0 failed, 1 skipped.", rows)
    assert text.startswith("Measured on a GPU.\n\nTests: 7 passed, 0 failed, 1 skipped.\n\n")
    assert "machine A GPU, clock ?, backend triton" in text
    # (0.9 · 0.81 · 0.025)^(1/3) = 0.263; (4 · 1 · 2)^(1/3) = 2; (2 · 0.5)^(1/2) = 1
    assert "| GroupNorm | forward | 3 | 26% | 2.00 | 1.00 | 1.00 |" in text
    assert "| GroupNorm | backward | 1 | 76% | 2.00 |  | 2.00 |" in text
    name = "GroupNorm, 64x256x56x56, bf16, contiguous, forward"
    assert f"Slower than another: 1 cells\n- {name}: compiled 0.50\n" in text
    assert f"Below the target: 1 cells\n- {name}: 81% of a copy\n" in text
    assert f"Wrong or failed: 1 cells\n- {name}: failed out of memory\n" in text


def test_the_page_says_whether_a_gpu_was_measured():
    docs = SCRIPT.parents[1] / "docs"
    says_not = "\nNot measured on a GPU yet.\n" in (docs / "gpu.md").read_text(encoding="utf-8")
    assert says_not != (docs / "results" / "cuda.csv").exists()


def test_a_run_without_rows_is_told(script):
    text = script.summary("Measured on a GPU.", "Tests: they did not run.", [])
    assert "No cell was timed." in text


@pytest.mark.slow
def test_a_dry_run_leaves_one_csv_and_one_summary_and_claims_nothing(tmp_path):
    command = [sys.executable, str(SCRIPT), "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("Not measured on a GPU: a dry run.\n\nTests: 2 passed, 0 failed, 0 skipped.\n")
    with (tmp_path / "layers.csv").open(newline="") as file:
        assert {row["status"] for row in csv.DictReader(file)} == {OK}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is asked for")
def test_without_a_gpu_the_status_says_so(tmp_path, script, monkeypatch):
    monkeypatch.setattr(script, "run_tests", lambda which: ("Tests: 1 passed, 0 failed, 0 skipped.", 0))
    monkeypatch.setattr(sys, "argv", ["measure_gpu.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("Not measured.\n")
    assert "No cell was timed." in text

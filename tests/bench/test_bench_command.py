"""`normwise bench` as people run it."""

import csv
import os
import signal
import subprocess
import sys

import pytest
from command_output import complaints

from normwise.bench.regimes import regimes

SMALL = ("--shapes", "2x8x6x5", "--layers", "batch,switchable", "--dtypes", "fp32", "--threads", "1")


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def bench(*arguments, cwd, code=0, warnings="error"):
    command = [sys.executable, "-W", warnings, "-m", "normwise", "bench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(), timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return folder, bench(*SMALL, "--out", "out", cwd=folder)


def rows_in(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_page_and_table(finished):
    folder, done = finished
    rows = rows_in(folder / "out" / "layers.csv")
    assert len(rows) == 8 * len(regimes())
    assert {row["memory"] for row in rows} == set(regimes())
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["layer"] for row in rows} == {"batch", "switchable"}
    assert (folder / "out" / "bench.html").read_text(encoding="utf-8").count("<rect ") == len(rows)
    assert f"[{len(rows)}/{len(rows)}] SwitchableNorm" in done.stdout
    assert done.stdout.endswith("Page: out/bench.html\nRows: out/layers.csv\n")
    assert complaints(done.stderr) == []


def test_the_command_on_the_page_repeats_the_run(finished, command):
    folder, _ = finished
    page = (folder / "out" / "bench.html").read_text(encoding="utf-8")
    assert f"normwise bench {' '.join(SMALL)} --out out</code>" in page
    before = rows_in(folder / "out" / "layers.csv")
    code, _, errors = command("bench", *SMALL, "--out", str(folder / "out"))
    assert (code, complaints(errors)) == (0, [])
    assert rows_in(folder / "out" / "layers.csv") == before


BAD = {
    "layer": (("--layers", "bach"), "layers='bach' is unknown"),
    "shape": (("--shapes", "8x"), "--shapes 8x: write integers such as 8x256x56x56"),
    "threads": (("--threads", "two"), "--threads two: write integers such as 1,2"),
    "backend": (("--backend", "gpu"), "backend='gpu' is unknown"),
    "GPU": (("--device", "cuda:99"), "device='cuda:99' is not available: torch finds "),
    "file in the way": (("--out", "file"), "cannot be written"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_explained_in_one_line(arguments, said, command, tmp_path):
    (tmp_path / "file").touch()
    code, output, errors = command("bench", *SMALL, *arguments)
    (complaint,) = complaints(errors)
    assert said in complaint
    assert complaint.startswith("normwise: ")
    assert (code, output) == (2, "")


def test_an_unknown_subject(command):
    code, _, errors = command("bench", "speed")
    assert code == 2
    assert "layers" in errors


@pytest.mark.slow  # the fast suite: tests/test_cli_process.py, by `compare`
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_rows_and_a_page_and_the_same_command_goes_on(tmp_path, start):
    arguments = ("--shapes", "2x8x64x64", "--layers", "batch,group,instance,switchable", "--threads", "1")
    cells = 32 * len(regimes())
    command = [sys.executable, "-m", "normwise", "bench", *arguments, "--out", "out"]
    running = start(command, cwd=tmp_path, env=environment())
    assert running.stdout.readline().startswith(f"[1/{cells}] ")
    running.send_signal(signal.SIGINT)
    rest, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert complaints(errors) == []
    before = rows_in(tmp_path / "out" / "layers.csv")
    assert 1 <= len(before) < cells
    assert rest.endswith(f"Unfinished: {len(before)} of {cells} cells. The same command does the rest.\n")
    assert (tmp_path / "out" / "bench.html").exists()
    bench(*arguments, "--out", "out", cwd=tmp_path)
    after = rows_in(tmp_path / "out" / "layers.csv")
    assert len(after) == cells
    assert after[: len(before)] == before


@pytest.mark.slow
def test_overhead(tmp_path):
    done = bench("overhead", "--out", "out", cwd=tmp_path)
    rows = rows_in(tmp_path / "out" / "overhead.csv")
    assert {row["shape"] for row in rows} == {"2x32x8x8"}
    assert {row["direction"] for row in rows} == {"forward", "both"}
    assert "native, µs" in done.stdout


@pytest.mark.slow
def test_a_quick_run(tmp_path):
    bench("--quick", "--out", "out", cwd=tmp_path)
    rows = rows_in(tmp_path / "out" / "layers.csv")
    assert {row["status"] for row in rows} == {"ok"}
    assert len(rows) > 20


@pytest.mark.slow
def test_torch_compile_is_a_contestant(tmp_path):
    one = ("--shapes", "2x8x16x16", "--layers", "group", "--dtypes", "fp32", "--threads", "1")
    bench(*one, "--compile", "--out", "out", cwd=tmp_path, warnings="ignore")  # the compiler warns of torch's own code
    assert all(float(row["compiled_ms"]) > 0 for row in rows_in(tmp_path / "out" / "layers.csv"))

"""The `normwise` command as people run it: real processes, their output and exit codes.

What a second run of the same command does is asked within this process, where a process of its own adds nothing.
"""

import ast
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import pytest
from command_output import complaints

from normwise.cli import EXTRA

SMALL = ("--norms", "batch,none", "--batch-sizes", "64", "--seeds", "1", "--epochs", "1")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def environment(**extra):
    kept = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "PYTHONWARNINGS")}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **extra}


def normwise(*arguments, cwd, code=0, **extra):
    command = [sys.executable, "-W", "error", "-m", "normwise", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(**extra), timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished sweep in a pipe, with all its files."""
    folder = tmp_path_factory.mktemp("sweep")
    done = normwise("compare", *SMALL, "--out", "out", "--csv", "rows.csv", "--json", "rows.json", cwd=folder)
    return folder, done


def stored_rows(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_a_pipe_gets_plain_lines(finished):
    _, done = finished
    assert complaints(done.stderr) == []
    assert not CONTROL.search(done.stdout)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("[1/2] BatchNorm, batch size 64, seed 0: accuracy ")
    assert lines[1].startswith("[2/2] ")
    assert lines[lines.index("Report: out/report.html") :][:4] == [
        "Report: out/report.html",
        "Rows: out/results.jsonl",
        "CSV: rows.csv",
        "JSON: rows.json",
    ]


def test_json_and_csv_hold_the_rows(finished):
    folder, _ = finished
    rows = stored_rows(folder / "out")
    assert json.loads((folder / "rows.json").read_text()) == rows
    with (folder / "rows.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(line["norm"], float(line["test_accuracy"])) for line in table] == [
        (row["norm"], row["test_accuracy"]) for row in rows
    ]


def test_the_report_says_what_the_rows_say(finished):
    folder, _ = finished
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    for row in stored_rows(folder / "out"):
        assert f"{100 * row['test_accuracy']:.1f}" in page
    assert "Unfinished" not in page


def test_the_command_in_the_report_repeats_the_sweep(finished, command):
    folder, _ = finished
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<pre class="command"><code>(.*?)</code></pre>', page)
    assert found
    program, *arguments = shlex.split(unescape(re.sub(r"</?span>", "", found[1])))
    assert program == "normwise"
    code, output, _ = command(*arguments, folder=folder)
    assert code == 0
    assert output.splitlines()[0] == "2 of 2 runs were finished before and are not repeated."


def test_json_on_stdout_leaves_stdout_to_json(finished, command):
    folder, _ = finished
    code, output, errors = command("compare", *SMALL, "--out", "out", "--json", "-", folder=folder)
    assert code == 0
    assert json.loads(output) == stored_rows(folder / "out")
    assert "Test accuracy, %" in errors
    assert not CONTROL.search(errors)


def test_the_version(command):
    code, output, errors = command("--version")
    assert re.fullmatch(r"normwise \d+\.\d+\.\d+\n", output)
    assert (code, errors) == (0, "")


def test_bad_input_of_the_console_script(tmp_path, command):
    arguments = ("compare", "--data", "nowhere")
    script = [Path(sys.executable).with_name("normwise"), *arguments]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("normwise: data='nowhere': there is no such folder.")


def test_a_defect_keeps_its_traceback(tmp_path):
    # Fails in training, after all checks have passed.
    (tmp_path / "broken.py").write_text(
        "from normwise.nets import resnet\n"
        "from torch import nn\n"
        "class Broken(nn.Module):\n"
        "    def __init__(self, norm, in_channels, classes):\n"
        "        super().__init__()\n"
        "        self.net, self.calls = resnet(8, norm, in_channels, classes), 0\n"
        "    def forward(self, x):\n"
        "        self.calls += 1\n"
        "        if self.calls > 8:\n"
        "            raise ZeroDivisionError('a defect')\n"
        "        return self.net(x)\n"
        "def make(norm, in_channels, classes):\n"
        "    return Broken(norm, in_channels, classes)\n"
    )
    done = normwise("compare", *SMALL, "--out", "out", "--model", "broken:make", cwd=tmp_path, code=1)
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a defect" in done.stderr


# The first is missed on import, the second when the command wants it; each is a process of its own.
@pytest.mark.parametrize(
    "missing", ["typer", "plotly", *(pytest.param(m, marks=pytest.mark.slow) for m in ("rich", "sklearn"))]
)
def test_a_missing_extra_is_named_with_what_to_install(missing, tmp_path):
    program = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['normwise', 'compare', '--out', 'out'];"
        "from normwise.cli import EXTRA, main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"normwise: This command needs {missing}, which is not installed. Write: pip install 'normwise[cli]'\n"
    )
    assert done.stdout == ""


def test_importing_the_command_line_imports_no_extra(tmp_path):
    program = f"import sys, normwise.cli; print([m for m in {EXTRA} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [("--help",), ("compare", "--help"), ("report", "--help")])
def test_help_does_without_torch(arguments, tmp_path):
    assert loaded(arguments, 0, tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [("compere",), ("compare", "--epoch", "3"), ("compare", "--epochs", "x"), ("compare", "--batch-sizes", "2,x")],
)
def test_usage_errors_do_without_torch(arguments, tmp_path):
    assert loaded(arguments, 2, tmp_path) == []


def loaded(arguments, code, folder):
    """What of the heavy libraries a call of the command line has imported when it ends."""
    program = (
        f"import sys; sys.argv = ['normwise', *{list(arguments)!r}]\n"
        "import atexit, os\n"
        "heavy = ('torch', 'numpy', 'plotly', 'sklearn')\n"
        "atexit.register(lambda: print('heavy:', [name for name in heavy if name in sys.modules]))\n"
        "from normwise.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=environment(), timeout=60
    )
    assert done.returncode == code, done.stderr
    return ast.literal_eval(done.stdout.splitlines()[-1].removeprefix("heavy: "))


def test_the_report_is_written_again_from_its_folder(finished, command):
    folder, _ = finished
    page = folder / "out" / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    code, output, errors = command("report", "out", "--csv", "again.csv", folder=folder)
    assert (code, errors) == (0, "")
    assert page.read_text(encoding="utf-8") == before
    assert (folder / "again.csv").read_text() == (folder / "rows.csv").read_text()
    assert "Test accuracy, %" in output
    assert "Report: out/report.html" in output


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, "holds no comparison: there is no settings.json in it"),
        ({"settings.json": "{"}, "was not written by this version of normwise"),
        ({"settings.json": '{"keys": ["a"]}'}, "no run of the last comparison in it is finished"),
    ],
)
def test_a_folder_without_a_comparison_has_no_report(made, said, command, tmp_path):
    (tmp_path / "out").mkdir()
    for name, text in made.items():
        (tmp_path / "out" / name).write_text(text)
    code, output, errors = command("report", "out")
    assert (code, output) == (2, "")
    assert said in errors


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_leaves_a_report_and_the_same_command_goes_on(tmp_path, start, command, number, code):
    arguments = ["compare", "--norms", "batch,none", "--batch-sizes", "64", "--seeds", "2", "--epochs", "1"]
    arguments += ["--out", "out", "--csv", "rows.csv"]
    running = start([sys.executable, "-m", "normwise", *arguments], cwd=tmp_path, env=environment())
    first = running.stdout.readline()
    assert first.startswith("[1/4] ")
    running.send_signal(number)
    rest, errors = running.communicate(timeout=120)
    assert running.returncode == code, errors
    assert complaints(errors) == []
    rows = stored_rows(tmp_path / "out")
    assert 1 <= len(rows) < 4
    notice = f"Unfinished: {len(rows)} of 4 runs are in. The same command does the rest."
    assert notice in rest
    assert notice in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + len(rows)

    done, resumed, _ = command(*arguments)
    assert done == 0
    assert f"{len(rows)} of 4 runs were finished before and are not repeated." in resumed
    assert len(re.findall(r"^\[\d/4\] ", resumed, re.MULTILINE)) == 4 - len(rows)
    assert stored_rows(tmp_path / "out")[: len(rows)] == rows
    assert len(stored_rows(tmp_path / "out")) == 4
    assert "Unfinished" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_before_the_first_run_has_nothing_to_report(tmp_path, start):
    command = [sys.executable, "-m", "normwise", "compare", "--epochs", "500", "--batch-sizes", "8", "--out", "out"]
    running = start(command, cwd=tmp_path, env=environment())
    while not (tmp_path / "out" / "settings.json").exists():
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert output == "No run was finished, so there is nothing to report.\n"
    assert not (tmp_path / "out" / "report.html").exists()

"""Rows on disk, a sweep that goes on where it was stopped, and what is shown of it."""

import io
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from normwise.bench import environment, step, step_nets, sweep
from normwise.bench.cases import Case
from normwise.bench.measure import FAILED, OK, WRONG, Options
from normwise.bench.page import build_page, write_page
from normwise.bench.pictures import panels, roof, roofline, shade, speed_up
from normwise.bench.regimes import AS_IT_COMES, REUSED
from normwise.bench.step_nets import KINDS
from normwise.bench.storage import Rows, read_rows
from normwise.bench.subjects import SUBJECTS
from normwise.bench.summary import advantage, by_layer, figures, slower, timed, title
from normwise.bench.tables import show_overhead, show_step_line, show_steps
from normwise.bench.terminal import Ticker, show
from normwise.comparison import InputError
from normwise.pages.svg import LogScale

CASES = [
    Case(layer, "U-Net", (2, 8, 6, 5), dtype, "contiguous", "both", 1)
    for dtype in ("fp32", "bf16")
    for layer in ("batch", "group")
]


def instant(functions, rounds):
    for function in functions.values():
        function()
    return {name: 2.0 if name == "ours" else 3.0 for name in functions}


OPTIONS = Options(torch.device("cpu"), instant)


@pytest.fixture
def measured(monkeypatch):
    """The cases that were really measured."""
    calls, real = [], sweep.measure
    monkeypatch.setattr(sweep, "measure", lambda case, options: calls.append(case) or real(case, options))
    return calls


class TestRows:
    def test_values_come_back_as_they_were_written(self, tmp_path):
        with Rows(tmp_path / "new" / "a.csv", ("name", "value")) as file:
            written = file.append({"name": 'with, "all"\nof it', "value": 0.123456})
            assert file.read() == [written]
        assert written == {"name": 'with, "all" of it', "value": "0.1235"}
        assert read_rows(tmp_path / "new" / "a.csv") == [written]

    @pytest.mark.parametrize("cut", [1, 3, 7])
    def test_a_row_that_was_cut_off_is_dropped_and_the_others_stay(self, tmp_path, cut):
        path = tmp_path / "a.csv"
        with Rows(path, ("a", "b")) as file:
            rows = [file.append({"a": i, "b": "text"}) for i in range(3)]
        path.write_bytes(path.read_bytes()[:-cut])
        with Rows(path, ("a", "b")) as file:
            assert file.read() == rows[:2]
            rows[2] = file.append({"a": 9, "b": "again"})
        assert read_rows(path) == rows

    def test_other_columns_are_refused_and_the_file_stays(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("a,c\n1,2\n")
        with pytest.raises(InputError, match=r"a\.csv has other columns than this version writes"), Rows(path, "ab"):
            pass
        assert path.read_text() == "a,c\n1,2\n"

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
    def test_a_second_process_is_kept_out(self, tmp_path):
        path = tmp_path / "a.csv"
        program = f"""
from pathlib import Path
from normwise.bench.storage import Rows
try:
    with Rows(Path({str(path)!r}), "ab"): print("in")
except ValueError as error: print(error)
"""
        with Rows(path, "ab"):
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert "Another process writes to" in done.stdout

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written"), Rows(tmp_path / "file" / "a.csv", "ab"):
            pass


class TestSweep:
    def test_what_is_finished_is_not_measured_again(self, tmp_path, measured):
        path = tmp_path / "layers.csv"
        first = sweep.run(CASES[:2], OPTIONS, path)
        again = sweep.run(CASES, OPTIONS, path)
        assert measured == CASES
        assert again[:2] == first
        assert read_rows(path) == again

    def test_what_a_kill_leaves_is_used(self, tmp_path, measured):
        path = tmp_path / "layers.csv"

        def stop(row, done, total):
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sweep.run(CASES, OPTIONS, path, listen=stop)
        assert len(read_rows(path)) == 2
        assert len(sweep.run(CASES, OPTIONS, path)) == 4
        assert measured == CASES

    @pytest.mark.parametrize("changed", ["clock", "commit", "backend", "huge pages", "allocator"])
    def test_what_was_measured_otherwise_is_measured_anew(self, tmp_path, measured, monkeypatch, changed):
        path = tmp_path / "layers.csv"
        sweep.run(CASES[:1], OPTIONS, path)
        clock, options = "wall", OPTIONS
        if changed == "clock":
            clock = "cpu"
        elif changed == "commit":
            monkeypatch.setattr(environment, "commit", lambda: "abc1234")
        elif changed == "backend":
            options = options._replace(backend="reference")
        elif changed == "allocator":
            monkeypatch.setattr(environment, "allocator", lambda: "libjemalloc.so.2")
        else:
            monkeypatch.setattr(environment, "system_huge_pages", lambda: "never")
        sweep.run(CASES[:1], options, path, clock=clock)
        assert len(measured) == 2
        assert len(read_rows(path)) == 2

    def test_a_column_that_was_not_asked_for_before_is_filled(self, tmp_path, measured, monkeypatch):
        monkeypatch.setattr(torch, "compile", lambda layer, mode: layer)
        path = tmp_path / "layers.csv"
        sweep.run(CASES[:1], OPTIONS, path)
        (row,) = sweep.run(CASES[:1], OPTIONS._replace(compiled=("compiled",)), path)
        assert row["compiled_ms"] == "3000"
        assert len(measured) == 2
        sweep.run(CASES[:1], OPTIONS, path)
        assert len(measured) == 2, "the row with more in it serves"

    def test_a_row_of_one_regime_never_serves_another(self, tmp_path, measured):
        """Where a run was stopped between the two, the other is still measured."""
        both = [replace(CASES[0], memory=memory) for memory in (AS_IT_COMES, REUSED)]
        path = tmp_path / "layers.csv"
        asked = []

        def call(memory, function, *arguments):
            asked.append(memory)
            return function(*arguments)

        first = sweep.run(both[:1], OPTIONS, path, call=call)
        rows = sweep.run(both, OPTIONS, path, call=call)
        assert asked == [row["memory"] for row in rows] == ["as it comes", "reused"]
        assert rows[:1] == first
        assert sweep.run(both[::-1], OPTIONS, path, call=call) == rows[::-1]
        assert measured == both

    def test_threads_are_those_of_the_case_and_are_given_back(self, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr(sweep, "measure", lambda case, options: seen.append(torch.get_num_threads()) or {})
        before = torch.get_num_threads()
        sweep.run([replace(CASES[0], threads=count) for count in (3, 0, 2)], OPTIONS, tmp_path / "a.csv")
        assert seen == [3, before, 2]
        assert torch.get_num_threads() == before

    def test_a_row_says_where_it_comes_from(self, tmp_path):
        (row,) = sweep.run(CASES[:1], OPTIONS, tmp_path / "a.csv")
        assert row["torch"] == torch.__version__
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"])
        assert re.fullmatch(r"[0-9a-f]{7,}\+?|", row["commit"])
        assert re.fullmatch(r"(on|off), system: (always|madvise|never|unknown)", row["huge_pages"])
        assert row["machine"]
        assert (row["backend"], row["clock"], row["rounds"]) == ("automatic", "wall", "5")


def row(layer="batch", ratio=2.0, **more):
    base = dict.fromkeys(sweep.ALL_COLUMNS, "")
    base |= {"layer": layer, "net": "U-Net", "shape": "2x64x128x128", "dtype": "fp32", "layout": "contiguous"}
    base |= {"direction": "both", "threads": "1", "residual": "0", "status": OK, "ratio": str(ratio), "error": "1e-07"}
    base |= {"ours_ms": "2", "native_ms": str(2 * ratio), "x_of_floor": "1.5", "gb_per_s": "8", "copy_gb_per_s": "12"}
    about = {"machine": "A Processor", "torch": "2.13", "commit": "abc1234", "clock": "wall", "date": "2026-01-02"}
    about |= {"memory": "as it comes", "allocator": "glibc 2.36"}
    return base | about | {"backend": "automatic", "huge_pages": "on, system: madvise"} | more


ROWS = [
    row(),
    row(ratio=0.5, shape="2x4x8x8", x_of_floor="40"),
    row("group", 8.0, dtype="bf16", layout="channels_last"),
    row("group", 3.0, activation="relu", residual="1"),
    row("switchable", 9.0, direction="forward", paper_ms="18", native_ms=""),
    row("instance", status=WRONG, error="0.3", ratio=""),
    row("instance", status=FAILED, message="OutOfMemoryError: no", ratio=""),
]


class TestSummary:
    def test_figures_by_hand(self):
        found = figures(timed(ROWS)[:2])
        assert (found.cells, found.ratio, found.least) == (2, 1.0, 0.5)
        assert found.floor == 1.5, "a tiny tensor says nothing about the floor"

    def test_only_tiny_tensors_have_no_floor(self):
        assert figures([ROWS[1]]).floor is None
        assert figures([]) is None

    def test_slower_cells_come_slowest_first(self):
        rows = [row(ratio=value) for value in (0.9, 1.0, 0.3, 2.0)]
        assert [r["ratio"] for r in slower(rows)] == ["0.3", "0.9"]

    def test_layers_keep_together_with_what_is_fused_into_them(self):
        names = [name for name, _ in by_layer(timed([*ROWS[2:], *ROWS[:2]]))]
        assert names == ["BatchNorm", "GroupNorm", "+ residual + relu", "SwitchableNorm"]

    def test_the_advantage_over_a_compiler(self):
        assert advantage([row(compiled_ms="8"), row(compiled_ms="2"), row()], "compiled_ms") == 2
        assert advantage([row()], "compiled_ms") is None


def shown(width, rows=ROWS):
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    show(console, rows, [])
    return console.file.getvalue()


class TestTerminal:
    @pytest.mark.parametrize("width", [80, 120])
    def test_every_figure_is_whole(self, width):
        text = shown(width)
        table = text.partition("fwd, both:")[0].partition("layer ")[2]
        assert "…" not in text
        assert max(map(len, table.splitlines())) <= width
        assert "of the forward pass\nand of forward + backward" in text, "the legend is broken by hand"
        assert re.search(r"^BatchNorm +2 .* 1\.00 +0\.50 +1\.50", text, re.MULTILINE)
        assert re.search(r"^SwitchableNorm +p +1 +9\.00 ", text, re.MULTILINE)
        assert re.search(r"^  \+ residual \+ relu +1 ", text, re.MULTILINE)
        assert ("bf16 last" in text) is (width == 120)

    @pytest.mark.parametrize("width", [80, 120])
    def test_each_regime_has_a_table_of_its_own(self, width):
        text = shown(width, [*ROWS, row(ratio=1.25, memory="reused")])
        comes, reused = text.partition("\nMemory as it comes\n")[2].split("\nMemory reused\n")
        assert re.search(r"^BatchNorm +2 .* 1\.00 +0\.50 +1\.50", comes, re.MULTILINE)
        assert re.search(r"^BatchNorm +1 .* 1\.25 +1\.25 +1\.50", reused, re.MULTILINE)
        assert "GroupNorm" not in reused
        assert "huge pages on, system: madvise, glibc 2.36\n" in text

    def test_a_gpu_has_no_regimes(self):
        text = shown(80, [row(memory="")])
        assert not re.search(r"^ *[Mm]emory", text, re.MULTILINE)
        assert re.search(r"^BatchNorm +1 ", text, re.MULTILINE)

    def test_what_is_slow_or_wrong_is_named(self):
        text = shown(80)
        assert "Slower than the baseline: 1 cell\n  0.5: BatchNorm, 2x4x8x8, fp32, contiguous" in text
        assert "Wrong or failed: 2 cells\n" in text
        assert "wrong, error 0.3; not timed" in text
        assert "failed: OutOfMemoryError: no" in text

    def test_nothing_timed_still_says_why(self):
        assert "Wrong or failed: 1 cell" in shown(80, ROWS[5:6])

    def test_a_pipe_gets_one_line_per_cell(self):
        console = Console(file=io.StringIO(), width=200, markup=False, highlight=False)
        with Ticker(console) as ticker:
            ticker(ROWS[0], 1, 2)
        assert console.file.getvalue() == (
            "[1/2] BatchNorm, 2x64x128x128, fp32, contiguous, forward + backward, 1 thread, memory as it comes: "
            "2.0 x native, 1.5 x floor, error 1e-07\n"
        )

    def test_overhead_in_microseconds(self):
        console = Console(file=io.StringIO(), width=80, markup=False, highlight=False)
        show_overhead(console, [row(ours_ms="0.0205", native_ms="0.014")])
        assert re.search(r"BatchNorm +forward \+ backward +14\.0 +20\.5 +\+6\.5", console.file.getvalue())

    def test_a_step_and_the_share_of_its_normalizers(self):
        console = Console(file=io.StringIO(), width=80, markup=False, highlight=False)
        times = {"native_ms": "200", "ours_ms": "125", "none_ms": "100"}
        reused = {"native_ms": "130", "ours_ms": "104", "none_ms": "78", "memory": "reused"}
        last = {"net": "nnunet", "norm": "instance", "dtype": "bf16", "layout": "channels_last", "ratio": "0.9859"}
        first = {"net": "diffusion", "norm": "group"}
        shown = [row(**first, **times, ratio="1.6"), row(**reused | first | {"ratio": "1.25"})]
        show_steps(console, [*shown, row(**times | {"native_ms": "12345"} | last)])
        comes, reused = (
            console.file.getvalue().partition("Memory as it comes, 1 thread\n")[2].split("Memory reused, 1 thread\n")
        )
        assert re.search(r"diffusion U-Net +fp32 +200 +125 +100 +1\.6 +50% -> 20%", comes)
        assert re.search(r"diffusion U-Net +fp32 +130 +104 +78 +1\.25 +40% -> 25%", reused)
        assert re.search(r"3-D U-Net +bf16 last +12345 +125 +100 +0\.9859 +99% -> 20%", comes)

    def test_a_finished_step_names_its_regime(self):
        console = Console(file=io.StringIO(), width=100, markup=False, highlight=False)
        show_step_line(console, row(net="resnet", norm="group", ratio="1.6", memory="reused"))
        said = "ResNet-50, GroupNorm, fp32, contiguous, threads 1, memory reused: 1.6 x native\n"
        assert console.file.getvalue() == said


class TestPage:
    def test_it_holds_every_cell_and_needs_nothing_beside_itself(self, tmp_path):
        write_page(tmp_path / "a.html", ROWS, "normwise bench --layers 'batch'")
        page = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
        assert page.count("<rect ") == 5
        assert "normwise bench --layers &#x27;batch&#x27;" in page
        assert "wrong" in page
        assert re.findall(r"(?:src|href)=(.*?)>", page) == ['"data:,"'], "the empty icon"
        assert "script" not in page

    def test_text_from_outside_is_escaped(self):
        page = build_page([row(machine="<b>&"), row(status=FAILED, message="<script>")], "x")
        assert "<b>&<" not in page
        assert "<script>" not in page

    def test_nothing_timed_is_a_page_too(self):
        assert "Wrong or failed: 2" in build_page(ROWS[5:], "x")

    def test_a_picture_shows_what_may_be_compared(self):
        assert list(panels(ROWS)) == [
            "forward + backward, fp32, contiguous, threads: 1, memory as it comes",
            "forward + backward, bf16, channels_last, threads: 1, memory as it comes",
            "forward, fp32, contiguous, threads: 1, memory as it comes",
        ]
        assert len(panels([row(), row(memory="reused")])) == 2
        assert list(panels([row(memory="", threads="0")])) == ["forward + backward, fp32, contiguous"]

    def test_cells_stand_in_the_column_of_their_shape(self):
        rows = [row(shape="1x2x3x4"), row(shape="5x6x7x8"), row("group", shape="5x6x7x8", ratio=3.25)]
        picture = speed_up(rows)
        places = re.findall(r'<rect x="(\d+)" y="(\d+)"', picture)
        assert places[1][0] == places[2][0] != places[0][0]
        assert places[0][1] == places[1][1] != places[2][1]
        assert ">3.25</text>" in picture

    def test_colours_follow_the_ratio(self):
        assert shade(1) == "#eef0f2"
        assert shade(100) == shade(8) != shade(2)
        assert shade(0.01) == shade(0.25) != shade(0.5)

    def test_the_roof_is_the_median_copy_of_each_size(self):
        rows = [row(copy_gb_per_s=str(v)) for v in (10, 30, 12)] + [row(shape="1x1x256x1024", copy_gb_per_s="50")]
        assert roof(rows) == [(1.0, 50.0), (8.0, 12.0)]
        assert roofline(rows).count("<title>") == 4 + 1

    def test_a_logarithmic_axis(self):
        scale = LogScale([1, 100], 0, 220)
        assert scale(10) == pytest.approx(110)
        assert scale.ticks() == [1, 2, 5, 10, 20, 50, 100]
        assert LogScale([1, 10**5], 0, 1).ticks() == [10.0**k for k in range(6)]


def test_titles():
    assert title(row("token-layer")) == "LayerNorm, rows"


SMALL = {
    "diffusion": (1, 3, 16, 16),
    "nnunet": (1, 1, 16, 16, 16),
    "style": (1, 3, 16, 16),
    "convnext": (1, 3, 32, 32),
    "resnet": (2, 3, 16, 16),
}


class TestStep:
    @pytest.mark.parametrize("net", step_nets.NETS)
    def test_every_net_agrees_and_is_timed(self, net, monkeypatch):
        """In fp32 the losses agree, forward and after a step; without normalizers the net computes something else."""
        monkeypatch.setattr(step_nets, "DEPTH", 8)
        norm = step_nets.NETS[net].norms[0]
        row = step.measure(step.Step(net, norm, "fp32", "channels_last", SMALL[net]), OPTIONS)
        assert (row["status"], row["ratio"]) == (OK, 1.5)
        with torch.no_grad():
            y = {
                kind: step._Trainer(step.Step(net, norm, "fp32", "contiguous", SMALL[net]), kind, OPTIONS.device)
                for kind in KINDS
            }
            y = {kind: trainer.net(trainer.x) for kind, trainer in y.items()}
        torch.testing.assert_close(y["ours"], y["native"], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(y["none"], y["native"], rtol=1e-2, atol=1e-2)

    @pytest.mark.parametrize("net", ["diffusion", "nnunet", "convnext"])
    def test_what_stands_where(self, net):
        """The same convolutions in all three; one kind has torch's normalizers, one ours, one none."""
        count = {}
        for kind in KINDS:
            made = step_nets.NETS[net].make(step_nets.parts(kind, step_nets.NETS[net].norms[0], 2 + (net == "nnunet")))
            modules = list(made.modules())
            ours = [m for m in modules if type(m).__module__.startswith("normwise.layers")]
            norms = [
                m for m in modules if isinstance(m, (torch.nn.GroupNorm, torch.nn.InstanceNorm3d, torch.nn.LayerNorm))
            ]
            count[kind] = (
                sum("Conv" in type(m).__name__ and "Block" not in type(m).__name__ for m in modules),
                len(norms),
                len(ours),
            )
        convolutions, norms, _ = count["native"]
        assert norms > 5
        assert count == {
            "native": (convolutions, norms, 0),
            "ours": (convolutions, norms, norms),
            "none": (convolutions, 0, 0),
        }

    def test_finished_steps_are_not_repeated(self, tmp_path, monkeypatch):
        monkeypatch.setattr(step_nets, "DEPTH", 8)
        wanted = step.steps([1], norms=["batch"], shapes=[(2, 3, 16, 16)])
        rows = step.run(wanted, OPTIONS, tmp_path / "step.csv")
        assert [(r["net"], r["shape"], r["dtype"], r["layout"], r["status"], r["ratio"]) for r in rows] == [
            ("resnet", "2x3x16x16", "fp32", "contiguous", OK, "1.5"),
            ("resnet", "2x3x16x16", "bf16", "channels_last", OK, "1.5"),
        ]
        monkeypatch.setattr(step, "measure", None)
        assert step.run(wanted, OPTIONS, tmp_path / "step.csv") == rows
        reused = [wanted[0]._replace(memory="reused")]
        found = {"status": OK, "ratio": 1.25}
        calls = []
        more = step.run(reused, OPTIONS, tmp_path / "step.csv", call=lambda *given: calls.append(given) or found)
        assert calls == [("reused", step._measured, reused[0], OPTIONS)], "a row of one regime never serves another"
        assert more[0]["ratio"] == "1.25"

    def test_some_of_the_steps(self):
        found = step.steps([2], norms=["group"], dtypes=["bf16"], shapes=[(2, 3, 64, 64)])
        assert found == [
            step.Step(net, "group", "bf16", "channels_last", (2, 3, 64, 64), 2) for net in ("diffusion", "resnet")
        ]
        assert {s.net for s in step.steps([1], shapes=[(1, 1, 32, 32, 32)])} == {"nnunet"}
        assert {s.net for s in step.steps([1])} == set(step_nets.NETS)
        pairs = step.steps([2], norms=["pixel-layer"], dtypes=["bf16"], memory=["as it comes", "reused"])
        assert [s.memory for s in pairs] == ["as it comes", "reused"]
        with pytest.raises(
            ValueError, match="No step is left: there are steps for group, instance, pixel-layer, batch"
        ):
            step.steps([1], norms=["evo-s0"])
        with pytest.raises(ValueError, match=r"multiples of 16, received 8x64x32x32"):
            step.steps([1], shapes=[(8, 64, 32, 32)])
        with pytest.raises(ValueError, match=r"multiples of 16, received 8x3x30x32"):
            step.steps([1], shapes=[(8, 3, 30, 32)])

    def test_a_net_that_computes_something_else_is_not_timed(self, monkeypatch):
        from torch import nn

        monkeypatch.setattr(step_nets, "DEPTH", 8)
        wrong = SUBJECTS["batch"]._replace(ours=lambda channels, _rank, **_options: nn.BatchNorm2d(channels, eps=0.5))
        monkeypatch.setitem(SUBJECTS, "batch", wrong)
        row = step.measure(step.Step("resnet", "batch", "fp32", "contiguous", (2, 3, 16, 16)), OPTIONS)
        assert row["status"] == WRONG
        assert row["loss_error"] > step.TOLERANCE["fp32"]

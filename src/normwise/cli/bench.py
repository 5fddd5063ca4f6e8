"""`normwise bench`."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..bench import kept, step, sweep
from ..bench.entry import OVERHEAD_ROUNDS, Request
from ..bench.page import write_page
from ..bench.regimes import Processes
from ..bench.storage import Rows
from ..bench.subjects import SUBJECTS
from ..bench.tables import show_kept, show_overhead, show_step_line, show_steps
from ..bench.terminal import Ticker, show
from ..comparison import InputError
from ..comparison.terminal import make_console
from .numbers import integers, words
from .stopping import INTERRUPTED

NAMES = textwrap.fill(", ".join(SUBJECTS), 76, break_on_hyphens=False)
EPILOG = f"""Examples:

\b
  normwise bench --quick
  normwise bench --layers group,instance --dtypes bf16 --threads 2
  normwise bench --shapes 8x256x56x56,1x32x96x96x96 --layers batch
  normwise bench overhead
  normwise bench step --threads 4
  normwise bench memory
  normwise bench step --dtypes bf16 --shapes 2x3x224x224
  normwise bench --device cuda --compile

Every cell is checked against fp64 before it is timed, and its row is on disk when the next one begins. The same command
continues an interrupted measurement, and measures again after a change of the sources, of torch or of the machine.

On a CPU with glibc, layers and steps are measured twice, in separate processes: with the default settings of the
allocator, and with memory that is reused (normwise.reuse_memory()).

LAYERS are separated by commas:

\b
{NAMES}
"""


class What(str, Enum):
    """What to measure."""

    layers = "layers"
    overhead = "overhead"
    step = "step"
    memory = "memory"


class Clock(str, Enum):
    """The clock: wall time or processor time."""

    wall = "wall"
    cpu = "cpu"


Subject = Annotated[
    What,
    typer.Argument(
        help="layers: the grid; overhead: microseconds per call; step: a training step of five nets; "
        "memory: what is kept for the backward pass."
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="A small grid: less than a minute.")]
Layers = Annotated[str, typer.Option(metavar="LAYERS", help="Only these layers; see below.")]
Shapes = Annotated[str, typer.Option(metavar="SHAPES", help="Shapes such as 8x256x56x56, instead of the grid's.")]
Dtypes = Annotated[str, typer.Option(metavar="NAMES", help="fp32, bf16, fp16, fp64.")]
Layouts = Annotated[str, typer.Option(metavar="NAMES", help="contiguous, channels_last.")]
Threads = Annotated[str, typer.Option(metavar="NUMBERS", help="By default one, and all.")]
Backend = Annotated[str, typer.Option(metavar="NAME", help="automatic, or a backend; on CUDA by default triton.")]
Compile = Annotated[bool, typer.Option("--compile", help="Also torch.compile of the baseline (slow to start).")]
ClockOption = Annotated[Clock, typer.Option(help="cpu: the process' own time, for a busy machine.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda.")]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="For the CSV files and the page with the pictures.")]


def bench(
    what: Subject = What.layers,
    quick: Quick = False,
    layers: Layers = "",
    shapes: Shapes = "",
    dtypes: Dtypes = "",
    layouts: Layouts = "",
    threads: Threads = "",
    backend: Backend = "",
    compiled: Compile = False,
    clock: ClockOption = Clock.wall,
    device: Device = "cpu",
    out: Out = Path("results/bench"),
) -> None:
    """Time every layer against torch's own, interleaved in one run.

    Layers that torch lacks are timed against the equation of their paper in plain PyTorch. Shapes are from real nets.
    """
    request = Request(
        device,
        quick,
        words(layers),
        tuple(integers("--shapes", shape, "8x256x56x56", "x") for shape in words(shapes)),
        words(dtypes),
        words(layouts),
        integers("--threads", threads, "1,2") if threads else (),
        backend,
        compiled,
        clock.value,
    )
    run: dict[What, Callable[[Request, Path], None]] = {
        What.layers: _layers,
        What.overhead: _overhead,
        What.step: _step,
        What.memory: _memory,
    }
    try:
        run[what](request, out)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _layers(request: Request, out: Path) -> None:
    console, cases, rows = make_console(), request.cases(), []

    def finished(ticker: Ticker, row: dict[str, str], done: int, total: int) -> None:
        rows.append(row)
        ticker(row, done, total)

    path = out / "layers.csv"
    try:
        with Ticker(console) as ticker, Processes(request.memory()) as call:
            listen = partial(finished, ticker)
            sweep.run(cases, request.options(), path, clock=request.clock, call=call, listen=listen)
    finally:
        if rows:
            write_page(out / "bench.html", rows, shlex.join(["normwise", *sys.argv[1:]]))
            show(console, rows, (("Page", out / "bench.html"), ("Rows", path)))
            if len(rows) < len(cases):
                console.print(f"Unfinished: {len(rows)} of {len(cases)} cells. The same command does the rest.")


def _overhead(request: Request, out: Path) -> None:
    console, path = make_console(), out / "overhead.csv"
    with Ticker(console) as ticker:
        options = request.options(OVERHEAD_ROUNDS)
        rows = sweep.run(request.overhead_cases(), options, path, clock=request.clock, listen=ticker)
    show_overhead(console, rows)
    console.print(f"\nRows: {path}", soft_wrap=True)


def _step(request: Request, out: Path) -> None:
    console, path = make_console(), out / "step.csv"
    try:
        wanted = step.steps(
            request.thread_counts(),
            norms=request.layers,
            dtypes=request.dtypes,
            shapes=request.shapes,
            memory=request.memory(),
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    listen = partial(show_step_line, console)
    with Processes(request.memory()) as call:
        rows = step.run(wanted, request.options(), path, clock=request.clock, call=call, listen=listen)
    show_steps(console, rows)
    console.print(f"\nRows: {path}", soft_wrap=True)


def _memory(request: Request, out: Path) -> None:
    console, path = make_console(), out / "memory.csv"
    dtypes, shapes = request.dtypes or ("fp32", "bf16"), request.shapes or (kept.SHAPE,)
    found = [row for shape in shapes for row in kept.rows(shape, dtypes, request.layers)]
    with Rows(path, kept.COLUMNS) as file:
        for row in found:
            file.append(row)
    show_kept(console, found)
    console.print(f"\nRows: {path}", soft_wrap=True)

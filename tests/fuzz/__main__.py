"""Calls with anything in them until the time is over; then the C interface alone, with random sizes.

    python -m tests.fuzz --minutes 2
    python -m tests.fuzz --replay '[{"subject": "rms_norm", "shape": [3, 4]}]'

Needs g++ with its sanitizers. Every find is a line that `--replay` takes, kept in build/fuzz/finds.txt; the exit code
is 1 where there is one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from .sanitizers import FOLDER, ROOT, environment

INSIDE = "NORMWISE_FUZZ_INSIDE"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="time, without that of compiling (default: 2)")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the clock's by default")
    parser.add_argument("--only", action="append", default=[], help="a subject's name or how it begins; may come often")
    parser.add_argument("--replay", metavar="LINE", help="the calls of one line instead of a search")
    options = parser.parse_args()
    if INSIDE not in os.environ:
        command = [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]]
        return subprocess.run(command, cwd=ROOT, env=environment() | {INSIDE: "1"}, check=False).returncode
    prepare()
    return replay(options.replay) if options.replay else run(options.minutes, options.seed, options.only)


def prepare() -> None:
    """The kernels, compiled and loaded before a process forks; memory that is handed out unwritten holds NaN."""
    import torch

    from normwise.backends.cpu_library import ELEMENTS, kernels

    torch.use_deterministic_algorithms(True, warn_only=True)  # with `fill_uninitialized_memory`, which is the default
    start = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for dtype, (_, reason) in zip(ELEMENTS, pool.map(kernels, ELEMENTS), strict=True):
            if reason is not None:
                raise SystemExit(f"The kernels for {dtype} are not there: {reason}")
    print(f"kernels with sanitizers: {time.monotonic() - start:.0f} s", flush=True)


def run(minutes: float, seed: int | None, only: list[str]) -> int:
    """The search, reported as it goes, and then the C interface."""
    from .interface import holds
    from .search import search
    from .subjects import SUBJECTS

    chosen = tuple(name for name in SUBJECTS if any(name.startswith(part) for part in only))
    if only and not chosen:
        raise SystemExit(f"No subject begins with {only}; the subjects are: {', '.join(SUBJECTS)}.")
    first = int(time.time()) if seed is None else seed
    print(f"--seed {first}", flush=True)
    start, calls, finds = time.monotonic(), 0, 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "finds.txt").open("a") as kept:
        for number, tried, find in search(start + 60 * minutes, first, chosen):
            calls += tried
            if find is not None:
                finds += 1
                print(f"[{number}] {find}", flush=True)
                print(find, file=kept, flush=True)
    print(f"{calls} calls in {(time.monotonic() - start) / 60:.1f} minutes, {finds} finds", flush=True)
    return int(finds > 0) if only else int(not holds(first) or finds > 0)


def replay(line: str) -> int:
    """The calls of a line again, with everything that is to be said of them."""
    from .call import from_line
    from .finds import find_in
    from .isolated import judged_apart

    find = find_in(from_line(line), judged_apart)
    print("nothing wrong" if find is None else find, flush=True)
    return int(find is not None)


if __name__ == "__main__":
    sys.exit(main())

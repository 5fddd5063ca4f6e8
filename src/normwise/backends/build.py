"""The C++ kernels as libraries: from a platform wheel, or compiled here.

They are compiled with the machine's own compiler, once, into a cache that any number of processes share. A library
holds the kernels for one element type and takes half a minute of one core: bf16 costs nothing until it is used. This
file imports nothing but the standard library; run as a program, it compiles for other processes, see `_run`.

NORMWISE_MARCH in the environment selects another instruction set than this processor's own, as gcc's ``-march`` does:
with x86-64-v3, for example, a processor with AVX-512 gives the results of one without it.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two processes may compile the same at once
    fcntl = None  # type: ignore[assignment]

SOURCES = Path(__file__).parent / "cpu_kernels"
MAIN = SOURCES / "kernels.cpp"
# Not -ffast-math: with gcc < 13 it makes the whole process flush denormals, and NaN must stay NaN.
_COMMON = (
    *("-std=c++17", "-O2", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"),
)
#: The instruction set to compile for.
MARCH = os.environ.get("NORMWISE_MARCH") or "native"
FLAGS = (*_COMMON, f"-march={MARCH}")
#: For a compiler without OpenMP, such as Apple's: the same vector code on one thread.
SERIAL = tuple("-fopenmp-simd" if flag == "-fopenmp" else flag for flag in FLAGS)
#: The element types by their names in the sources.
ELEMENTS = ("fp32", "fp64", "bf16", "fp16")
#: The folder of a platform wheel's libraries.
PREBUILT = Path(__file__).parent / "prebuilt"
#: Their instruction sets, best first, and the flags that the processor must list for each; no other architecture does.
LEVELS = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "fma", "f16c", "bmi2"},
    "x86-64-v3": {"avx2", "fma", "f16c", "bmi2"},
    "x86-64": {"sse2"},
    "armv8-a": {"asimd"},
}
#: The levels that are built for a machine, by the compilers' name for it.
MACHINES = {"x86_64": ("x86-64-v4", "x86-64-v3", "x86-64"), "aarch64": ("armv8-a",)}
_DIGEST_SIZE = hashlib.sha256().digest_size

_log = logging.getLogger("normwise")


class BuildError(Exception):
    """There are no kernels on this machine; the text says why and what to do."""


def load(element: str, check: Callable[[ctypes.CDLL], None]) -> ctypes.CDLL:
    """The kernels for one element type: from the wheel, the cache, or compiled now; ``check`` raises for wrong ones.

    A damaged or failing library in the cache is compiled again, once.

    Raises `BuildError` with the reason in words.
    """
    _check_march()
    for path in prebuilt(element):
        try:
            library = ctypes.CDLL(str(path))
            check(library)
            return library
        except (OSError, ArithmeticError):
            continue  # it does not run on this machine: compiled here
    compiler = find_compiler()
    key = fingerprint(compiler)
    for folder in cache_folders():
        path = _path(folder, element, key)
        for _ in range(2):
            try:
                _provide(compiler, element, key, path)
                library = ctypes.CDLL(str(path))
                check(library)
                return library
            except OSError:
                path.unlink(missing_ok=True) if _writable(folder) else None
                problem = f"the cache folder {folder} cannot be used"
            except ArithmeticError as error:
                path.unlink(missing_ok=True)
                problem = str(error)
    raise BuildError(f"the kernels were compiled but do not work: {problem}")


def must_be_compiled(element: str) -> bool:
    """Whether `load` would compile into a permanent cache: then another process can do it for this one."""
    if prebuilt(element):
        return False
    try:
        _check_march()
        _, _, path = _cached(element)
    except BuildError:
        return False  # `load` reports the reason at once
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    return not intact(path) and _writable(path.parent)


def compile_into_cache(element: str) -> None:
    """Compile the library that `load` will find. Raises `BuildError` and OSError."""
    compiler, key, path = _cached(element)
    _provide(compiler, element, key, path)


def prebuilt(element: str) -> list[Path]:
    """The libraries of a platform wheel for an element type that this processor can run, best first."""
    return [path for level in LEVELS if can_run(level) and intact(path := PREBUILT / f"kernels-{element}-{level}.so")]


def can_run(level: str) -> bool:
    """Whether this processor has the instructions of a level, and NORMWISE_MARCH does not name another."""
    return MARCH in ("native", level) and not _lacking(level)


def _lacking(level: str) -> set[str]:
    """The flags that a level needs and this processor does not list."""
    return LEVELS[level] - set(processor().split())


def _check_march() -> None:
    """Raise `BuildError` for a NORMWISE_MARCH whose instructions would crash the process."""
    if MARCH in LEVELS and (lacking := _lacking(MARCH)):
        words = ", ".join(sorted(lacking))
        raise BuildError(f"NORMWISE_MARCH={MARCH} needs a processor with {words}; unset it, or name an older level.")


def prebuild(folder: Path) -> list[Path]:
    """Compile a library for every level and element type into ``folder``, for a platform wheel.

    They are for the compiler's target machine, which a cross compiler in $CXX decides. They use the C++ runtime and the
    OpenMP that torch has loaded, and need version 2.29 (2019) of the C library.

    Raises `BuildError` for a machine without levels.
    """
    compiler = find_compiler()
    key, machine = fingerprint(compiler), target(compiler)
    if machine not in MACHINES:
        raise BuildError(
            f"libraries are prebuilt for {' and '.join(MACHINES)}, {shlex.join(compiler)} is for {machine!r}."
        )
    built = []
    for level in MACHINES[machine]:
        for element in ELEMENTS:
            built.append(folder / f"kernels-{element}-{level}.so")
            _build(compiler, element, key, built[-1], [(*_COMMON, f"-march={level}", "-s")])
    return built


def target(compiler: list[str]) -> str:
    """The machine for which a compiler compiles, such as x86_64 or aarch64."""
    said = subprocess.run([*compiler, "-dumpmachine"], capture_output=True, text=True, check=False).stdout
    return said.strip().partition("-")[0]


def find_compiler() -> list[str]:
    """The C++ compiler as a command: $CXX, or the first of g++, c++ and clang++ on the PATH."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in (named,) if named else (["g++"], ["c++"], ["clang++"]):
        if shutil.which(command[0]):
            return command
    looked = f"$CXX = {shlex.join(named)}" if named else "g++, c++ and clang++"
    raise BuildError(f"no C++ compiler was found (looked for {looked}); install g++, for example the package g++.")


def fingerprint(compiler: list[str]) -> str:
    """A digest of everything a compiled library depends on: sources, flags, compiler and processor."""
    about = compiler, FLAGS, _version(compiler), processor(), digest_of_sources()
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


def digest_of_sources() -> str:
    """A digest of the sources alone. Raises `BuildError` if they are not in a folder."""
    if not SOURCES.is_dir():  # in a zip file, or within torch.package
        raise BuildError(f"the kernels' sources are not in a folder ({SOURCES}); import normwise from an installation.")
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        if source.suffix in {".cpp", ".hpp"}:
            digest.update(source.read_bytes())
    return digest.hexdigest()


def cache_folders() -> Iterator[Path]:
    """The folders to search and to build in: the user's cache, then a temporary folder if the cache is read-only."""
    own = os.environ.get("NORMWISE_CACHE")
    if own:
        yield Path(own)
    else:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        yield Path(home) / "normwise"
    with tempfile.TemporaryDirectory(prefix="normwise-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)  # a loaded library stays loaded when its file is removed


def intact(path: Path) -> bool:
    """Whether the library ends with its own checksum: loading a truncated file would kill the process."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content[:-_DIGEST_SIZE]).digest() == content[-_DIGEST_SIZE:]


def _cached(element: str) -> tuple[list[str], str, Path]:
    """The compiler, its fingerprint, and the path of the library in the cache."""
    compiler = find_compiler()
    key = fingerprint(compiler)
    return compiler, key, _path(next(cache_folders()), element, key)


def _path(folder: Path, element: str, key: str) -> Path:
    return folder / f"kernels-{element}-{key}.so"


def _provide(compiler: list[str], element: str, key: str, path: Path) -> None:
    """Compile the library unless it is there; wait for another process that is compiling it."""
    if not intact(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.with_suffix(".lock")):
            if not intact(path):
                _log.warning("Compiling the CPU kernels for %s, once on this machine: about half a minute.", element)
                _build(compiler, element, key, path)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One process at a time. On a file system without locks, two may do the same work."""
    with lock.open("w") as file:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _build(
    compiler: list[str], element: str, key: str, path: Path, choices: Sequence[tuple[str, ...]] = (FLAGS, SERIAL)
) -> None:
    """Compile beside the target and rename: another process sees a whole library or none.

    The first of the ``choices`` of flags with which the compiler succeeds is used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as folder:
        built = Path(folder) / path.name
        defined = [f"-DNW_VERSION={version_number(key)}", f"-DNW_ELEMENT={element}"]
        result = _first_done([[*compiler, *flags, *defined, str(MAIN), "-o", str(built)] for flags in choices])
        if result.returncode:
            if shutil.disk_usage(folder).free < 2**24:
                raise OSError("the disk is full")
            lines = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()
            raise BuildError(f"{shlex.join(compiler)} could not compile the kernels: {' '.join(lines[:2])}")
        content = built.read_bytes()
        with built.open("ab") as file:
            file.write(hashlib.sha256(content).digest())
        os.replace(built, path)


def _first_done(commands: Sequence[list[str]]) -> subprocess.CompletedProcess[str]:
    """The result of the first command that succeeds; if none does, that of the first, whose error matters most."""
    failed = []
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return result
        failed.append(result)
    return failed[0]


def version_number(key: str) -> int:
    """The number that the library with this fingerprint returns from `nw_version`."""
    return int(key[:7], 16)


def _version(compiler: list[str]) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout


def processor() -> str:
    """The processor's name and all its instruction set flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK)


def _run(element: str, made: str = "", *command: str) -> None:
    """Compile the library for ``element``, if one is named, then run a command that makes a file, if it is missing.

    Only one process does either at a time; another waits and then finds the result.
    """
    if element:
        compile_into_cache(element)
    if made:
        path = Path(made)
        with alone(path.with_suffix(".lock")):
            if not path.exists():
                subprocess.run(command, check=False, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    try:
        _run(*sys.argv[1:])
    except (BuildError, OSError) as reason:
        sys.exit(str(reason))

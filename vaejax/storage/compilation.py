"""Compiled programs, kept beside the runs: the next start need not compile them again."""

import hashlib
import os
import pathlib
import platform
import tempfile

import jax
from rich.console import Console

FOLDER = ".compilation-cache"
_PLACE, _SHORTEST = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
_SECONDS = 0.1
_CPU = pathlib.Path("/proc/cpuinfo")


def keep_programs(workdir: pathlib.Path, console: Console) -> None:
    """Keeps what JAX compiles in the parent of `workdir`, and says so when the folder is made.

    JAX_COMPILATION_CACHE_DIR names another place; empty, it switches this off. Where the folder
    cannot be written nothing is kept, and all else works. To be called before JAX compiles.
    """
    if _PLACE in os.environ:
        return
    place = workdir.parent / FOLDER
    folder, is_new = place / _machine(), not place.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    if _SHORTEST not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS)
    if is_new:
        console.print(
            f"compiled programs are kept in {place}, so that the next start is faster; remove it "
            f"whenever you like, or set {_PLACE}",
            soft_wrap=True,
            markup=False,
        )


def keep_programs_of_run(workdir: pathlib.Path, console: Console) -> None:
    """As `keep_programs`, where the run is there: a wrong path leaves no folder."""
    if workdir.is_dir():
        keep_programs(workdir, console)


def _machine() -> str:
    """A name for the kind of CPU: code for one may be illegal on another, and JAX does not ask."""
    try:
        lines = _CPU.read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    flags = next((x for x in lines if x.startswith(("flags", "Features"))), "".join(lines[:1]))
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"

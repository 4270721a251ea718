"""Runs a script as a child process that starts from an already imported vaejax."""

import multiprocessing
import os
import pathlib
import resource
import runpy
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["vaejax.training.train", "vaejax.runs.evaluate", "vaejax.experiment.cli"]
)


class Finished(NamedTuple):
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


def _child(
    script: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    limits: dict[int, int],
) -> None:
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    os.environ.clear()
    os.environ.update(environment)
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(ROOT)
    sys.argv = [script, *arguments]
    runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")


def start_script(script: str, *arguments: str, folder: str, limits=None, **environment):
    """The process of `python scripts/SCRIPT ARGUMENTS`; it prints into `folder`/out and err.

    `limits` are those of `resource.setrlimit`.
    """
    environment = {**os.environ, **environment}
    child = _CONTEXT.Process(
        target=_child,
        args=(script, [str(a) for a in arguments], str(folder), environment, limits or {}),
    )
    child.start()
    return child


def run_script(
    script: str, *arguments: str, timeout: float = 120.0, limits=None, **environment
) -> Finished:
    """`python scripts/SCRIPT ARGUMENTS`, without the seconds that imports take."""
    with tempfile.TemporaryDirectory() as folder:
        child = start_script(script, *arguments, folder=folder, limits=limits, **environment)
        child.join(timeout)
        if child.is_alive():
            child.kill()
            raise TimeoutError(f"{script} {arguments}")
        read = lambda name: pathlib.Path(folder, name).read_text()
        return Finished(child.exitcode, read("out"), read("err"))

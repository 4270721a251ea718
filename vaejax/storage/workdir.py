"""The files of one run: where they lie, and writes that a kill or a full disk cannot halve."""

import contextlib
import errno
import fcntl
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from vaejax import config as config_lib
from vaejax.errors import UserError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
PER_EXAMPLE = "evaluation.npz"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
    """Calls `write` on a temporary file beside `path`, then renames it into place.

    Raises:
      UserError: the disk is full or the folder not writable; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    """The sentence for a failed write: what stopped it and what to do."""
    advice = "free some space" if error.errno in _NO_ROOM else "choose a folder you can write to"
    return UserError(f"cannot write {path}: {error.strerror or error}; {advice}, then run again")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda handle: handle.write(text.encode()))


def write_npz(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes named arrays, compressed, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, lambda handle: handle.write(buffer.getbuffer()))


def read_json(path: pathlib.Path) -> Any:
    """The JSON at `path`. Raises UserError where it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def read_config(workdir: pathlib.Path) -> config_lib.Config:
    """The config of the run in `workdir`.

    Raises:
      UserError: there is no run, or its config is broken or no longer legal.
    """
    path = workdir / CONFIG
    if not path.is_file():
        raise UserError(f"--workdir: {workdir} holds no run (no {CONFIG}); train one there first")
    return config_lib.from_dict(read_json(path))


def claim(workdir: pathlib.Path, config: config_lib.Config) -> bool:
    """Makes `workdir` the home of `config`; returns whether it already was.

    Raises:
      UserError: another config lives there (the differing keys are named), the folder
        holds something else, or it cannot be written.
    """
    path = workdir / CONFIG
    if path.is_file():
        found = config_lib.differences(config, read_config(workdir))
        if found:
            raise UserError(
                f"--workdir: {workdir} holds a run with another config (given != there): "
                f"{'; '.join(found)}; choose another workdir or the same values"
            )
        return True
    write_json(path, config_lib.to_dict(config))
    return False


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Holds `workdir` for one trainer; freed by the system when the process ends, even killed.

    Raises:
      UserError: another trainer holds it, or the folder cannot be written.
    """
    path = workdir / ".lock"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise cannot_write(workdir, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"--workdir: another trainer is running in {workdir}; wait or use another workdir"
            ) from error
        yield

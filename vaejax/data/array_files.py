"""Images in a .npz or .npy file: read once per process, pickles never loaded."""

import functools
import os
import pathlib
import types
from collections.abc import Mapping

import numpy as np

from vaejax.errors import UserError, nearest

SUFFIXES = (".npz", ".npy")
NAMES = ("train", "validation", "test")
LABELS = "_labels"
"""After the name of a split: the array of its classes, [N]; optional."""


def is_file_name(name: str) -> bool:
    """Whether a data set's name is that of a file of arrays."""
    return name.lower().endswith(SUFFIXES)


def locate(name: str, data_dir: str | None) -> pathlib.Path:
    """The file, `~` expanded; a relative name lies in `data_dir` where that is given.

    Raises:
      UserError: there is no such file.
    """
    # os.path leaves a `~` that stands for no home as it is: there is no such file.
    path = pathlib.Path(os.path.expanduser(data_dir or ""), os.path.expanduser(name))
    try:
        if path.is_file():
            return path
        beside = [item.name for item in path.parent.iterdir() if is_file_name(item.name)]
    except (OSError, ValueError):
        beside = []
    raise UserError(f"dataset.name: no file {str(path)!r}{nearest(path.name, beside)}")


def read(path: pathlib.Path, where: str) -> Mapping[str, np.ndarray]:
    """The arrays `train`, `validation` and `test` of a .npz that are there; a .npy is `train`.

    Raises:
      UserError: it cannot be read, or holds none of them, or objects.
    """
    try:
        status = path.stat()
        return _read(path.resolve(), where, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror or error}") from error


def labels(path: pathlib.Path, split: str, where: str) -> list[str] | None:
    """The array `SPLIT_labels` [N] as texts; None where there is none. Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = stored[f"{split}{LABELS}"] if f"{split}{LABELS}" in stored.files else None
    except (OSError, ValueError, AttributeError, TypeError) as error:  # a .npy is no archive
        if path.suffix.lower() == ".npy":
            return None
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: {split}{LABELS} cannot be read: {text[:150]}") from error
    if found is not None and (found.ndim != 1 or found.dtype.kind not in "biuU"):
        raise UserError(
            f"{where}: {split}{LABELS} needs one whole number or text for each image, got "
            f"{found.dtype} of shape {found.shape}"
        )
    return None if found is None else [str(value) for value in found]


@functools.lru_cache(maxsize=4)
def _read(path: pathlib.Path, where: str, mtime: int, size: int) -> Mapping[str, np.ndarray]:
    """Cached by time and size of the file, so that a changed one is read again."""
    if size == 0:
        raise UserError(f"{where}: is empty")
    try:
        found = _load(path)
    except OSError:
        raise
    except Exception as error:  # a flipped byte raises whatever stumbles over it
        text = " ".join(str(error).split()) or type(error).__name__
        if "allow_pickle" in text or "Object arrays" in text:
            text = "holds Python objects, which are never loaded; save plain arrays of numbers"
        raise UserError(f"{where}: cannot be read: {text[:150]}") from error
    if not found:
        raise UserError(f"{where}: needs arrays 'train' and 'test', holds none of them")
    return types.MappingProxyType(found)


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    with path.open("rb") as handle:
        magic = handle.read(6)
    if not magic.startswith((b"PK", b"\x93NUMPY")):
        raise ValueError("is neither a .npz nor a .npy file")
    stored = np.load(path, allow_pickle=False)
    if isinstance(stored, np.ndarray):
        return {"train": stored}
    with stored:
        return {name: stored[name] for name in NAMES if name in stored.files}

"""Writing files that a kill or a full disk cannot halve, one at a time or several together.

Of several hosts the first one writes; on the others nothing here does anything.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from vaejax import hosts
from vaejax.errors import UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Writer = Callable[[BinaryIO], Any]
"""Writes the content of one file to an open handle."""


def cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    """The sentence for a failed write: what stopped it and what to do."""
    advice = "free some space" if error.errno in _NO_ROOM else "choose a folder you can write to"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        advice = "raise the limit on open files (ulimit -n)"
    return UserError(f"cannot write {path}: {error.strerror or error}; {advice}, then run again")


def require_folder(folder: pathlib.Path, *, holding: str | None = None) -> None:
    """Raises UserError where `folder`, in which something is at work, is gone.

    `holding` names a file that it held before: without it, it is being removed.
    """
    if not folder.is_dir() or (holding and not (folder / holding).exists()):
        raise UserError(
            f"{folder} is gone: it was removed or renamed while it was written to; "
            f"nothing more is written there"
        )


def make_folders(folder: pathlib.Path, *, root: pathlib.Path | None) -> None:
    """Makes `folder`; with a `root`, only what lies below it, and it must exist.

    Raises:
      UserError: `root` is gone.
      OSError: `folder` cannot be made.
    """
    if root is None:
        folder.mkdir(parents=True, exist_ok=True)
        return
    require_folder(root)
    # One by one: mkdir(parents=True) would make a root anew that is removed meanwhile.
    below = folder.relative_to(root).parts
    for count in range(len(below)):
        root.joinpath(*below[: count + 1]).mkdir(exist_ok=True)


def require_writable(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Makes the folders of the files `names` below `folder` and tries them, before computing.

    Raises:
      UserError: one of the files could not be written.
    """
    if not hosts.is_first():
        return
    for path in (folder / name for name in names):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise cannot_write(path.parent, error) from error
        if path.is_dir():
            raise UserError(
                f"cannot write {path}: it is a folder; choose another place or move it away"
            )


def _write_temporary(path: pathlib.Path, write: Writer) -> pathlib.Path:
    """Writes beside `path`, down to the disk; nothing is left where that fails."""
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
    except BaseException:
        _remove([temporary])
        raise
    return temporary


def _remove(paths: list[pathlib.Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def write_atomically(
    path: pathlib.Path, write: Writer, *, root: pathlib.Path | None = None
) -> None:
    """Calls `write` on a temporary file beside `path`, then renames it into place.

    Args:
      path: the file; folders above it are made.
      write: writes its content.
      root: a folder above `path` that must exist, and is never made anew: the folder of a
        run that is at work in it.

    Raises:
      UserError: `root` is gone, the disk is full or the folder not writable; `path` is as
        it was.
    """
    if not hosts.is_first():
        return
    try:
        make_folders(path.parent, root=root)
        temporary = _write_temporary(path, write)
        try:
            temporary.replace(path)
        except OSError:
            _remove([temporary])
            raise
    except OSError as error:
        if root is not None:
            require_folder(root)
        raise cannot_write(path, error) from error


def publish(folder: pathlib.Path, writers: Mapping[str, Writer]) -> None:
    """Writes several files below `folder`, which exists, and renames all of them at the end.

    No name changes before the last file is written to the disk. A kill between two renames
    leaves files that do not belong together: tie them, as `write_tied` does.

    Raises:
      UserError: `folder` is gone, the disk is full or the folder not writable; all files
        are as they were, unless a rename failed.
    """
    if not hosts.is_first():
        return
    temporaries: dict[pathlib.Path, pathlib.Path] = {}
    path = folder
    try:
        require_folder(folder)
        for name, write in writers.items():
            path = folder / name
            make_folders(path.parent, root=folder)
            temporaries[path] = _write_temporary(path, write)
        for path, temporary in temporaries.items():
            temporary.replace(path)
    except OSError as error:
        require_folder(folder)
        raise cannot_write(path, error) from error
    finally:
        _remove(list(temporaries.values()))  # those renamed are no longer there


def write_tied(
    json_path: pathlib.Path, result: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Publishes `result` as JSON and `arrays` as the .npz beside it, tied by a hash.

    The JSON carries `arrays_sha256`, the hash of the bytes of the .npz: `arrays.read_tied`
    refuses halves that do not belong together.
    """
    content = npz_bytes(arrays)
    text = json_text({**result, "arrays_sha256": sha256(content)})
    publish(
        json_path.parent,
        {
            json_path.with_suffix(".npz").name: lambda handle: handle.write(content),
            json_path.name: lambda handle: handle.write(text.encode()),
        },
    )


def plain(value: Any) -> Any:
    """`value` as JSON holds it: numpy numbers and arrays become Python's, tuples lists, and
    numbers that are not finite null, because JSON has no word for them.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any) -> str:
    """`value` as indented JSON; see `plain`."""
    return json.dumps(plain(value), indent=2, allow_nan=False) + "\n"


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named arrays as the bytes of a compressed .npz; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # not its allow_pickle
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    """Hash of bytes, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def write_json(path: pathlib.Path, value: Any, *, root: pathlib.Path | None = None) -> None:
    """Writes `value` as indented JSON, atomically; numbers that are not finite become null."""
    text = json_text(value)
    write_atomically(path, lambda handle: handle.write(text.encode()), root=root)


def write_npz(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], *, root: pathlib.Path | None = None
) -> None:
    """Writes named arrays, compressed, atomically."""
    content = npz_bytes(arrays)
    write_atomically(path, lambda handle: handle.write(content), root=root)

"""One checkpoint on the disk: written and read by Orbax, every failure told apart."""

import errno
import hashlib
import os
import pathlib
import shutil
import tempfile
import warnings
from typing import Any

import jax
import numpy as np

from vaejax.errors import UserError
from vaejax.storage import files, json_files

TrainState = Any
_HASHES = "sha256.json"
_MARK = "commit_success.txt"  # Orbax looks whether it is there
_SCHEMA = {"state": str, "files": {"*": str}}
_OVERHEAD_BYTES = 2**19  # metadata and indices of one checkpoint
_DENIED = ("PERMISSION_DENIED", "Permission denied", "Input/output error", "Stale file handle")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class Damaged(Exception):
    """A checkpoint that will never be readable: a file is missing, cut or changed."""


def _checkpointer():
    """Of this process alone: with several, the one that saves waits for no other."""
    import orbax.checkpoint as ocp

    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def require_room(folder: pathlib.Path, state: TrainState) -> None:
    """Raises OSError where a disk, a quota or a limit of this process has no room for `state`.

    Orbax's writers print a traceback for each write that fails: better not to start them.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    needed, free = size + _OVERHEAD_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"No space left on device: {needed:,} bytes needed, {free:,} free")
    if not hasattr(os, "posix_fallocate"):  # macOS: there the writers find out
        return
    with tempfile.TemporaryFile(dir=folder) as probe:
        try:
            os.posix_fallocate(probe.fileno(), 0, max(1, size))
        except OSError as error:
            if error.errno in _NO_ROOM:  # others say that the call is not known there
                raise


def write(path: pathlib.Path, state: TrainState) -> None:
    """Writes a state of numpy arrays to `path`, which appears when it is whole.

    Raises:
      Exception: of any kind, where it cannot be written.
    """
    import orbax.checkpoint as ocp

    _checkpointer().save(path.absolute(), args=ocp.args.StandardSave(state))
    if (path / _MARK).exists():
        # It holds the path of the folder: nothing for those to whom the run is given.
        (path / _MARK).write_text("whole\n")
    hashes = {
        str(file.relative_to(path)): files.sha256(file.read_bytes())
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
    content = {"state": state_sha256(state), "files": hashes}
    files.write_json(path / _HASHES, content, root=path)


def read(path: pathlib.Path, like: TrainState) -> TrainState:
    """The state at `path`, as numpy arrays.

    Raises:
      Damaged: a file is missing, cut or changed.
      UserError: it is of another model, or cannot be read for now (permission, I/O).
    """
    import orbax.checkpoint as ocp

    expected = _check_files(path)
    wanted = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
    try:
        with warnings.catch_warnings(action="ignore"):
            checkpointer = _checkpointer()
            metadata = checkpointer.metadata(path.absolute())
            _check_leaves(path, getattr(metadata.item_metadata, "tree", None), like)
            state = checkpointer.restore(path.absolute(), args=ocp.args.StandardRestore(wanted))
    except (UserError, Damaged):
        raise
    except Exception as error:  # a damaged file raises whatever its reader raises
        if _is_passing(error):
            raise _cannot_read(path, line(error)) from error
        raise Damaged(line(error)) from error
    state = jax.tree.map(np.asarray, state)
    if expected not in (None, state_sha256(state)):
        raise Damaged("its content is not what was written")
    return state


def _check_files(path: pathlib.Path) -> str | None:
    """Compares every file with its hash; returns that of the state, None where unknown.

    Before Orbax opens any: it wraps the reasons of the system beyond recognition, and its
    threads print tracebacks for files that are cut.
    """
    try:
        found = {
            os.path.relpath(os.path.join(folder, name), path): pathlib.Path(folder, name)
            for folder, _, names in os.walk(path, onerror=_raise)
            for name in names
        }
        contents = {name: files.sha256(file.read_bytes()) for name, file in found.items()}
        if "_METADATA" not in contents:
            raise Damaged("no metadata")
        if _HASHES not in contents:  # killed between the rename and the hashes
            return None
        hashes = json_files.check(json_files.parse(found[_HASHES].read_bytes()), _SCHEMA)
    except OSError as error:
        if error.errno in _MISSING:
            raise Damaged(error.strerror) from error
        raise _cannot_read(path, f"{error.filename or path}: {error.strerror}") from error
    except ValueError as error:
        raise Damaged(f"{_HASHES}: {error}") from error
    for name, expected in hashes["files"].items():
        if contents.get(name) != expected:
            raise Damaged(f"{name} is {'changed' if name in contents else 'missing'}")
    return hashes["state"]


def _cannot_read(path: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"checkpoint {path} cannot be read: {reason}; nothing was changed: mend that, then run "
        f"again"
    )


def _raise(error: OSError) -> None:
    raise error


def _is_passing(error: BaseException | None) -> bool:
    """Whether the system, not the content, is behind `error`: it may be gone next time."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, OSError) and error.errno and error.errno not in _MISSING:
            return True
        if any(text in str(error) for text in _DENIED):
            return True
        error = error.__cause__ or error.__context__
    return False


def _leaves(tree: Any) -> dict[str, str]:
    """Shape and type of every leaf, in words, by path."""
    return {
        "/".join(
            str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path
        ): f"{np.dtype(leaf.dtype).name} {tuple(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _check_leaves(path: pathlib.Path, found: Any, like: TrainState) -> None:
    if found is None:
        raise Damaged("no metadata")
    ours, theirs = _leaves(like), _leaves(found)
    for name in sorted({*ours, *theirs}):
        here, there = ours.get(name, "absent"), theirs.get(name, "absent")
        if here != there:
            if "absent" not in (here, there) and here.split()[0] == there.split()[0]:
                here, there = here.split(maxsplit=1)[1], there.split(maxsplit=1)[1]
            raise UserError(
                f"{path} is a checkpoint of another model: {name} is {there} there and {here} in "
                f"the config"
            )


def state_sha256(state: TrainState) -> str:
    """Hash of a state: names, shapes, types and bytes of all its arrays."""
    digest = hashlib.sha256()
    for name, text in _leaves(state).items():
        digest.update(f"{name} {text}\n".encode())
    for leaf in jax.tree.leaves(state):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def line(error: BaseException) -> str:
    """The reason in a few words."""
    text = " ".join(str(error).split()) or type(error).__name__
    for reason in ("No space left on device", "File too large", "Permission denied"):
        if reason in text:
            return reason
    return text[:120]

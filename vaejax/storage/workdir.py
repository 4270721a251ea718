"""The folder of one run: where it may lie, who holds it, whose config lives there."""

import contextlib
import errno
import os
import pathlib
import shlex
import unicodedata
import warnings
from collections.abc import Iterator
from typing import Any

import filelock

from vaejax import config as config_lib
from vaejax import hosts
from vaejax.errors import UserError
from vaejax.storage import first_edition, json_files
from vaejax.storage.files import cannot_write as cannot_write  # callers know these by this name
from vaejax.storage.files import publish as publish
from vaejax.storage.files import write_atomically as write_atomically
from vaejax.storage.files import write_json as write_json
from vaejax.storage.files import write_npz as write_npz
from vaejax.storage.json_files import read_json as read_json

CONFIG = "config.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
PER_EXAMPLE = "evaluation.npz"
_GLOB = "[]*?"
_NAME_BYTES = 255  # of one file name, on every common file system
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


def check_path(
    text: str | os.PathLike, *, flag: str = "--workdir", checkpoints: bool = True
) -> pathlib.Path:
    """The folder that `text` names, `~` expanded; it need not exist, and is not made.

    Without `checkpoints`, which Orbax reads, its name may hold what is a pattern to Orbax.

    Raises:
      UserError: empty text, a home that cannot be found, control characters, names above
        255 bytes, characters that Orbax reads as a pattern, or a path that leads to or
        through something that is no folder; one line that begins with `flag`.
    """
    text = os.fspath(text)
    if not text.strip():
        raise UserError(f"{flag}: needs a folder, got {text!r} (a shell variable that is not set?)")
    strange = sorted({c for c in text if unicodedata.category(c) in ("Cc", "Cs")})
    if strange:
        raise UserError(f"{flag}: control characters cannot be in a path, got {text!r}")
    path = _expand(text, flag)
    for part in path.parts:
        if len(os.fsencode(part)) > _NAME_BYTES:
            raise UserError(
                f"{flag}: a name in a path has at most {_NAME_BYTES} bytes, got "
                f"{len(os.fsencode(part))} in {part[:20]}..."
            )
    try:
        absolute = path.absolute()
        _check_folders(absolute, flag)
    except OSError as error:
        raise UserError(f"{flag}: {path} cannot be used: {error.strerror or error}") from error
    found = [character for character in _GLOB if character in str(absolute)]
    if checkpoints and found:
        raise UserError(
            f"{flag}: {absolute} contains {' '.join(found)}, which checkpoints cannot be read "
            f"back from; choose a path without any of {' '.join(_GLOB)}"
        )
    return path


def _expand(text: str, flag: str) -> pathlib.Path:
    if not text.startswith("~"):
        return pathlib.Path(text)
    home = os.environ.get("HOME")
    if text.split("/")[0] == "~" and home is not None and not os.path.isabs(home):
        raise UserError(f"{flag}: {text!r}: HOME is {home!r}, no full path; write the path in full")
    try:
        return pathlib.Path(text).expanduser()
    except (RuntimeError, KeyError) as error:
        user = text.split("/")[0]
        raise UserError(
            f"{flag}: {user!r} stands for no home that can be found; write the path in full"
        ) from error


def _check_folders(path: pathlib.Path, flag: str) -> None:
    """Refuses a path whose nearest existing part is no folder."""
    for part in (path, *path.parents):
        if part.is_dir():
            return
        if os.path.lexists(part):
            kind = "a link to nothing" if part.is_symlink() else "a file"
            raise UserError(f"{flag}: {part} is {kind}, a folder is needed")


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file `name` of `folder`, links followed.

    Raises:
      UserError: it lies outside of `folder`.
    """
    try:
        path, root = (folder / name).resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder}: {name!r} is no file name") from error
    if not path.is_relative_to(root):
        raise UserError(f"{folder}: {name!r} lies outside of the folder; only its own files count")
    return path


def read_config(workdir: pathlib.Path) -> config_lib.Config:
    """The config of the run in `workdir`; of several hosts the first one reads it for all.

    Raises:
      UserError: there is no run, or its config is broken or no longer legal.
    """
    return hosts.from_first(lambda: _read_config(workdir))


def no_run(workdir: pathlib.Path) -> UserError:
    """The error that `workdir` holds no run; it names one that lies in it, if any does."""
    inside = min((path.parent for path in workdir.glob(f"*/{CONFIG}")), default=None)
    advice = "train one there first" if inside is None else f"its folders do, such as {inside}"
    return UserError(f"{workdir} holds no run (no {CONFIG}); {advice}")


def _read_config(workdir: pathlib.Path) -> config_lib.Config:
    path = workdir / CONFIG
    if not os.path.lexists(path):
        raise no_run(workdir)
    values = json_files.read_json(path, json_files.CONFIG)
    check_version(path, values)
    try:
        return config_lib.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def check_version(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Refuses the config of a run that the first edition of this package trained.

    Raises:
      UserError: saying so, with the command that trains it again.
    """
    if first_edition.wrote(values):
        raise UserError(
            f"{path}: is of vaejax 0.1, whose parameters this version cannot read; train it again "
            f"with python scripts/train.py --config={shlex.quote(str(path))} --workdir=NEW_FOLDER, "
            f"or use the version that trained it"
        )


def claim(workdir: pathlib.Path, config: config_lib.Config) -> bool:
    """Makes `workdir`, which exists, the home of `config`; returns whether it already was.

    What is no part of a run's identity (places, budgets, more epochs) may differ from the
    config that lives there, and is written anew.

    Raises:
      UserError: another config lives there (the differing keys are named), its config
        cannot be read, or the folder cannot be written.
    """
    path = workdir / CONFIG
    if os.path.lexists(path):
        there = _read_config(workdir)
        found = config_lib.differences(config, there)
        if found:
            raise UserError(
                f"{workdir} holds a run with another config (given != there): "
                f"{'; '.join(found)}; choose another workdir or the same values"
            )
        if config != there:
            write_json(path, config_lib.to_dict(config), root=workdir)
        return True
    write_json(path, config_lib.to_dict(config), root=workdir)
    return False


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[str | None]:
    """Holds `workdir`, made where it is missing, for one trainer.

    The system frees the lock when the process ends, even killed. A folder that has no file
    locks (some network file systems) is used without: then what is yielded is a warning to
    show, because two trainers would not see each other; else None.

    Raises:
      UserError: another trainer holds it, or the folder cannot be written.
    """
    held = filelock.FileLock(workdir / ".lock", timeout=0, thread_local=False)
    warning, told = None, []
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(record=True, action="always") as told:
            held.acquire()
        warning = _no_locks(workdir) if told else None  # filelock fell back to a marker file
    except filelock.Timeout as error:
        # Without file locks a file stands for the trainer, and may outlive it.
        stale = f"; if none is, remove {workdir / '.lock'}" if told else ""
        raise UserError(
            f"another trainer is running in {workdir}; wait or choose another folder{stale}"
        ) from error
    except NotImplementedError:
        warning = _no_locks(workdir)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise cannot_write(workdir, error) from error
        warning = _no_locks(workdir)
    try:
        yield warning
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone by now
            held.release(force=True)


def _no_locks(workdir: pathlib.Path) -> str:
    return (
        f"{workdir}: this file system has no file locks, so nothing keeps a second trainer out; "
        f"start no other one there"
    )

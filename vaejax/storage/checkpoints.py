"""Checkpoints of a training state: written beside training, read back, never lost.

A checkpoint is the folder `checkpoints/<step>`, as Orbax writes it: under another name
first, renamed when it is whole, with a hash of every file, so that a flipped byte is noticed.
Nothing that somebody might want is deleted: a folder that stands in the
way of a save is renamed to `damaged-<step>`.

Orbax's own CheckpointManager is not used: its `save` held training up for as long as the
save took (27 ms of 28, 20 small states), it deletes by rules of its own, and each manager
starts threads. One `Checkpointer` in a thread of ours holds it up for the copy alone.
"""

import concurrent.futures
import contextlib
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from vaejax import hosts
from vaejax.errors import UserError
from vaejax.storage import checkpoint_files, files
from vaejax.storage.checkpoint_files import Damaged

TrainState = Any
_CONFIG = "config.json"


class Saver(NamedTuple):
    """What saves the states of one run.

    Attributes:
      save: `(state) -> None`: copies `state` and returns; it is written beside what follows.
        Waits where the save before has not ended, and raises its error (UserError).
      wait: `() -> None`: until nothing is being written; raises the error of the last save.
      saved_step: `() -> int | None`: step of the newest checkpoint this saver has written
        and read back, or found whole; None: none yet.
    """

    save: Callable[[TrainState], None]
    wait: Callable[[], None]
    saved_step: Callable[[], int | None]


@contextlib.contextmanager
def open_saver(
    folder: pathlib.Path, *, keep: int, pool: concurrent.futures.Executor | None = None
) -> Iterator[Saver]:
    """Yields what saves a run's states under `folder`; all is on the disk when it exits.

    An older checkpoint is deleted only when a newer one was written, read back and found
    equal to its state. A step that has a whole checkpoint of the very same state is not
    written again; whatever else has that number, or a higher one, is renamed aside: the
    run did not come from there.

    Of several hosts the first one saves; on the others nothing is written.

    Args:
      folder: the run's checkpoints; made where it is missing, but the run's own folder above
        it must exist. The caller holds the run's lock.
      keep: how many of the newest checkpoints stay.
      pool: threads that write; None: one of its own. Many savers may share one.

    Raises:
      UserError: a save failed (a full disk, a folder that is gone); where the body itself
        raises, its error is kept and the failed save is noted there.
    """
    if not hosts.is_first():
        yield Saver(lambda state: None, lambda: None, lambda: None)
        return
    with contextlib.ExitStack() as stack:
        if pool is None:
            pool = stack.enter_context(
                concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
            )
        saver = _make_saver(folder, keep, pool)
        try:
            yield saver
        except BaseException as error:
            try:
                saver.wait()
            except UserError as failed:
                error.add_note(str(failed))
            raise
        saver.wait()


def _make_saver(folder: pathlib.Path, keep: int, pool: concurrent.futures.Executor) -> Saver:
    run = folder.parent
    # Of a run that is being removed, what saves make anew would be all that is left.
    holding = _CONFIG if (run / _CONFIG).exists() else None
    running: list[concurrent.futures.Future] = []
    saved: list[int] = []

    def wait() -> None:
        while running:
            saved.append(running.pop().result())

    def write(state: TrainState) -> int:
        files.require_folder(run, holding=holding)
        try:
            return _save(folder, state, keep)
        except UserError:
            files.require_folder(run, holding=holding)
            raise

    def save(state: TrainState) -> None:
        wait()
        # A copy: the buffers of the state are donated to the next call of the program.
        host = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
        running.append(pool.submit(write, host))

    return Saver(save, wait, lambda: saved[-1] if saved else None)


def _save(folder: pathlib.Path, state: TrainState, keep: int) -> int:
    """Writes `state`, reads it back, then drops what is too old; returns its step."""
    step = int(state.step)
    path = folder / str(step)
    try:
        files.make_folders(folder, root=folder.parent)
        if not _is_there(path, state):
            _set_aside(folder, at_least=step)
            checkpoint_files.require_room(folder, state)
            checkpoint_files.write(path, state)
            if not _equals(path, state):
                raise Damaged("what was read back differs from what was written")
        _drop_older(folder, step, keep)
    except UserError:
        raise
    except Exception as error:  # orbax and tensorstore wrap OSError in kinds of their own
        raise UserError(
            f"cannot write checkpoint {step} under {folder}: {checkpoint_files.line(error)}; "
            f"earlier checkpoints are untouched: free some space or mend the folder, then run again"
        ) from error
    return step


def _is_there(path: pathlib.Path, state: TrainState) -> bool:
    """Whether `path` is a whole checkpoint of the very same state."""
    try:
        return path.exists() and _equals(path, state)
    except (Damaged, UserError):  # whatever it is, it is no reason not to save
        return False


def _equals(path: pathlib.Path, state: TrainState) -> bool:
    found = checkpoint_files.read(path, state)
    return checkpoint_files.state_sha256(found) == checkpoint_files.state_sha256(state)


def _set_aside(folder: pathlib.Path, *, at_least: int) -> None:
    """Renames checkpoints from this number on: damaged ones that were stepped over."""
    for step in steps(folder):
        if step >= at_least:
            set_aside(folder, step)


def set_aside(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Renames checkpoint `step` to `damaged-<step>`, or the next free name; returns it."""
    target, count = folder / f"damaged-{step}", 1
    while target.exists():
        count += 1
        target = folder / f"damaged-{step}-{count}"
    return (folder / str(step)).rename(target)


def _drop_older(folder: pathlib.Path, newest: int, keep: int) -> None:
    for step in [step for step in steps(folder) if step <= newest][keep:]:
        # Renamed first, so that a kill halfway leaves no half with a checkpoint's name.
        doomed = (folder / str(step)).rename(folder / f".{step}.old")
        shutil.rmtree(doomed, ignore_errors=True)
    for rest in (*folder.glob(".*.old"), *folder.glob("*.orbax-checkpoint-tmp*")):
        shutil.rmtree(rest, ignore_errors=True)  # what a kill left


def steps(folder: pathlib.Path) -> list[int]:
    """Numbers of the checkpoints in `folder`, newest first; whether they are whole is not
    looked at. Raises UserError where the folder cannot be read.
    """
    names = [name for name in _names(folder) if name.isascii() and name.isdecimal()]
    return sorted((int(name) for name in names if name == str(int(name))), reverse=True)


def _names(folder: pathlib.Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror or error}") from error


def restore(folder: pathlib.Path, like: TrainState) -> tuple[TrainState | None, list[str]]:
    """The newest checkpoint that can be read, and one warning for each that is damaged.

    Changes nothing on the disk, so that anybody may read while a run is training: the run
    itself renames what was stepped over, when it saves again.

    Args:
      folder: the run's checkpoints.
      like: a state with the shapes and types to expect (`jax.eval_shape` gives one).

    Returns:
      `(None, [])` where the run has none, and never had: only then may it start from 0.

    Raises:
      UserError: there are checkpoints, all of them damaged; one cannot be read for want of
        permission or for an I/O error; or one belongs to another model.
    """
    damaged, dropped = [], False
    for step in steps(folder):
        path = folder / str(step)
        try:
            state = checkpoint_files.read(path, like)
        except Damaged as error:
            if path.exists():
                damaged.append(f"checkpoint {step} under {folder} is damaged ({error}); skipped")
            else:
                dropped = True  # by a run that is training, while it was being read
            continue
        return jax.tree.map(jax.numpy.asarray, state), damaged
    if dropped:
        return restore(folder, like)
    aside = [name for name in _names(folder) if name.startswith("damaged-")]
    if damaged or aside:
        reasons = "; ".join([*damaged, *(f"{name} was set aside" for name in sorted(aside))])
        raise UserError(
            f"no readable checkpoint is left under {folder} ({reasons}); bring one back, or "
            f"rename or remove {folder} to start over from step 0"
        )
    return None, []

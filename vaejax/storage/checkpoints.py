"""Orbax checkpoints of a training state: newest first, a damaged one is stepped over."""

import pathlib
import shutil
import warnings
from typing import Any

import jax
import numpy as np

from vaejax.errors import UserError

TrainState = Any
_OVERHEAD_BYTES = 2**19  # metadata and indices of one checkpoint


def _manager(folder: pathlib.Path, *, keep: int | None = None):
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    handler = ocp.StandardCheckpointHandler()
    return ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handler)


def _require_room(folder: pathlib.Path, state: TrainState) -> None:
    """Orbax's writer threads print tracebacks on a full disk: better not to start them."""
    needed = _OVERHEAD_BYTES + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"No space left on device: {needed:,} bytes needed, {free:,} free")


def save(folder: pathlib.Path, state: TrainState, *, keep: int) -> None:
    """Writes `state` under its step, whole or not at all, and drops all but `keep`.

    Raises:
      UserError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    import orbax.checkpoint as ocp

    step = int(state.step)
    try:
        _require_room(folder, state)
        with _manager(folder, keep=keep) as manager:
            if step in manager.all_steps():
                return
            manager.save(step, args=ocp.args.StandardSave(jax.tree.map(np.asarray, state)))
    except Exception as error:  # orbax and tensorstore wrap OSError in kinds of their own
        raise UserError(
            f"cannot write checkpoint {step} under {folder}: {_line(error)}; earlier "
            f"checkpoints are untouched: free some space or mend the folder, then run again"
        ) from error


def steps(folder: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints, newest first."""
    if not folder.is_dir():
        return []
    with _manager(folder) as manager:
        return sorted(manager.all_steps(), reverse=True)


def restore(folder: pathlib.Path, like: TrainState) -> tuple[TrainState | None, list[str]]:
    """The newest checkpoint that can be read, and one warning for each that cannot.

    Args:
      folder: the run's checkpoints.
      like: a state with the shapes and types to expect (`jax.eval_shape` gives one).

    Returns:
      `(None, warnings)` where there is none to read.

    Raises:
      UserError: a readable checkpoint belongs to another model.
    """
    damaged = []
    for step in steps(folder):
        try:
            return _restore(folder, step, like), damaged
        except UserError:
            raise
        except Exception as error:  # a damaged file raises whatever its reader raises
            damaged.append(f"checkpoint {step} under {folder} is damaged ({_line(error)}); skipped")
    return None, damaged


def _restore(folder: pathlib.Path, step: int, like: TrainState) -> TrainState:
    import orbax.checkpoint as ocp

    with _manager(folder) as manager, warnings.catch_warnings(action="ignore"):
        metadata = manager.item_metadata(step)
        tree = getattr(metadata, "tree", metadata)
        _check_shapes(folder / str(step), tree, like)
        state = manager.restore(step, args=ocp.args.StandardRestore(like))
    return jax.tree.map(jax.numpy.asarray, state)


def _leaves(tree) -> dict[str, tuple]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(
            str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path
        ): tuple(leaf.shape)
        for path, leaf in flat
    }


def _check_shapes(path: pathlib.Path, found, like: TrainState) -> None:
    if found is None:
        raise ValueError("no metadata")
    ours, theirs = _leaves(like), _leaves(found)
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"{path} is a checkpoint of another model: {name} is {theirs.get(name, 'absent')} "
                f"there and {ours.get(name, 'absent')} in the config"
            )


def discard_after(folder: pathlib.Path, step: int) -> None:
    """Removes checkpoints newer than `step`: damaged ones a resumed run will write again."""
    for newer in steps(folder):
        if newer > step:
            shutil.rmtree(folder / str(newer), ignore_errors=True)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    for reason in ("No space left on device", "File too large", "Permission denied"):
        if reason in text:
            return reason
    return text[:120]

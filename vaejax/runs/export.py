"""A trained run made small: what its numbers can be made again from, in a folder to give away."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import NamedTuple

import jax
from rich.console import Console

from vaejax.errors import UserError
from vaejax.runs import files
from vaejax.runs import subject as subject_lib
from vaejax.runs.subject import Subject
from vaejax.storage import checkpoints
from vaejax.storage import workdir as workdir_lib
from vaejax.training import optimizers, runs
from vaejax.training.step import TrainState

_SPLITS = ("test", "validation", "train")


class Exported(NamedTuple):
    """What an exported run is.

    Attributes:
      step: of its checkpoint.
      splits: of which it holds an evaluation.
      num_bytes: of all its files.
    """

    step: int
    splits: tuple[str, ...]
    num_bytes: int


def export(workdir: pathlib.Path, to: pathlib.Path, *, console: Console) -> Exported:
    """Copies the finished run in `workdir` to the new folder `to`, without Adam's moments.

    The copy holds the config, one checkpoint and the evaluations, and is a run like any other:
    it is evaluated, sampled from, compared and started from with the same numbers. Moments are
    two thirds of a checkpoint and of no use at the end of a run; trained for more epochs the
    copy begins with Adam's state of step 0, and says so.

    Raises:
      UserError: no run, one that is not at its end, an evaluation that cannot be read or is of
        other parameters, or a folder `to` that holds something or cannot be written.
    """
    _require_free(to)
    subject = subject_lib.load(workdir, "test", console=console)
    if not subject.finished:
        raise UserError(
            f"{workdir}: training is not finished, this is step {int(subject.state.step):,}; "
            f"train on before you export it"
        )
    evaluations = _evaluations(subject)
    with _new_folder(to) as folder:
        workdir_lib.claim(folder, subject.config)
        with checkpoints.open_saver(folder / runs.CHECKPOINTS, keep=1) as saver:
            saver.save(_without_moments(subject))
        for split, stored in evaluations.items():
            files.publish(files.path_of(folder, split), stored)
    size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file())
    return Exported(int(subject.state.step), tuple(evaluations), size)


def _require_free(to: pathlib.Path) -> None:
    try:
        if to.exists() and any(to.iterdir()):
            raise UserError(f"--to: {to} is not empty; name a new folder")
    except OSError as error:
        raise UserError(f"--to: {to} cannot be used: {error.strerror or error}") from error


@contextlib.contextmanager
def _new_folder(to: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside `to` that takes its name when all of it is there, and is gone otherwise."""
    to = to.absolute()  # "." has no name of its own
    partial = to.with_name(f".{to.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # what a kill left
        partial.mkdir(parents=True)
        yield partial
        partial.rename(to)
    except OSError as error:
        raise workdir_lib.cannot_write(to, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _without_moments(subject: Subject) -> TrainState:
    state = subject.state
    fresh = optimizers.without_moments(subject.config, state.opt_state, state.params)
    return jax.device_get(state._replace(opt_state=fresh))


def _evaluations(subject: Subject) -> dict[str, files.Stored]:
    """Those of the run's last parameters, by split."""
    found = {}
    sha256 = subject_lib.params_sha256(subject.params)
    for split in _SPLITS:
        path = files.path_of(subject.workdir, split)
        stored = files.read(path)
        if stored is None:
            continue
        if stored.result.protocol.params_sha256 != sha256:
            raise UserError(f"{path} is of other parameters; evaluate the run again first")
        found[split] = stored
    return found

"""Training one run in its folder: the loop for one, with what it says and how it is stopped."""

import contextlib
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator

from rich.console import Console

from vaejax import config as config_lib
from vaejax import consistency, hosts, meshes
from vaejax.config import Config
from vaejax.errors import Stopped, UserError
from vaejax.storage import checkpoints, logging
from vaejax.training import loop, programs, runs
from vaejax.training.standing import Outcome, Run, Surroundings
from vaejax.training.step import TrainState


def train(
    config: Config,
    workdir: pathlib.Path,
    *,
    console: Console,
    layout: meshes.Layout = meshes.BY_ITSELF,
    loggers: tuple[str, ...] = logging.DEFAULT,
) -> TrainState:
    """Trains, or resumes, the run of `config` in `workdir`, and returns its last state.

    The devices of `layout` share its batches; the result does not depend on them. Its numbers
    go to `loggers`, names of `logging.LOGGERS`.

    Raises:
      UserError: bad config or data, a workdir of another config or in use by another
        trainer, a full disk, or a loss that is no longer finite.
      Stopped: SIGTERM or SIGINT came, to any of the hosts; what was trained is saved.
    """
    config = config_lib.validated(config)
    for warning in consistency.warnings(config):
        logging.warn(console, f"config.{warning}")
    with stop_signal() as signal_came:
        outcome = _train(config, workdir, console, signal_came, layout, loggers)
        if outcome.error is not None:
            raise UserError(outcome.error)
        number = int(hosts.largest([signal_came() or 0])[0])
        if number:
            console.print(f"stopped at step {int(outcome.state.step):,}; run again to resume")
            raise Stopped(number)
    return outcome.state


def _train(
    config: Config,
    workdir: pathlib.Path,
    console: Console,
    signal_came: Callable[[], int | None],
    layout: meshes.Layout,
    loggers: tuple[str, ...],
) -> Outcome:
    batch_size = config.training.batch_size
    num_steps = programs.set_up(config).plan.num_steps
    known = checkpoints.steps(workdir / runs.CHECKPOINTS)
    examples = {"done": (known[0] if known else 0) * batch_size, "total": num_steps * batch_size}
    with logging.progress(console, "train", unit="examples", **examples) as show:
        around = Surroundings(
            console=console,
            stopped=lambda: signal_came() or 0,
            report=lambda name, done, text: show(done, text),
            layout=layout,
            loggers=loggers,
        )
        (outcome,) = loop.train_together([Run(workdir.name, workdir, config)], around)
    return outcome


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[], int | None]]:
    """Yields a function that tells which of SIGTERM and SIGINT came first, None before that."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    names = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(name, lambda number, _: came.append(number)) for name in names]
    try:
        yield lambda: came[0] if came else None
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)

"""Where runs stand before and while they are trained: folders claimed, states read, a tally."""

import contextlib
import dataclasses
import pathlib
import resource
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from vaejax import hosts, meshes
from vaejax.config import Config
from vaejax.errors import UserError
from vaejax.storage import checkpoints, files, logging
from vaejax.storage import workdir as workdir_lib
from vaejax.training import memory as memory_lib
from vaejax.training import optimizers, programs, records, runs
from vaejax.training import step as training
from vaejax.training.programs import Group
from vaejax.training.step import TrainState

_FILES_OF_RUN, _FILES_OF_PROCESS = 3, 128  # lock, metrics and TensorBoard; JAX, Orbax, logs
Report = Callable[[str, int, str], None]
"""`(run, examples done, text)`: what the loop says of its progress."""


class Run(NamedTuple):
    """One run: what it is called, where it lives, what it is."""

    name: str
    workdir: pathlib.Path
    config: Config


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
      state: its last state, on the host; None where it could not be had.
      error: why it failed; None: it did not.
      diverged: whether it failed because its numbers are no longer finite.
    """

    state: TrainState | None
    error: str | None = None
    diverged: bool = False


class Surroundings(NamedTuple):
    """Where the loop speaks, and what may stop it.

    Attributes:
      console: where warnings, and a split for want of memory, are said.
      stopped: tells when to save and return; a number that is not 0 says why.
      report: called for every run after every scan.
      memory: bytes of one device to use; None: what is sensible.
      layout: the mesh of devices that is asked for.
      loggers: where every run's numbers go, of `logging.LOGGERS`.
    """

    console: Console
    stopped: Callable[[], int]
    report: Report
    memory: int | None = None
    layout: meshes.Layout = meshes.BY_ITSELF
    loggers: tuple[str, ...] = logging.DEFAULT


@dataclasses.dataclass
class Tally:
    """Where each run stands, on the host; [M] each, the padding included.

    Attributes:
      step, stale: of its state.
      saved: step of its newest checkpoint.
      active: whether it is still trained.
      seconds: its share of the time spent.
      errors: by index, why a run diverged.
    """

    step: np.ndarray
    stale: np.ndarray
    saved: np.ndarray
    active: np.ndarray
    seconds: np.ndarray
    errors: dict[int, str]


def claim(members: Sequence[Run], stack: contextlib.ExitStack, console: Console) -> dict[str, str]:
    """Locks every run's folder, on the first host; returns why some cannot be had."""
    return hosts.from_first(lambda: _claim(members, stack, console))


def _claim(members: Sequence[Run], stack: contextlib.ExitStack, console: Console) -> dict[str, str]:
    refused = {}
    for run in members:
        try:
            warning = stack.enter_context(workdir_lib.lock(run.workdir))
            if warning:
                logging.warn(console, warning)
            workdir_lib.claim(run.workdir, run.config)
            files.require_writable(run.workdir, (workdir_lib.METRICS, "figures/samples.png"))
        except UserError as error:
            refused[run.name] = str(error)
    return refused


def forget_unstarted(members: Sequence[Run]) -> None:
    """Frees the folders of runs that never began to train: another config may go there."""
    for run in members if hosts.is_first() else ():
        if checkpoints.steps(run.workdir / runs.CHECKPOINTS):
            continue
        if (run.workdir / workdir_lib.METRICS).exists():
            continue
        with contextlib.suppress(OSError):
            (run.workdir / workdir_lib.CONFIG).unlink(missing_ok=True)
            (run.workdir / "figures").rmdir()
            (run.workdir / ".lock").unlink(missing_ok=True)
            run.workdir.rmdir()


def first_states(
    group: Group, configs: Config, members: Sequence[Run], console: Console
) -> list[TrainState]:
    """Of each run the newest readable checkpoint, else the initial state; on the host."""
    initial = programs.initial_states(group, configs)
    spec, states = group.setup.data.spec, []
    for run, state in zip(members, initial, strict=True):
        like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), a.dtype), state)
        found = runs.restore(run.workdir, like, console=console)
        if found is None:
            start = runs.start_params(run.config, spec, console=console)
            found = training.started_from(state, start)
        elif len(members) == 1:
            console.print(f"resuming from step {int(found.step):,}")
        states.append(jax.device_get(found))
    return states


def warn_of_lost_moments(
    members: Sequence[Run], states: Sequence[TrainState], console: Console
) -> None:
    """Says which runs go on without Adam's moments: those that were exported."""
    for run, state in zip(members, states, strict=True):
        updates = optimizers.num_updates(state.opt_state)
        if int(state.step) > int(state.skipped or 0) and updates == 0:
            logging.warn(
                console,
                f"{run.workdir}: its checkpoint holds no moments of Adam (it was exported): they "
                f"begin at step {int(state.step):,} as at step 0",
            )


def make_tally(group: Group, members: Sequence[Run], states: Sequence[TrainState]) -> Tally:
    """Where runs that come from `states` stand before they are trained."""
    padding = [0] * (group.rows - len(states))
    step = np.array([int(state.step) for state in states] + padding)
    stale = np.array([0 if s.best is None else int(s.best.stale) for s in states] + padding)
    active, seconds = np.zeros(group.rows, bool), np.zeros(group.rows)
    for index, run in enumerate(members):
        active[index] = not finished(group, step[index], stale[index])
        if hosts.is_first():
            seconds[index] = records.seconds_spent(run.workdir, int(step[index]))
    return Tally(step, stale, step.copy(), active, seconds, {})


def finished(group: Group, step: int, stale: int) -> bool:
    """Whether a run of the group is at its end."""
    setup = group.setup
    return training.is_finished(setup.config, setup.plan, step=int(step), stale=int(stale))


def runs_with_open_files(count: int, console: Console) -> int:
    """How many of `count` runs may keep their files open; says so where it is not all of them.

    The limit is raised as far as the system lets a process raise its own.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count * _FILES_OF_RUN + _FILES_OF_PROCESS
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return count
    if hard == resource.RLIM_INFINITY or hard > soft:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    size = max(1, (soft - _FILES_OF_PROCESS) // _FILES_OF_RUN)
    if size >= count:
        return count
    console.print(
        f"{count} members need {wanted} open files, {soft} may be open (ulimit -n): training "
        f"{size} at a time",
        soft_wrap=True,
    )
    return size


def runs_that_fit(group: Group, program: Any, around: Surroundings) -> int:
    """How many runs to train at a time; says so where it is not all of them."""
    count, needed = len(group.configs), memory_lib.program_bytes(program)
    sharers = group.mesh.size // jax.process_count()
    limit = memory_lib.device_bytes(jax.local_devices()[0], sharers=sharers)
    if count == 1:
        memory_lib.check_training(program, group.setup.config, limit=limit)
        return 1
    limit = around.memory or limit
    if needed <= limit:
        return count
    size = min(max(1, int(count * limit / needed)), count - 1)
    around.console.print(
        f"{count} members need {needed / 2**30:.2g} GiB of a device, {limit / 2**30:.2g} may "
        f"be used: training {size} at a time",
        soft_wrap=True,
    )
    return size

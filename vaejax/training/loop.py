"""The one training loop, with all its I/O: for a run alone, and for runs trained as one program.

Each run keeps the folder, files and results of a run of its own. One that is done, or has
diverged, is frozen: the others cannot change it, nor it them. The end state does not depend on
how often a run was killed and started again.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from vaejax.config import Config
from vaejax.errors import UserError
from vaejax.evaluation import validation
from vaejax.storage import checkpoints, logging
from vaejax.storage.checkpoints import Saver
from vaejax.training import programs, records, runs, standing
from vaejax.training import step as training
from vaejax.training.programs import Group
from vaejax.training.standing import Outcome, Report, Run, Surroundings, Tally
from vaejax.training.step import TrainState


def train_together(members: Sequence[Run], around: Surroundings) -> list[Outcome]:
    """Trains, or resumes, runs of one static config as one program.

    Where they do not fit the memory, or the limit on open files, together: some at a time.

    Raises:
      UserError: bad data, a full disk, a single run that does not fit the memory.
    """
    begun = time.monotonic()
    most = standing.runs_with_open_files(len(members), around.console)
    if most < len(members):
        return _in_parts(members, around, most)
    setup = programs.set_up(members[0].config)
    with contextlib.ExitStack() as stack:
        refused = standing.claim(members, stack, around.console)
        kept = [run for run in members if run.name not in refused]
        outcomes = {name: Outcome(None, error) for name, error in refused.items()}
        if kept:
            group = programs.make_group([run.config for run in kept], setup)
            try:
                found = _train_group(group, kept, around, stack, begun)
            except UserError:
                standing.forget_unstarted(kept)
                raise
            if isinstance(found, int):
                stack.close()
                return _in_parts(members, around, found)
            outcomes |= {run.name: outcome for run, outcome in zip(kept, found, strict=True)}
    return [outcomes[run.name] for run in members]


def _in_parts(members: Sequence[Run], around: Surroundings, size: int) -> list[Outcome]:
    parts = [members[first : first + size] for first in range(0, len(members), size)]
    return [outcome for part in parts for outcome in train_together(part, around)]


def _train_group(
    group: Group,
    members: Sequence[Run],
    around: Surroundings,
    stack: contextlib.ExitStack,
    begun: float,
) -> list[Outcome] | int:
    """What became of the runs, or how many of them fit the memory at a time."""
    configs = programs.stacked_configs(group)
    states = standing.first_states(group, configs, members, around.console)
    tally = standing.make_tally(group, members, states)
    if not tally.active.any():
        for run, state in zip(members, states, strict=True):
            around.console.print(
                f"{run.workdir}: already finished at step {int(state.step):,}",
                soft_wrap=True,
                markup=False,
            )
        return [Outcome(state) for state in states]
    images = programs.place(group, group.setup.data.images, shared=True)
    stacked = programs.stack(group, states)
    program = programs.compile_call(group, configs, stacked, images)
    size = standing.runs_that_fit(group, program, around)
    if size < len(members):
        return size
    stepper = _Stepper(program, configs, images)
    files = _open_files(group, members, tally, stack)
    stacked = _loop(group, members, stepper, stacked, tally, files, around, begun)
    last = jax.device_get(stacked)
    return [
        Outcome(programs.pick(group, last, i), tally.errors.get(i), i in tally.errors)
        for i in range(len(members))
    ]


class _Stepper(NamedTuple):
    """A compiled program with the arguments that stay."""

    program: Callable
    configs: Config
    images: Array


class _Files(NamedTuple):
    """Open files of the runs that are trained, by index."""

    writers: dict[int, logging.MetricsWriter]
    savers: dict[int, Saver]


def _open_files(
    group: Group, members: Sequence[Run], tally: Tally, stack: contextlib.ExitStack
) -> _Files:
    pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="checkpoints"))
    writers, savers = {}, {}
    for index in map(int, np.flatnonzero(tally.active)):
        run = members[index]
        keep = run.config.training.checkpoints_to_keep
        folder = run.workdir / runs.CHECKPOINTS
        savers[index] = stack.enter_context(checkpoints.open_saver(folder, keep=keep, pool=pool))
        step = int(tally.step[index])
        writers[index] = stack.enter_context(logging.metrics_writer(run.workdir, step=step))
    return _Files(writers, savers)


def _loop(
    group: Group,
    members: Sequence[Run],
    stepper: _Stepper,
    states: TrainState,
    tally: Tally,
    files: _Files,
    around: Surroundings,
    begun: float,
) -> TrainState:
    """Scans until no run is active; every run's rows, pictures and checkpoints."""
    judge, saved_at = _make_judge(group), time.monotonic()
    pause = group.setup.config.training.checkpoint_seconds
    while tally.active.any() and not around.stopped():
        was_active = tally.active.copy()
        active = was_active[0] if group.mesh is None else programs.place(group, was_active)
        states, metrics = stepper.program(stepper.configs, states, stepper.images, active)
        tally.step[tally.active] += group.setup.plan.steps_per_call
        rows = _rows(group, members, tally, jax.device_get(metrics))
        due = _due(group, tally, rows)
        states = judge(states, tally, rows, due)
        _write_pictures(group, tally, states, due, files)
        tally.seconds[was_active] += (time.monotonic() - begun) / was_active.sum()
        begun = time.monotonic()
        _write_rows(members, tally, rows, files, around.report)
        ended = [i for i in rows if standing.finished(group, tally.step[i], tally.stale[i])]
        tally.active[ended] = False
        if time.monotonic() - saved_at >= pause:
            saving = time.monotonic()
            _save(group, tally, states, files, [*rows])
            saved_at = time.monotonic()
            # Saving many runs may take a twentieth of the time, unless each call is wanted.
            pause = pause and max(pause, 20 * (saved_at - saving))
        elif ended:
            _save(group, tally, states, files, ended)
        for index in ended:
            files.savers[index].wait()
            state = programs.pick(group, jax.device_get(states), index)
            records.write_training_figures(group.setup, members[index].workdir, state)
    _save(group, tally, states, files, np.flatnonzero(tally.active))
    return states


def _make_judge(group: Group) -> Callable[..., TrainState]:
    """A function that validates runs that are due: into their rows, their best, the tally."""
    setup = group.setup
    if setup.data.validation is None:
        return lambda states, tally, rows, due: states
    validate = validation.make(
        setup.config,
        setup.model,
        setup.data.validation.x,
        num_runs=group.rows,
        stacked=bool(group.mesh),
    )
    update_best = programs.make_best_updater(group)

    def judge(states: TrainState, tally: Tally, rows: dict[int, dict], due: np.ndarray):
        if not due.any():
            return states
        values = validate(training.averaged_params(states))
        for index in np.flatnonzero(due):
            for name, value in values.items():
                rows[index][name] = float(programs.per_run(group, value)[index])
        if states.best is None:
            return states
        scores = np.asarray(values["validation/iwae"], np.float32)
        mask = due[0] if group.mesh is None else due
        states = update_best(states, programs.place(group, scores), programs.place(group, mask))
        tally.stale = programs.per_run(group, states.best.stale).copy()
        return states

    return judge


def _write_rows(
    members: Sequence[Run],
    tally: Tally,
    rows: dict[int, dict],
    files: _Files,
    report: Report,
) -> None:
    """Every active run's row into its own metrics, and its progress to the reader."""
    for index, row in rows.items():
        row["seconds"] = round(tally.seconds[index], 3)
        files.writers[index].scalars(int(tally.step[index]), row)
        shown = "validation/iwae" if "validation/iwae" in row else "train/elbo"
        done = int(tally.step[index]) * members[index].config.training.batch_size
        report(members[index].name, done, f"{shown} {row[shown]:.2f}")


def _rows(
    group: Group, members: Sequence[Run], tally: Tally, metrics: training.Metrics
) -> dict[int, dict[str, float]]:
    """Each active run's means over the scan; one that diverged is frozen."""
    rows = {}
    for index in map(int, np.flatnonzero(tally.active)):
        own = programs.pick(group, metrics, index)
        step = int(tally.step[index])
        problem = records.divergence(own, step=step)
        if problem is None:
            rows[index] = records.metrics_row(group.setup.plan, own, step=step)
            continue
        tally.active[index] = False
        kept = int(tally.saved[index])
        last = f"the last good checkpoint is of step {kept}" if kept else "no checkpoint yet"
        tally.errors[index] = f"{problem} ({last} in {members[index].workdir})"
    return rows


def _due(group: Group, tally: Tally, rows: dict[int, dict]) -> np.ndarray:
    """Which runs are validated now, [M]; none where there are no validation images."""
    due = np.zeros(group.rows, bool)
    for index in rows if group.setup.data.validation is not None else ():
        due[index] = records.validation_due(group.setup, int(tally.step[index]))
    return due


def _write_pictures(
    group: Group, tally: Tally, states: TrainState, due: np.ndarray, files: _Files
) -> None:
    wanted = [
        int(index)
        for index in np.flatnonzero(due)
        if records.pictures_due(group.setup, int(tally.step[index]))
    ]
    host = jax.device_get(states) if wanted else None
    for index in wanted:
        state = programs.pick(group, host, index)
        records.write_pictures(group.setup, state, files.writers[index])


def _save(
    group: Group, tally: Tally, states: TrainState, files: _Files, indices: Sequence[int]
) -> None:
    host = jax.device_get(states) if len(indices) else None
    for index in map(int, indices):
        files.savers[index].save(programs.pick(group, host, index))
        tally.saved[index] = tally.step[index]
